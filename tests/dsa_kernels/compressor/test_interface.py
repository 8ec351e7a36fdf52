import pytest
import torch

from dsa_kernels.compressor import (
    compress_to_index_keys,
    compress_to_rows,
    inverse_rope_grouped,
    naive_compress_to_index_keys,
    naive_compress_to_rows,
    naive_inverse_rope,
    warmup_compressor,
)
from dsa_kernels.compressor.naive import naive_rotate_end
from dsa_kernels.errors import ArgumentError
from tests.dsa_kernels.kpool.cases import assert_same_caches, poisoned_cache

EPS = 1e-6


def angles(positions: int, rope: int = 64) -> torch.Tensor:
    frequencies = 10_000.0 ** (-torch.arange(0, rope, 2) / rope)
    turns = torch.arange(positions)[:, None] * frequencies
    return torch.cat((turns.cos(), turns.sin()), -1)


def requests(width: int, ratio: int, overlap: bool, lengths: tuple[tuple[int, int], ...], block_size: int = 4):
    """Tokens [first, last) of several requests, their states in shuffled blocks, and slots for the groups that end."""
    parts = 2 if overlap else 1
    generator = torch.Generator().manual_seed(ratio * 2 + overlap)
    blocks = max(-(-last // block_size) for _, last in lengths)
    order = torch.randperm(2 * blocks * len(lengths), generator=generator)
    table = order[: blocks * len(lengths)].view(len(lengths), blocks).int()
    state = torch.randn(2 * blocks * len(lengths), block_size, 2 * parts * width, generator=generator)
    state[..., parts * width :] *= 5
    # What no block of the table names is never read.
    state[order[blocks * len(lengths) :]] = float("nan")
    request = torch.cat([torch.full((last - first,), index) for index, (first, last) in enumerate(lengths)]).int()
    positions = torch.cat([torch.arange(first, last) for first, last in lengths])
    ends = (positions + 1) % ratio == 0
    slots = torch.full_like(positions, -1)
    slots[ends] = torch.randperm(64, generator=generator)[: int(ends.sum())]
    return {
        "state_cache": state,
        "token_to_request": request,
        "positions": positions,
        "state_slots": torch.arange(positions.shape[0]),
        "block_table": table,
        "norm_weight": torch.rand(width, generator=generator) + 0.5,
        "eps": EPS,
        "cos_sin_cache": angles(256),
        "slot_mapping": slots,
        "ratio": ratio,
        "overlap": overlap,
    }


def on(device, given):
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in given.items()}


CASES = [
    (4, True, ((0, 9), (3, 17), (30, 44))),
    (128, False, ((120, 130), (250, 256))),
    (2, False, ((0, 5),)),
    (1, False, ((0, 3),)),
    (3, True, ((0, 7), (4, 12))),
]


@pytest.mark.parametrize(("ratio", "overlap", "lengths"), CASES)
def test_rows(device, ratio, overlap, lengths):
    given = requests(512, ratio, overlap, lengths)
    found = torch.full((8, 16, 512), 7.0, dtype=torch.bfloat16)[::2].to(device)
    wanted = torch.full((4, 16, 512), 7.0, dtype=torch.bfloat16)
    compress_to_rows(**on(device, given), kv_cache=found)
    naive_compress_to_rows(**given, kv_cache=wanted)
    written = given["slot_mapping"][given["slot_mapping"] >= 0]
    assert written.numel() > 0
    rest = torch.ones(64, dtype=torch.bool)
    rest[written] = False
    got, expected = found.reshape(64, 512).float().cpu(), wanted.reshape(64, 512).float()
    assert (got[rest] == 7).all()
    assert torch.allclose(got[written], expected[written], rtol=2**-7, atol=1e-3)
    assert (got[written] != expected[written]).float().mean() < 0.02, "more than ties of rounding differ"


@pytest.mark.parametrize(("ratio", "overlap", "lengths"), CASES)
def test_index_keys(device, ratio, overlap, lengths):
    given = requests(128, ratio, overlap, lengths)
    found, wanted = poisoned_cache(4, 16, apart=2).to(device), poisoned_cache(4, 16)
    compress_to_index_keys(**on(device, given), kv_cache=found.unsqueeze(2))
    naive_compress_to_index_keys(**given, kv_cache=wanted)
    assert_same_caches(found.cpu(), wanted, given["slot_mapping"])


def test_padded_tokens_and_those_between_write_nothing(device):
    given = requests(512, 4, True, ((0, 8),))
    given["slot_mapping"] = torch.arange(8)
    given["state_slots"][3] = -1
    given["positions"][7] = -1
    cache = torch.full((1, 16, 512), 7.0, dtype=torch.bfloat16, device=device)
    compress_to_rows(**on(device, given), kv_cache=cache)
    assert (cache == 7).all()


def test_a_window_before_the_first_token_counts_for_nothing(device):
    """The first group of a request has no group before it, and its last token's half of the states is all there is."""
    given = requests(512, 4, True, ((0, 4),))
    given["state_cache"][..., :512] = 1e6  # the half for a group after
    given["state_cache"][..., 1024:1536] = 1e6
    wanted = torch.zeros(1, 64, 512, dtype=torch.bfloat16)
    naive_compress_to_rows(**given, kv_cache=wanted)
    found = torch.zeros(1, 64, 512, dtype=torch.bfloat16, device=device)
    compress_to_rows(**on(device, given), kv_cache=found)
    assert torch.allclose(found.cpu().float(), wanted.float(), rtol=2**-7, atol=1e-3)
    assert found.abs().max() < 20


def test_far_scores_leave_one_state(device):
    given = requests(512, 4, True, ((0, 8),))
    given["state_cache"][..., 1024:] = -1e30
    block, offset = given["block_table"][0, 1], 2
    given["state_cache"][block, offset, 1536:] = 1e30
    found = torch.zeros(1, 64, 512, dtype=torch.bfloat16, device=device)
    compress_to_rows(**on(device, given), kv_cache=found)
    slot = int(given["slot_mapping"][7])
    value = given["state_cache"][block, offset, 512:1024]
    normed = value * torch.rsqrt(value.square().mean() + EPS) * given["norm_weight"]
    expected = naive_rotate_end(normed, given["cos_sin_cache"][4])
    assert torch.allclose(found[0, slot].cpu().float(), expected, rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_the_output_is_rotated_back_and_grouped(device, groups, tokens):
    heads = 8
    whole = torch.randn(tokens, heads + 3, 512, generator=torch.Generator().manual_seed(tokens)).bfloat16().to(device)
    o = whole[:, :heads]
    positions = (torch.arange(tokens) * 37 % 256).to(device)
    found = inverse_rope_grouped(o, positions, angles(256).to(device), groups)
    wanted = naive_inverse_rope(o.cpu(), positions.cpu(), angles(256), groups)
    assert found.shape == (groups, tokens, heads // groups * 512)
    assert torch.allclose(found.cpu().float(), wanted.float(), rtol=2**-7, atol=1e-3)
    assert torch.equal(found.cpu().view(-1, 512)[:, :448], wanted.view(-1, 512)[:, :448])


def test_rope_and_its_inverse_cancel() -> None:
    x = torch.randn(6, 512, generator=torch.Generator().manual_seed(1))
    turned = naive_rotate_end(naive_rotate_end(x, angles(6)), angles(6), inverse=True)
    assert torch.allclose(turned, x, atol=1e-5)


def test_the_warm_up_writes_nothing_and_covers_the_models_groups(device, monkeypatch):
    from dsa_kernels.compressor import interface

    seen = set()

    class Recorder:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            def launch(*arguments, **constexprs):
                seen.add((constexprs.get("WIDTH"), constexprs.get("RATIO"), constexprs.get("OVERLAP")))
                return self.kernel[grid](*arguments, **constexprs)

            return launch

    for name in ("compress_kernel", "inverse_rope_kernel"):
        monkeypatch.setattr(interface, name, Recorder(getattr(interface, name)))
    warmup_compressor(heads=8, num_groups=1, device=device)
    assert seen == {(512, 4, True), (128, 4, True), (512, 128, False), (512, None, None)}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ratio", {"ratio": 0}),
        ("state_cache", {"state_cache": torch.zeros(1, 4, 1024)}),
        ("state_cache", {"state_cache": torch.zeros(1, 4, 2048).half()}),
        ("positions", {"positions": torch.zeros(8)}),
        ("slot_mapping", {"slot_mapping": torch.zeros(7, dtype=torch.int64)}),
        ("norm_weight", {"norm_weight": torch.zeros(128)}),
        ("cos_sin_cache", {"cos_sin_cache": torch.zeros(8, 63)}),
        ("kv_cache", {"kv_cache": torch.zeros(1, 16, 512)}),
        ("kv_cache", {"kv_cache": torch.zeros(1, 16, 1024).bfloat16()[..., :512]}),
    ],
)
def test_what_is_outside_the_contract_is_named(name, changes):
    given = requests(512, 4, True, ((0, 8),)) | {"kv_cache": torch.zeros(1, 16, 512).bfloat16()} | changes
    with pytest.raises(ArgumentError) as raised:
        compress_to_rows(**given)
    assert raised.value.name == name


def test_heads_that_do_not_divide_are_named():
    with pytest.raises(ArgumentError, match="num_groups: got 3, accepted: a divisor of the 8 heads"):
        inverse_rope_grouped(torch.zeros(1, 8, 512).bfloat16(), torch.zeros(1).int(), angles(1), 3)
