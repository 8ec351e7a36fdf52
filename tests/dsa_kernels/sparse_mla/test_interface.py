from dataclasses import replace

import pytest
import torch

from dsa_kernels.sparse_mla import interface, naive_sparse_mla_fwd, sparse_mla_fwd
from tests.dsa_kernels.sparse_mla.cases import LIMITS, Case, assert_close, assert_rows_close, make_case, poisoned_memory

INF = float("inf")
NAN = float("nan")


def run(case: Case, **more):
    with poisoned_memory():
        return sparse_mla_fwd(**case.arguments(), **more)


def check(case: Case, **more) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run a case and compare all three results with the reference."""
    out, max_logits, lse = run(case, **more)
    expected_out, expected_max, expected_lse = naive_sparse_mla_fwd(**case.arguments())
    assert out.dtype == case.q.dtype
    assert max_logits.dtype == lse.dtype == torch.float32
    assert_close("out", out, expected_out, LIMITS[case.q.dtype])
    assert_rows_close("out", out, expected_out, 2 * LIMITS[case.q.dtype])
    assert_close("max_logits", max_logits, expected_max, 3e-6)
    assert_close("lse", lse, expected_lse, 3e-6)
    return out, max_logits, lse


@pytest.fixture
def force_splits(monkeypatch):
    """Cut every selection into a given number of parts."""

    def force(parts: int) -> None:
        def plan(*arguments):
            return replace(original(*arguments), num_splits=parts)

        monkeypatch.setattr(interface, "plan_launch", plan)

    original = interface.plan_launch
    return force


@pytest.mark.parametrize("head_dim", [576, 512])
@pytest.mark.parametrize("heads", [1, 8, 12, 16, 64, 128])
def test_heads_and_geometry(device, on_gpu, heads, head_dim):
    tokens, topk, rows = (33, 2048, 20_000) if on_gpu else (2, 70, 150)
    check(make_case(device, tokens, heads, topk, rows, head_dim))


@pytest.mark.parametrize("topk", [1, 63, 64, 2048, 2051])
def test_topk(device, on_gpu, topk):
    check(make_case(device, 40 if on_gpu else 1, 8, topk, rows=4000))


@pytest.mark.parametrize("heads", [16, 40])
@pytest.mark.parametrize("head_dim", [576, 512])
def test_fp16(device, heads, head_dim):
    check(make_case(device, 2, heads, 100, head_dim=head_dim, dtype=torch.float16))


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_number_of_tokens(device, tokens):
    case = make_case(device, tokens=tokens)
    out, max_logits, lse = check(case)
    assert out.shape == (tokens, 8, 512)
    assert max_logits.shape == lse.shape == (tokens, 8)


@pytest.mark.gpu
def test_prefill(device):
    check(make_case(device, tokens=700, heads=128, topk=2048, rows=16_384))


def test_invalid_indices_count_for_nothing_wherever_they_stand(device):
    case = make_case(device, tokens=3, topk=130, rows=200)
    bad = torch.tensor([-(2**31), -1, 200, 201, 2**31 - 1], dtype=torch.int32, device=device)
    places = torch.tensor([0, 5, 31, 64, 129], device=device)
    case.indices[:, 0, places] = bad
    case.indices[1, 0, :96] = -1  # whole steps with nothing valid first
    case.indices[2, 0, 1:] = 2**31 - 1  # one valid entry
    case.indices[2, 0, 0] = 7
    out, _, _ = check(case)
    assert_close("the row itself", out[2], case.kv[7, :, :512].expand(8, 512), 1e-6)


def test_topk_length_clamps_and_ends_the_selection(device):
    case = make_case(device, tokens=7, topk=100)
    case.topk_length = torch.tensor([0, 1, 31, 33, 100, 5000, -3], dtype=torch.int32, device=device)
    out, max_logits, lse = check(case)
    for empty in (0, 6):
        assert (out[empty] == 0).all()
        assert (lse[empty] == -INF).all()
        assert (max_logits[empty] == -INF).all()


def test_duplicates_count_as_often_as_they_stand(device):
    case = make_case(device, tokens=1, topk=64, rows=10)
    case.indices[:] = 3
    case.indices[..., 40:] = 4
    check(case)


@pytest.mark.parametrize("sink", [None, 0.5])
def test_nothing_valid_gives_zeros(device, sink):
    case = make_case(device, tokens=2)
    case.indices[:] = -1
    if sink is not None:
        case.attn_sink = torch.tensor([-INF, INF] + [sink] * 6, device=device)
    out, max_logits, lse = check(case)
    assert (out == 0).all()
    assert (max_logits == -INF).all()
    assert (lse == -INF).all()


def test_no_rows_at_all(device):
    case = make_case(device, rows=1)
    case.kv = case.kv[:0]
    out, _, lse = check(case)
    assert (out == 0).all()
    assert (lse == -INF).all()


@pytest.mark.parametrize("parts", [1, 3])
def test_sink_scales_the_output_and_not_the_lse(device, force_splits, parts):
    force_splits(parts)
    case = make_case(device, tokens=2, topk=130)
    plain, plain_max, plain_lse = run(case)
    case.attn_sink = torch.tensor([-INF, INF, 0.0, 3.0, -3.0, 60.0, -200.0, 6.5], device=device)
    out, max_logits, lse = check(case)
    assert torch.equal(lse, plain_lse)
    assert torch.equal(max_logits, plain_max)
    assert torch.equal(out[:, 0], plain[:, 0])
    assert (out[:, 1] == 0).all()


@pytest.mark.parametrize("poison", [NAN, INF, -INF])
@pytest.mark.parametrize("parts", [1, 2])
def test_rows_that_are_not_selected_never_leak(device, force_splits, poison, parts):
    force_splits(parts)
    case = make_case(device, tokens=2, heads=12, topk=70, rows=150)
    case.topk_length = torch.tensor([70, 33], dtype=torch.int32, device=device)
    case.indices[0, 0, 60:] = -1
    case.indices[0, 0, 65:] = 150
    clean = run(case)
    # Guards before the first row and after the last: what index -1 and index s_kv would read.
    room = torch.full((152, 1, 576), poison, dtype=torch.bfloat16, device=device)
    selected = torch.cat([case.indices[0, 0, :60], case.indices[1, 0, :33]]).long()
    room[1 + selected] = case.kv[selected]
    case.kv = room[1:-1]
    dirty = check(case)
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("poison", [NAN, INF, -INF])
@pytest.mark.parametrize("parts", [1, 2])
def test_selected_nan_and_inf_propagate(device, force_splits, poison, parts):
    force_splits(parts)
    case = make_case(device, tokens=2, topk=70)
    case.q[:] = case.q.abs() + 0.1
    case.kv[case.indices[1, 0, 40].long()] = poison
    case.indices[0][case.indices[0] == case.indices[1, 0, 40]] = -1
    out, _, _ = check(case)
    assert out[0].isfinite().all()
    assert not out[1].isfinite().all()


def test_inputs_are_not_modified(device):
    case = make_case(device)
    case.attn_sink = torch.zeros(8, device=device)
    case.topk_length = torch.full((2,), 50, dtype=torch.int32, device=device)
    before = {name: value.clone() for name, value in vars(case).items() if isinstance(value, torch.Tensor)}
    run(case)
    for name, value in before.items():
        assert torch.equal(getattr(case, name), value), name


def test_out_is_written_and_returned(device):
    case = make_case(device, tokens=3, heads=5)
    room = torch.full((4, 7, 640), NAN, dtype=torch.bfloat16, device=device)
    target = room[:3, :5, :512]
    out, _, _ = check(case, out=target)
    assert out.data_ptr() == target.data_ptr()
    assert room[3].isnan().all()
    assert room[:3, 5:].isnan().all()
    assert room[..., 512:].isnan().all()


def test_strided_inputs(device):
    case = make_case(device, tokens=3, heads=5, topk=70)
    room = {"q": (4, 6, 704), "kv": (201, 3, 704), "indices": (4, 2, 77)}
    for name, shape in room.items():
        tensor = getattr(case, name)
        wide = torch.full(shape, 3, dtype=tensor.dtype, device=device)
        view = wide[: tensor.shape[0], : tensor.shape[1], : tensor.shape[2]]
        view.copy_(tensor)
        setattr(case, name, view)
    check(case)


@pytest.mark.parametrize("parts", [2, 7, 64])
def test_split_agrees_with_single(device, force_splits, parts):
    case = make_case(device, tokens=2, heads=5, topk=300, rows=400)
    case.attn_sink = torch.linspace(-2, 4, 5, device=device)
    case.topk_length = torch.tensor([300, 45], dtype=torch.int32, device=device)
    force_splits(1)
    single = check(case)
    force_splits(parts)
    split = check(case)
    assert_close("out", split[0], single[0], 3e-3)
    assert torch.equal(split[1], single[1])
    assert_close("lse", split[2], single[2], 1e-6)


def test_large_logits_do_not_overflow(device):
    case = make_case(device, tokens=2, topk=130)
    case.kv[::7] *= 200
    check(case)


def test_same_inputs_same_bits(device):
    case = make_case(device, tokens=2, heads=16, topk=257, rows=300)
    first = run(case)
    second = run(case)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
def test_replays_in_a_cuda_graph(device):
    case = make_case(device, tokens=4, heads=16, topk=2048, rows=9000)
    out = torch.empty(4, 16, 512, dtype=torch.bfloat16, device=device)
    run(case, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _, max_logits, lse = sparse_mla_fwd(**case.arguments(), out=out)
    fresh = make_case(device, tokens=4, heads=16, topk=2048, rows=9000, seed=1)
    for name in ("q", "kv", "indices"):
        getattr(case, name).copy_(getattr(fresh, name))
    out.fill_(NAN)
    graph.replay()
    expected = naive_sparse_mla_fwd(**case.arguments())
    assert_close("out", out, expected[0], LIMITS[torch.bfloat16])
    assert_close("max_logits", max_logits, expected[1], 3e-6)
    assert_close("lse", lse, expected[2], 3e-6)
