import pytest
import torch

from dsa_kernels.errors import ArgumentError
from dsa_kernels.kpool import (
    hadamard_quantize_fp8,
    kpool_compress_and_cache,
    kpool_decode_update,
    naive_hadamard_quantize_fp8,
    naive_kpool_compress_and_cache,
    naive_kpool_decode_update,
)
from dsa_kernels.kpool.naive import hadamard_matrix, naive_pool, naive_rotate
from tests.dsa_kernels.kpool.cases import (
    DIM,
    POOL,
    assert_same_caches,
    assert_same_keys,
    poisoned_cache,
    random_rows,
)


def test_the_matrix_is_hadamards() -> None:
    scipy = pytest.importorskip("scipy.linalg")
    matrix = hadamard_matrix(DIM)
    assert torch.allclose(matrix, torch.from_numpy(scipy.hadamard(DIM)).double() / DIM**0.5)
    assert torch.allclose(matrix @ matrix, torch.eye(DIM, dtype=torch.float64))


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e4])
def test_rotated_rows(device, rows, scale):
    x = random_rows(rows, DIM, seed=rows, scale=scale).to(device)
    assert_same_keys(hadamard_quantize_fp8(x), naive_hadamard_quantize_fp8(x))


def test_one_hot_rows_become_signs(device):
    """Each row of the matrix itself: an order of the butterflies that is not Sylvester's would show here."""
    codes, scale = hadamard_quantize_fp8(torch.eye(DIM, dtype=torch.bfloat16, device=device))
    signs = (codes.float() * scale).sign()
    assert torch.equal(signs.cpu(), hadamard_matrix(DIM).sign().float())


def test_rows_that_lie_apart(device):
    x = random_rows(40, 2 * DIM, seed=3).to(device)[::2, :DIM]
    assert_same_keys(hadamard_quantize_fp8(x), naive_hadamard_quantize_fp8(x.contiguous()))
    assert hadamard_quantize_fp8(x[:0])[0].shape == (0, DIM)


def test_rotation_leaves_products_of_q_and_k_as_they_are() -> None:
    q, k = random_rows(5, DIM, seed=1), random_rows(7, DIM, seed=2)
    rotated = naive_rotate(q).float() @ naive_rotate(k).float().T
    assert torch.allclose(rotated, q.float() @ k.float().T, atol=0.35)


@pytest.mark.parametrize("pool", [2, 4, 16])
@pytest.mark.parametrize("page_size", [16, 64])
@pytest.mark.parametrize("slots_dtype", [torch.int32, torch.int64])
def test_pools_are_written_to_their_slots(device, pool, page_size, slots_dtype):
    pools = 21
    key, gate = random_rows(pools, pool, DIM, seed=4), random_rows(pools, pool, DIM, seed=5, scale=4.0)
    ape = torch.randn(pool, DIM, generator=torch.Generator().manual_seed(6))
    slots = torch.randperm(4 * page_size, generator=torch.Generator().manual_seed(7))[:pools].to(slots_dtype)
    slots[::5] = -1
    mask = torch.arange(pools) % 3 != 1
    for write_mask in (None, mask):
        found, wanted = poisoned_cache(4, page_size, apart=2).to(device), poisoned_cache(4, page_size)
        given = None if write_mask is None else write_mask.to(device)
        kpool_compress_and_cache(
            found.unsqueeze(2), key.to(device), gate.to(device), ape.to(device), slots.to(device), given
        )
        naive_kpool_compress_and_cache(wanted, key, gate, ape, slots, write_mask)
        written = slots if write_mask is None else torch.where(write_mask, slots, -1)
        assert_same_caches(found.cpu(), wanted, written)


def test_pools_that_overlap_in_memory_and_gates_far_apart(device):
    """As prefill has them: one pool for each token, those between pools masked; gates that leave one token alone."""
    tokens = 19
    key = random_rows(tokens, DIM, seed=8).to(device)
    gate = random_rows(tokens, DIM, seed=9, scale=300.0).to(device)
    windows = tokens - POOL + 1
    ape = torch.zeros(POOL, DIM, device=device)
    slots = torch.where(torch.arange(windows) % POOL == 0, torch.arange(windows) // POOL, -1).to(device)
    found, wanted = poisoned_cache(1, 16).to(device), poisoned_cache(1, 16)
    overlapping = [one.as_strided((windows, POOL, DIM), (DIM, DIM, 1)) for one in (key, gate)]
    kpool_compress_and_cache(found, *overlapping, ape, slots)
    copies = [one.cpu().contiguous() for one in overlapping]
    naive_kpool_compress_and_cache(wanted, *copies, ape.cpu(), slots.cpu())
    assert_same_caches(found.cpu(), wanted, slots.cpu())


def test_a_pool_is_a_softmax_for_each_dimension() -> None:
    key, gate = random_rows(1, POOL, DIM, seed=10), torch.full((1, POOL, DIM), -1e4).bfloat16()
    gate[0, torch.arange(DIM) % POOL, torch.arange(DIM)] = 1e4
    pooled = naive_pool(key, gate, torch.zeros(POOL, DIM))
    assert torch.equal(pooled[0], key[0, torch.arange(DIM) % POOL, torch.arange(DIM)])


@pytest.mark.parametrize("ring", [4, 8])
@pytest.mark.parametrize("next_n", [1, 2, 5])
def test_decoding_completes_pools_in_the_order_of_tokens(device, ring, next_n):
    """Several steps, requests at different positions: a pool that ends inside a step reads what the step left."""
    if next_n > ring:
        pytest.skip("a step longer than the ring overwrites what it reads")
    requests, steps, page_size = 3, 6, 16
    tail = random_rows(2 * (requests + 1), 2, ring, DIM, seed=11)[::2]
    found_tail, wanted_tail = tail.clone().to(device), tail.clone()
    found, wanted = poisoned_cache(4, page_size, apart=3).to(device), poisoned_cache(4, page_size)
    ape = torch.randn(POOL, DIM, generator=torch.Generator().manual_seed(12))
    start = torch.tensor([3, 6, 9])
    written = []
    for step in range(steps):
        positions = (start[:, None] + step * next_n + torch.arange(next_n)[None]).int()
        key = random_rows(requests, next_n, DIM, seed=20 + step)
        gate = random_rows(requests, next_n, DIM, seed=40 + step, scale=3.0)
        block = torch.tensor([2, 0, 1], dtype=torch.int32)[:, None]
        tail_slots = block * ring + positions % ring
        slots = torch.where(positions % POOL == POOL - 1, torch.arange(requests)[:, None] * 20 + positions // POOL, -1)
        if step == 1:  # a padded token: nothing of it may be read or written
            positions[1, -1] = tail_slots[1, -1] = slots[1, -1] = -1
        arguments = (tail_slots, key, gate, ape, slots.int(), positions)
        kpool_decode_update(found, found_tail, *(one.to(device) for one in arguments))
        naive_kpool_decode_update(wanted, wanted_tail, *arguments)
        written.append(slots.reshape(-1))
    assert torch.equal(found_tail.cpu(), wanted_tail)
    slots = torch.cat(written)
    assert (slots >= 0).sum() >= requests
    assert_same_caches(found.cpu(), wanted, slots)


def test_decoding_agrees_with_prefill(device):
    """The same tokens, pooled at once and one by one, give the same keys."""
    tokens, page_size = 24, 16
    key, gate = random_rows(tokens, DIM, seed=13).to(device), random_rows(tokens, DIM, seed=14, scale=3.0).to(device)
    ape = torch.randn(POOL, DIM, generator=torch.Generator().manual_seed(15)).to(device)
    pools = torch.arange(tokens // POOL, device=device)
    at_once, by_token = poisoned_cache(1, page_size).to(device), poisoned_cache(1, page_size).to(device)
    kpool_compress_and_cache(at_once, key.view(-1, POOL, DIM), gate.view(-1, POOL, DIM), ape, pools)
    tail = torch.zeros(1, 2, POOL, DIM, dtype=torch.bfloat16, device=device)
    for token in range(tokens):
        position = torch.full((1, 1), token, dtype=torch.int32, device=device)
        slot = position // POOL if token % POOL == POOL - 1 else torch.full_like(position, -1)
        kpool_decode_update(
            by_token, tail, position % POOL, key[None, token, None], gate[None, token, None], ape, slot, position
        )
    assert torch.equal(at_once, by_token)


def arguments(**changes):
    made = {
        "kv_cache": poisoned_cache(1, 16),
        "tail_cache": torch.zeros(2, 2, 4, DIM, dtype=torch.bfloat16),
        "tail_slot_mapping": torch.zeros(2, 1, dtype=torch.int32),
        "key": random_rows(2, 1, DIM),
        "gate": random_rows(2, 1, DIM),
        "ape": torch.zeros(POOL, DIM),
        "slot_mapping": torch.zeros(2, 1, dtype=torch.int32),
        "positions": torch.zeros(2, 1, dtype=torch.int32),
    }
    return made | changes


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("key", {"key": random_rows(2, 1, DIM).float()}),
        ("key", {"key": random_rows(2, 1, 64)}),
        ("gate", {"gate": random_rows(2, 2, DIM)}),
        ("ape", {"ape": torch.zeros(POOL, DIM).bfloat16()}),
        ("key", {"ape": torch.zeros(1, DIM)}),
        ("tail_cache", {"tail_cache": torch.zeros(2, 2, 2, DIM, dtype=torch.bfloat16)}),
        ("tail_cache", {"tail_cache": torch.zeros(2, 2, 4, 2 * DIM, dtype=torch.bfloat16)[..., ::2]}),
        ("kv_cache", {"kv_cache": torch.zeros(1, 16, DIM, dtype=torch.uint8)}),
        ("positions", {"positions": torch.zeros(2, dtype=torch.int32)}),
        ("slot_mapping", {"slot_mapping": torch.zeros(2, 1)}),
        ("scale_fmt", {"scale_fmt": "mxfp8"}),
    ],
)
def test_what_is_outside_the_contract_is_named(name, changes):
    with pytest.raises(ArgumentError) as raised:
        kpool_decode_update(**arguments(**changes))
    assert raised.value.name == name


def test_wrong_pools_are_named():
    key = random_rows(1, 17, DIM)
    with pytest.raises(ArgumentError, match="pools of 17 tokens, accepted: pools of 2 to 16 tokens"):
        kpool_compress_and_cache(poisoned_cache(1, 16), key, key, torch.zeros(17, DIM), torch.zeros(1).int())
    with pytest.raises(ArgumentError, match="write_mask"):
        kpool_compress_and_cache(
            poisoned_cache(1, 16), key[:, :4], key[:, :4], torch.zeros(4, DIM), torch.zeros(1).int(), torch.zeros(1)
        )
