"""The gates of the two-cache cases pass on the real op and its peers, and catch a broken one."""

import pytest
import torch

from dsa_kernels.bench import GateError
from dsa_kernels.bench import mla_two_cases as cases


def small(device):
    torch.manual_seed(0)
    return cases.two_cache_case(3, 4, (9, 20), (64, 2), (64, 128), 2**10, {"tokens": 3}, device)


def test_the_op_and_its_peers_pass_their_gates(device):
    case = small(device)
    assert case.check() <= case.limit
    assert set(case.peers) == {"one cache", "two calls"}
    for peer in case.peers.values():
        peer.check()
        assert len(peer.calls) == len(case.calls)
    # 29 rows of 1,024 bytes, q and out of 4 heads, and indices, for 3 tokens.
    assert case.work.moved_bytes == 3 * (29 * 1024 + 2 * 4 * 1024 + 29 * 4)
    case.calls[-1]()


def no_second_cache(op):
    return lambda *given, **named: op(*given, **{k: v for k, v in named.items() if not k.startswith("extra_")})


def no_sink(op):
    return lambda *given, **named: op(*given, **{k: v for k, v in named.items() if k != "attn_sink"})


def nan_in_a_token_that_is_not_compared(op):
    def attend(*given, **named):
        out, lse = op(*given, **named)
        out[1, 0, 5] = float("nan")
        return out, lse

    return attend


@pytest.mark.parametrize("fault", [no_second_cache, no_sink, nan_in_a_token_that_is_not_compared])
def test_a_broken_op_fails_its_gate(device, monkeypatch, fault):
    case = small(device)
    monkeypatch.setattr(cases, "CHECKED_TOKENS", 2)
    monkeypatch.setattr(cases, "sparse_mla_with_kvcache", fault(cases.sparse_mla_with_kvcache))
    with pytest.raises(GateError):
        case.check()
