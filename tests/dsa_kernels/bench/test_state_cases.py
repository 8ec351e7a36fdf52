"""Every gate passes on the real op and catches a broken one."""

import pytest
import torch

from dsa_kernels.bench import GateError
from dsa_kernels.bench import state_cases as cases


def small(device):
    yield cases.rotate_case(40, {"rows": 40}, device)
    yield cases.pool_case(40, {"tokens": 40}, device)
    yield cases.tail_case(5, {"requests": 5}, device)
    yield cases.compress_case(cases.compress_inputs(24, 4, True, device), {"tokens": 24})
    yield cases.inverse_rope_case(5, 4, 2, {"tokens": 5}, device)
    yield cases.index_key_case(12, 2, {"tokens": 12}, device)
    yield cases.engram_case(5, 3, 40, False, {"tokens": 5}, device)


FAULTS = [
    ("kpool", "hadamard_quantize_fp8", lambda op: lambda x: op(x.flip(1))),
    ("kpool", "kpool_compress_and_cache", lambda op: lambda cache, key, *rest: op(cache, key.flip(1), *rest)),
    ("kpool", "kpool_decode_update", lambda op: lambda *given: op(*given[:3], given[3].neg(), *given[4:])),
    ("compressor", "compress_to_rows", lambda op: lambda **given: op(**given | {"eps": 1.0})),
    ("compressor", "inverse_rope_grouped", lambda op: lambda o, positions, *rest: op(o, positions + 1, *rest)),
    ("compressor", "index_key_norm_rope_store", lambda op: lambda k, *rest: op(k.flip(1), *rest)),
    ("engram", "engram_lookup", lambda op: lambda table, scales, ids, *rest: op(table, scales, ids.flip(1), *rest)),
]


@pytest.mark.parametrize("index", range(7))
def test_the_real_op_passes_its_gate(device, index):
    torch.manual_seed(0)
    case = list(small(device))[index]
    assert case.check() <= case.limit
    assert case.work.moved_bytes > 0


@pytest.mark.parametrize("index", range(7))
def test_a_broken_op_fails_its_gate(device, monkeypatch, index):
    torch.manual_seed(0)
    case = list(small(device))[index]
    module, name, spoil = FAULTS[index]
    holder = getattr(cases, module)
    monkeypatch.setattr(holder, name, spoil(getattr(holder, name)))
    with pytest.raises(GateError):
        case.check()
