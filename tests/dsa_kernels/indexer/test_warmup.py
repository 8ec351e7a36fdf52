import os
import subprocess
import sys

import pytest
import torch

from dsa_kernels.indexer import (
    fp8_mqa_logits,
    fp8_paged_mqa_logits,
    indexer_topk,
    topk_indices,
    warmup_indexer,
)
from tests.dsa_kernels.indexer.cases import paged_case, ragged_case

#: Compiling after the warm-up is what graph capture would reject: run in a process of its own, nothing compiled yet.
SCRIPT = "import tests.dsa_kernels.indexer.test_warmup as t; t.check_nothing_compiles()"


def kernel_count() -> int:
    """Specialisations that this process has compiled of the indexer's kernels."""
    from dsa_kernels.indexer import logits_kernels, select_kernels, thin_kernels

    kernels = [
        value
        for module in (logits_kernels, select_kernels, thin_kernels)
        for value in vars(module).values()
        if hasattr(value, "params")
    ]
    return sum(len(cache[0]) for kernel in kernels for cache in kernel.device_caches.values())


def check_nothing_compiles() -> None:
    """Warm up, then meet serving shapes and unaligned slices."""
    device = torch.device("cuda")
    warmup_indexer(32, topk=64, page_size=16, next_n=2, device=device)
    compiled = kernel_count()
    assert compiled > 0
    for rows, keys in ((1, 16), (17, 333), (300, 5000)):
        q, kv, weights, starts, ends = ragged_case(rows, 32, keys, "causal", device)
        indexer_topk(q, kv, weights, starts, ends, 64, budget_bytes=7 * 5 * keys)
        fp8_mqa_logits(q[rows // 3 :], kv, weights[rows // 3 :], starts[rows // 3 :], ends[rows // 3 :], True, 77)
    for rows, width in ((1, 1), (3, 70_001), (400, 20_000), (1, 140_001)):
        logits = torch.randn(rows + 1, width, device=device)[1:]
        topk_indices(logits, None, torch.full((rows + 1,), width, dtype=torch.int32, device=device)[1:], 33)
    for next_n in (1, 2):
        q, cache, weights, lengths, tables = paged_case(3, next_n, 32, 16, 200, device, per_row=True)
        fp8_paged_mqa_logits(q, cache, weights, lengths, tables[:, :11], None, 190)
        fp8_paged_mqa_logits(q[1:], cache, weights[next_n:], lengths[1:], tables[1:], None, 190)
    assert kernel_count() == compiled, f"{kernel_count() - compiled} specialisations compiled after the warm-up"


@pytest.mark.gpu
def test_nothing_compiles_after_the_warm_up():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(["kernels", "."])},
    )
    assert done.returncode == 0, done.stderr


def test_the_warm_up_runs_everywhere(device):
    """Under the interpreter nothing compiles: that the calls are valid is what can be seen."""
    warmup_indexer(16, topk=8, page_size=16, device=device)
