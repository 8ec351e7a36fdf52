"""The gate of mHC's product passes on the real op and catches a broken one."""

import pytest
import torch

from dsa_kernels.bench import GateError
from dsa_kernels.bench import mhc_cases as cases


def small(device):
    torch.manual_seed(0)
    return cases.prenorm_case(5, 512, 2, {"tokens": 5}, device=device)


def test_the_real_op_and_its_peers_pass_the_gate(device):
    case = small(device)
    assert case.check() <= case.limit
    assert set(case.peers) == {"PyTorch", "batch-invariant"}
    assert all(peer.check() <= case.limit for peer in case.peers.values())
    assert case.shape == {"tokens": 5, "splits": 2}
    for call in case.calls:
        call()


@pytest.mark.parametrize("fault", ["rounded matrix", "lost split", "wrong squares"])
def test_a_broken_op_fails_its_gate(device, monkeypatch, fault):
    case = small(device)
    op = cases.mhc.hc_prenorm_gemm

    def broken(x, fn, out, sqrsum, n_splits, batch_invariant):
        assert not batch_invariant
        op(x, fn.bfloat16().float() if fault == "rounded matrix" else fn, out, sqrsum, n_splits)
        if fault == "lost split":
            out[-1] = 0
        if fault == "wrong squares":
            sqrsum *= 1.001

    monkeypatch.setattr(cases.mhc, "hc_prenorm_gemm", broken)
    with pytest.raises(GateError):
        case.check()


def test_the_work_is_what_must_move():
    work = cases.prenorm_work(8192, 16_384, 1)
    assert work.moved_bytes == 8192 * 16_384 * 2 + 24 * 16_384 * 4 + 8192 * 25 * 4
    assert work.flop == 2 * 8192 * 16_384 * 24
