import pytest

from dsa_kernels.aot.table import compile_table
from dsa_kernels.fp8 import variants as fp8_variants
from dsa_kernels.indexer import variants
from dsa_kernels.targets import VERIFIED_TARGETS


@pytest.mark.parametrize("capability", VERIFIED_TARGETS)
def test_variants_cover_every_kernel_and_argument(capability):
    found = variants(capability) + fp8_variants(capability)
    assert {variant.op for variant in found} >= {"fp8_mqa_logits", "fp8_paged_mqa_logits", "topk_indices"}
    assert len({(variant.op, variant.name) for variant in found}) == len(found)
    for variant in found:
        assert set(variant.signature) == set(variant.kernel.arg_names)
        assert variant.divisible_by_16 <= set(variant.signature)


@pytest.mark.slow
@pytest.mark.parametrize("op", ["fp8_mqa_logits", "fp8_paged_mqa_logits"])
def test_the_logits_kernels_pass_the_gates_on_sm80(op):
    rows = compile_table(80, jobs=2, op=op)
    assert rows
    assert [(row.variant, row.reason) for row in rows if not row.ok] == []
