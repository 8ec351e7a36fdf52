"""What is refused before any worker starts, on stand-ins for vLLM's configuration objects."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from dsa_doctor.plugin import report, serving
from dsa_doctor.plugin.state import STATE
from dsa_doctor.verdict.schema import LAYER_NUMBERS, Finding, Layer, Software, Verdict
from tests.dsa_doctor.plugin.tiny_models import tiny_config, tiny_v4_config


def server(
    *, changes: dict[str, Any] | None = None, kv_cache_dtype: str = "auto", attention: Any = None, **parallel: int
) -> Any:
    config = tiny_config(**(changes or {}))
    return SimpleNamespace(
        model_config=SimpleNamespace(
            hf_config=SimpleNamespace(to_dict=lambda: config),
            hf_text_config=SimpleNamespace(**config),
            served_model_name=None,
            model="tiny",
        ),
        cache_config=SimpleNamespace(cache_dtype=kv_cache_dtype),
        attention_config=attention or SimpleNamespace(backend=None),
        parallel_config=SimpleNamespace(**parallel),
    )


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "bfloat16", "float16", "fp8_ds_mla"])
def test_what_is_served(kv_cache_dtype: str) -> None:
    assert serving.refusals(server(kv_cache_dtype=kv_cache_dtype)) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (server(decode_context_parallel_size=4), "--decode-context-parallel-size 4"),
        (server(prefill_context_parallel_size=2), "--prefill-context-parallel-size 2"),
        (server(attention=SimpleNamespace(use_fp4_indexer_cache=True)), "fp4 indexer cache"),
        (server(attention=SimpleNamespace(indexer_kv_dtype="mxfp4")), "fp4 indexer cache"),
        (server(attention=SimpleNamespace(resolve_indexer_kv_dtype=lambda default: "mxfp4")), "fp4 indexer cache"),
        (server(attention=SimpleNamespace(hisparse_config=object())), "HiSparse"),
        (server(changes={"index_topk": 2051}), "index_topk is 2051"),
        (server(changes={"kv_lora_rank": 256}), "256+64"),
        (server(kv_cache_dtype="fp8"), "no KV cache of dtype fp8"),
        (server(kv_cache_dtype="fp8_e5m2"), "accepted: auto, bfloat16, float16, fp8_ds_mla"),
        (server(changes={"num_hidden_layers": "three"}), "num_hidden_layers"),
    ],
)
def test_what_is_refused(config: Any, words: str) -> None:
    (reason,) = serving.refusals(config)
    assert words in reason


def v4_server(architecture: str = "DeepseekV4ForCausalLM", *, dtype: str = "bfloat16", **options: Any) -> Any:
    config = tiny_v4_config(architecture, **options.pop("changes", {}))
    attention = SimpleNamespace(
        backend=options.pop("backend", None), indexer_sparse_logits=options.pop("sparse", False)
    )
    return SimpleNamespace(
        model_config=SimpleNamespace(
            hf_config=SimpleNamespace(**config, to_dict=lambda: config),
            hf_text_config=SimpleNamespace(**config),
            served_model_name=None,
            model="tiny",
            dtype=f"torch.{dtype}",
        ),
        cache_config=SimpleNamespace(cache_dtype=options.pop("kv_cache_dtype", "auto")),
        kernel_config=SimpleNamespace(moe_backend=options.pop("moe_backend", "auto")),
        attention_config=attention,
        parallel_config=SimpleNamespace(tensor_parallel_size=options.pop("tensor", 1)),
    )


@pytest.mark.parametrize("options", [{}, {"kv_cache_dtype": "bfloat16"}, {"tensor": 4}, {"moe_backend": "marlin"}])
def test_deepseek_v4_is_served(options: dict[str, Any]) -> None:
    assert serving.refusals(v4_server(**options)) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float16"}, "--dtype float16: its rows and its compressor are bfloat16; accepted: bfloat16"),
        ({"kv_cache_dtype": "fp8_ds_mla"}, "no KV cache of dtype fp8_ds_mla for tiny; accepted: auto, bfloat16"),
        (
            {"tensor": 8},
            "--tensor-parallel-size 8: the output projection's 4 groups cannot be shared out; accepted: 4, 2, 1",
        ),
        ({"moe_backend": "deep_gemm_mega_moe"}, "--moe-backend deep_gemm_mega_moe"),
        ({"moe_backend": "flashinfer_moe_ep_cutedsl"}, "--moe-backend flashinfer_moe_ep_cutedsl"),
        ({"sparse": True}, "indexer_sparse_logits was asked for"),
        ({"architecture": "DeepseekV4ForConditionalGeneration"}, "the text model alone is served"),
        ({"changes": {"index_head_dim": 64}}, "512 and 64"),
    ],
)
def test_what_of_deepseek_v4_is_refused(options: dict[str, Any], words: str) -> None:
    (reason,) = serving.refusals(v4_server(**options))
    assert words in reason


def test_a_family_whose_targets_moved_is_refused_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STATE, "moved", {"glm5_next": ("vllm.models.glm5next:x: missing",)})
    (reason,) = serving.refusals(server(changes={"model_type": "glm5_next"}))
    assert "1 of its patch targets for tiny moved in this vLLM; vllm.models.glm5next:x: missing" in reason
    assert serving.refusals(server()) == []


def test_every_reason_is_given() -> None:
    config = server(kv_cache_dtype="fp8", decode_context_parallel_size=2, prefill_context_parallel_size=2)
    assert len(serving.refusals(config)) == 3


def test_kv_cache_dtype_of_other_models_is_left_alone() -> None:
    resolve = serving.with_served_kv_cache_dtype(lambda asked, model_config: "fp8_e4m3" if asked == "auto" else asked)
    dsa = server().model_config
    other = SimpleNamespace(hf_text_config=SimpleNamespace())
    assert resolve("auto", other) == "fp8_e4m3"
    assert resolve("auto", dsa) == "bfloat16"
    assert resolve("fp8", dsa) == "fp8"


def verdict(state: Any, *findings: Finding) -> Verdict:
    layers = tuple(
        Layer(
            number=number,
            layer=name,
            state=state if name == "csrc" else "plugin",
            reason=f"why {name}",
            finding_ids=tuple(found.id for found in findings),
        )
        for name, number in LAYER_NUMBERS.items()
    )
    return Verdict(
        dsa_doctor_version="1",
        target=None,
        model=None,
        software=Software(dsa_doctor="1"),
        layers=layers,
        findings=findings,
        backends=(),
        exit_code=0,
    )


def test_a_lacking_extension_is_refused_with_its_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Finding(id="DSA101", layer="csrc", status="fail", summary="no code for sm80", remedy=("reinstall",))
    monkeypatch.setattr(STATE, "judged", [])
    monkeypatch.setattr(report, "verdict_of", lambda config: verdict("unresolved", found))
    with pytest.raises(ValueError, match="DSA101: no code for sm80\n    reinstall"):
        report.refuse_or_log(server())


def test_the_block_is_logged_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(STATE, "judged", [])
    monkeypatch.setattr(report, "verdict_of", lambda config: verdict("native"))
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="vllm.dsa_doctor"):
        report.refuse_or_log(server())
        report.refuse_or_log(server())
    (line,) = caplog.messages
    assert "layer 1 csrc: native. why csrc" in line
    assert "layer 3 indexer: plugin. why indexer" in line
    assert "backend: TRITON_MLA_SPARSE, KV cache auto" in line


def test_a_report_that_breaks_does_not_stop_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(config: Any) -> Verdict:
        raise OSError("no such file")

    monkeypatch.setattr(STATE, "judged", [])
    monkeypatch.setattr(report, "verdict_of", broken)
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="vllm.dsa_doctor"):
        report.refuse_or_log(server())
    assert "could not be judged (OSError: no such file)" in caplog.text
