"""The kernels take what the vLLM plugin hands them: the plugin's own numerical tests, on the kernels."""

from typing import Any

import pytest
import torch

from dsa_doctor.plugin import indices, ops
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
