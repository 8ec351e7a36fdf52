import os
import subprocess
import sys

import pytest

from dsa_kernels.targets import VERIFIED_TARGETS
from tests.dsa_kernels.aot.tables import compiled_rows

# In a process of its own: a kernel defined under the interpreter does not say what its arguments specialise.
COVERAGE = """
from dsa_kernels.fp8 import variants as fp8_variants
from dsa_kernels.indexer import variants

for capability in CAPABILITIES:
    found = variants(capability) + fp8_variants(capability)
    assert {variant.op for variant in found} >= {"fp8_mqa_logits", "fp8_paged_mqa_logits", "topk_indices"}
    assert len({(variant.op, variant.name) for variant in found}) == len(found)
    for variant in found:
        assert set(variant.signature) == set(variant.kernel.arg_names), variant.name
        assert variant.divisible_by_16 <= set(variant.signature), variant.name
"""


def test_variants_cover_every_kernel_and_argument():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    code = COVERAGE.replace("CAPABILITIES", repr(tuple(VERIFIED_TARGETS)))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("op", ["fp8_mqa_logits", "fp8_paged_mqa_logits"])
def test_the_logits_kernels_pass_the_gates_on_sm80(op, once):
    rows = [row for row in compiled_rows(once, 80) if row.op == op]
    assert rows
    assert [(row.variant, row.reason) for row in rows if not row.ok] == []
