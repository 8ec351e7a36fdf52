"""The kernels take what the vLLM plugin hands them: the plugin's own numerical tests, on the kernels."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dsa_doctor.plugin import indices, ops, warmup
from dsa_doctor.plugin.families import deepseek_v4_warmup
from tests.dsa_doctor.plugin.test_stand_ins import (  # noqa: F401 - fixtures and tests to run here
    keys,
    query,
    test_a_chunk_behind_other_requests_selects_relative_to_its_start,
    test_attention_over_pages_that_lie_apart,
    test_draft_tokens_see_one_more_key_each,
    test_padded_batches_bring_too_few_weights,
    test_prefill_and_decode_select_the_same_tokens,
)


@pytest.fixture(autouse=True)
def _on_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    to_cache_rows = indices.to_cache_rows

    def by_reference(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        # The other implementation is a kernel of vLLM, which need not be installed.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops, "uses_references", lambda device_type: True)
            return to_cache_rows(*arguments)

    monkeypatch.setattr(indices, "to_cache_rows", by_reference)
    monkeypatch.setattr(ops, "uses_references", lambda device_type: False)


if torch.cuda.is_available():
    # The tests' tensors are made on the CPU.
    pytest.skip("under Triton's interpreter only", allow_module_level=True)


@pytest.mark.parametrize("page", [64, 640])
def test_the_warm_up_of_glm_5_3_flash_runs(monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """Under the interpreter nothing compiles: that every call is valid, and that pooled ops are among them, is seen."""
    import dsa_kernels.indexer
    import dsa_kernels.kpool

    met: list[tuple[Any, ...]] = []
    for module, name in ((dsa_kernels.indexer, "warmup_indexer"), (dsa_kernels.kpool, "warmup_kpool")):
        run = getattr(module, name)

        def noted(*given: Any, run: Any = run, name: str = name, **named: Any) -> None:
            met.append((name, *given, named.get("page_size"), named.get("next_n")))
            run(*given, **named)

        monkeypatch.setattr(module, name, noted)
    for one in (warmup._compile_attention, warmup._compile_indexer):
        one.cache_clear()
    text = SimpleNamespace(index_n_heads=16, index_topk=128, index_kpool=4, kv_lora_rank=512, qk_rope_head_dim=0)
    server = SimpleNamespace(
        model_config=SimpleNamespace(
            hf_text_config=text, dtype=torch.bfloat16, max_model_len=2048, get_num_attention_heads=lambda parallel: 8
        ),
        parallel_config=None,
        cache_config=SimpleNamespace(cache_dtype="auto"),
        num_speculative_tokens=1,
    )
    cpu = torch.device("cpu")
    warmup.compile_kernels(server, SimpleNamespace(block_size=page), 256, cpu)
    assert [one[:3] for one in met if one[0] == "warmup_indexer"] == [("warmup_indexer", 32, 32)] * 3, "padded heads"
    assert [one[3:] for one in met if one[0] == "warmup_indexer"] == [(16, 2), (32, 2), (64, 2)]
    assert met[-1][:3] == ("warmup_kpool", 4, cpu)


def test_the_warm_up_of_deepseek_v4_asks_no_block_size_of_the_server() -> None:
    """vLLM has put the block size of its smallest cache there by the time that the builders are made."""
    deepseek_v4_warmup._compile.cache_clear()
    config = SimpleNamespace(o_groups=4, index_n_heads=64, index_topk=128)
    server = SimpleNamespace(
        model_config=SimpleNamespace(hf_config=config, get_num_attention_heads=lambda parallel: 8),
        parallel_config=SimpleNamespace(tensor_parallel_size=1),
        cache_config=SimpleNamespace(block_size=4),
        num_speculative_tokens=0,
    )
    deepseek_v4_warmup.compile_kernels(server, 64, 256, torch.device("cpu"))
    assert deepseek_v4_warmup._compile.cache_info().currsize == 1
