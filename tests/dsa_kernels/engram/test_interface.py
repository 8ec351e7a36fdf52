import pytest
import torch

from dsa_kernels.engram import engram_lookup, naive_engram_lookup, warmup_engram
from dsa_kernels.errors import ArgumentError

WIDTH, GROUP, FIRST = 256, 32, 1000


def tables(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every code in every row, and scales that make every byte come."""
    table = (torch.arange(WIDTH) + 37 * torch.arange(rows)[:, None]) % 256
    scales = torch.arange(rows * (WIDTH // GROUP)).view(rows, -1) % 256
    return table.to(torch.uint8), scales.to(torch.uint8)


def looked_up(device, table, scales, ids, heads, first_head=0, **options):
    out = torch.full((ids.shape[0], heads, table.shape[1]), 7.0, dtype=torch.bfloat16, device=device)
    engram_lookup(table.to(device), scales.to(device), ids.to(device), out, FIRST, first_head, **options)
    return out.cpu()


def assert_equal(found, wanted):
    """Bit for bit, NaN where NaN is; below the normal numbers zero will do."""
    assert torch.equal(found.isnan(), wanted.isnan())
    normal = wanted.abs() >= 2.0**-126
    assert torch.equal(found[normal], wanted[normal])
    small = ~normal & ~wanted.isnan()
    assert (found[small].float().abs() <= 2.0**-126).all()


def assert_right(found, table, scales, ids, heads, first_head=0):
    wanted = torch.empty(found.shape, dtype=torch.bfloat16)
    naive_engram_lookup(table, scales, ids, wanted, FIRST, first_head)
    assert_equal(found, wanted)


def test_every_code_times_every_scale(device):
    """What torch's types give, NaN codes, the smallest and the largest scales among them."""
    table, scales = tables(64)
    ids = FIRST + torch.arange(64).view(32, 2)
    found = looked_up(device, table, scales, ids, 2)
    values = table.view(torch.float8_e4m3fn).float()
    scale = scales.view(torch.float8_e8m0fnu).float().repeat_interleave(GROUP, 1)
    assert scales.unique().numel() == 256
    assert_equal(found.view(64, WIDTH), (values * scale).bfloat16())


@pytest.mark.parametrize("tokens", [1, 7, 40])
@pytest.mark.parametrize(("heads", "first_head"), [(1, 0), (3, 2), (4, 6)])
@pytest.mark.parametrize("background", [False, True])
def test_rows_of_this_rank_and_zeros(device, tokens, heads, first_head, background):
    table, scales = tables(50)
    ids = torch.randint(FIRST - 30, FIRST + 80, (tokens, 8), generator=torch.Generator().manual_seed(tokens))
    ids[0] = torch.tensor([FIRST, FIRST - 1, FIRST + 49, FIRST + 50, -1, 2**40, -(2**40), FIRST + 1])
    found = looked_up(device, table, scales, ids, heads, first_head, background=background)
    assert_right(found, table, scales, ids, heads, first_head)


def test_padded_heads_are_zero(device):
    table, scales = tables(20)
    ids = torch.full((3, 5), FIRST + 2)
    found = looked_up(device, table, scales, ids, 4, first_head=3)
    assert (found[:, :2] != 0).any()
    assert (found[:, 2:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_ids_of_any_strides(device, dtype):
    table, scales = tables(20)
    ids = (FIRST + torch.arange(24).view(4, 6) % 20).to(dtype)
    strided = torch.stack((ids.T, ids.T), -1).to(device)[..., 0].T
    assert strided.stride(1) != 1
    found = looked_up(device, table, scales, strided, 3, 1)
    assert_right(found, table, scales, ids, 3, 1)


def test_float8_tables_and_other_widths(device):
    table = torch.arange(16 * 64, dtype=torch.int64).view(16, 64).to(torch.uint8).view(torch.float8_e4m3fn)
    scales = torch.full((16, 1), 120, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    ids = FIRST + torch.arange(16).view(16, 1)
    found = looked_up(device, table, scales, ids, 1)
    wanted = (table.float() * 2.0**-7).bfloat16()
    assert_equal(found[:, 0], wanted)


@pytest.mark.gpu
def test_a_table_in_pinned_host_memory(device):
    table, scales = tables(5000)
    ids = torch.randint(FIRST - 5, FIRST + 5005, (300, 8), generator=torch.Generator().manual_seed(0))
    out = torch.full((300, 8, WIDTH), 7.0, dtype=torch.bfloat16, device=device)
    engram_lookup(table.pin_memory(), scales.pin_memory(), ids.to(device), out, FIRST)
    assert_right(out.cpu(), table, scales, ids, 8)


@pytest.mark.gpu
def test_pageable_host_memory_is_refused(device):
    table, scales = tables(5)
    out = torch.empty(1, 1, WIDTH, dtype=torch.bfloat16, device=device)
    with pytest.raises(ArgumentError, match="table: got pageable memory of cpu"):
        engram_lookup(table, scales, torch.zeros(1, 1, dtype=torch.int64, device=device), out, FIRST)


def test_no_tokens(device):
    table, scales = tables(5)
    assert looked_up(device, table, scales, torch.empty(0, 8, dtype=torch.int64), 2).shape == (0, 2, WIDTH)


def test_the_warm_up_runs(device):
    warmup_engram(device=device)


GOOD = {
    "table": torch.zeros(5, 256, dtype=torch.uint8),
    "scales": torch.zeros(5, 8, dtype=torch.uint8),
    "ids": torch.zeros(2, 3, dtype=torch.int64),
    "out": torch.zeros(2, 3, 256).bfloat16(),
    "first_id": 0,
}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("table", {"table": torch.zeros(5, 192, dtype=torch.uint8)}),
        ("table", {"table": torch.zeros(0, 256, dtype=torch.uint8)}),
        ("table", {"table": torch.zeros(5, 256)}),
        ("table", {"table": torch.zeros(256, 5, dtype=torch.uint8).T.contiguous().repeat(1, 2)[:, ::2]}),
        ("scales", {"scales": torch.zeros(4, 8, dtype=torch.uint8)}),
        ("scales", {"scales": torch.zeros(5, 6, dtype=torch.uint8)}),
        ("ids", {"ids": torch.zeros(2, 3)}),
        ("out", {"out": torch.zeros(2, 3, 128).bfloat16()}),
        ("out", {"out": torch.zeros(2, 3, 256)}),
        ("first_head", {"first_head": -1}),
    ],
)
def test_what_is_outside_the_contract_is_named(name, changes):
    with pytest.raises(ArgumentError) as raised:
        engram_lookup(**GOOD | changes)
    assert raised.value.name == name
