import pytest
import torch

from dsa_kernels.compressor import (
    index_key_norm_rope_store,
    naive_index_key_norm_rope_store,
    warmup_index_keys,
)
from dsa_kernels.errors import ArgumentError
from tests.dsa_kernels.kpool.cases import POISON, assert_same_caches, poisoned_cache

EPS = 1e-20  # DeepSeek-V4.1's


def angles(positions: int, rope: int = 64) -> torch.Tensor:
    turns = torch.arange(positions)[:, None] * 10_000.0 ** (-torch.arange(0, rope, 2) / rope)
    return torch.cat((turns.cos(), turns.sin()), -1)


def keys(tokens: int, seed: int = 0) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "k": torch.randn(tokens, 128, generator=generator).bfloat16(),
        "positions": torch.randint(0, 250, (tokens,), generator=generator),
        "norm_weight": (torch.rand(128, generator=generator) + 0.5).bfloat16(),
        "eps": EPS,
        "cos_sin_cache": angles(250),
        "slot_mapping": torch.randperm(64, generator=generator)[:tokens],
    }


def on(device, given):
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in given.items()}


def assert_same(device, given, ratio, apart=1):
    found, wanted = poisoned_cache(4, 16, apart).to(device), poisoned_cache(4, 16)
    index_key_norm_rope_store(**on(device, given), kv_cache=found, ratio=ratio)
    naive_index_key_norm_rope_store(**given, kv_cache=wanted, ratio=ratio)
    positions, slots = given["positions"][: given["slot_mapping"].shape[0]], given["slot_mapping"]
    written = slots[(slots >= 0) & (positions >= 0) & ((positions + 1) % ratio == 0)]
    assert_same_caches(found.cpu(), wanted, written)
    return written


@pytest.mark.parametrize("ratio", [1, 2, 4])
@pytest.mark.parametrize("tokens", [1, 33])
def test_keys_of_group_ends(device, ratio, tokens):
    given = keys(tokens, seed=ratio)
    given["positions"][0] = ratio * 3 - 1
    written = assert_same(device, given, ratio, apart=3)
    assert written.numel() > 0
    assert ratio == 1 or tokens == 1 or written.numel() < tokens


def test_rows_that_end_no_group_are_not_read(device):
    given = keys(20)
    given["positions"] = torch.arange(20)
    given["k"][::2] = float("nan")
    assert assert_same(device, given, 2).numel() == 10


def test_padding_is_skipped_and_more_rows_than_slots_are_left(device):
    given = keys(20)
    given["positions"][3] = -1
    given["slot_mapping"] = given["slot_mapping"][:15]
    given["slot_mapping"][7] = -1
    assert assert_same(device, given, 1).numel() == 13


def test_rows_of_a_wider_tensor(device):
    given = keys(9)
    wide = torch.full((9, 200), 9.0, dtype=torch.bfloat16)
    wide[:, :128] = given["k"]
    given["k"] = wide[:, :128]
    assert_same(device, given, 1)


def test_zeros_and_far_values(device):
    given = keys(4)
    given["k"][0] = 0
    given["k"][1] *= 1e15
    given["k"][2] = 0
    given["k"][2, 5] = 3e-20  # a square that eps of 1e-20 does not hide
    given["eps"] = 1e-6
    assert_same(device, given, 1)


def test_no_tokens(device):
    given = keys(4)
    given["slot_mapping"] = given["slot_mapping"][:0]
    cache = poisoned_cache(1, 16).to(device)
    index_key_norm_rope_store(**on(device, given), kv_cache=cache, ratio=1)
    assert (cache == POISON).all()


def test_the_warm_up_writes_nothing_and_meets_both_ratios(device, monkeypatch):
    from dsa_kernels.compressor import interface

    seen = set()
    kernel = interface.index_key_kernel

    class Recorder:
        def __getitem__(self, grid):
            def launch(*arguments, **constexprs):
                seen.add(constexprs["RATIO"])
                return kernel[grid](*arguments, **constexprs)

            return launch

    monkeypatch.setattr(interface, "index_key_kernel", Recorder())
    warmup_index_keys(device=device)
    assert seen == {1, 2}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ratio", {"ratio": 0}),
        ("k", {"k": torch.zeros(4, 64).bfloat16()}),
        ("k", {"k": torch.zeros(3, 128).bfloat16()}),
        ("k", {"k": torch.zeros(4, 128)}),
        ("positions", {"positions": torch.zeros(2, dtype=torch.int64)}),
        ("slot_mapping", {"slot_mapping": torch.zeros(4)}),
        ("norm_weight", {"norm_weight": torch.zeros(64)}),
        ("cos_sin_cache", {"cos_sin_cache": torch.zeros(9, 130)}),
        ("kv_cache", {"kv_cache": torch.zeros(1, 16, 128, dtype=torch.uint8)}),
    ],
)
def test_what_is_outside_the_contract_is_named(name, changes):
    given = {**keys(4), "kv_cache": poisoned_cache(1, 16), "ratio": 1} | changes
    with pytest.raises(ArgumentError) as raised:
        index_key_norm_rope_store(**given)
    assert raised.value.name == name
