"""`sparse_mla_with_kvcache` over two caches: one softmax and one sink over what is selected from both."""

from dataclasses import dataclass, replace

import pytest
import torch

from dsa_kernels import ArgumentError
from dsa_kernels.sparse_mla import interface, naive_sparse_mla_with_kvcache, sparse_mla_with_kvcache
from dsa_kernels.targets import device_facts
from tests.dsa_kernels.sparse_mla.cases import LIMITS, assert_close, assert_rows_close, poisoned_memory
from tests.dsa_kernels.sparse_mla.test_kvcache import make_cache

INF = float("inf")
NAN = float("nan")


@dataclass
class Pair:
    """Arguments of `sparse_mla_with_kvcache` with two caches."""

    q: torch.Tensor
    kv_cache: torch.Tensor
    indices: torch.Tensor
    extra_kv_cache: torch.Tensor
    extra_indices: torch.Tensor
    sm_scale: float = 512**-0.5
    topk_length: torch.Tensor | None = None
    extra_topk_length: torch.Tensor | None = None
    attn_sink: torch.Tensor | None = None

    def arguments(self) -> dict[str, object]:
        return dict(vars(self))

    def alone(self, prefix: str) -> dict[str, object]:
        """Arguments over one of the caches ("" or "extra_"), without a sink."""
        names = ("kv_cache", "indices", "topk_length")
        return {"q": self.q, "sm_scale": self.sm_scale} | {name: getattr(self, prefix + name) for name in names}


def make_pair(
    device: torch.device,
    tokens: int = 2,
    heads: int = 8,
    widths: tuple[int, int] = (40, 70),
    page_sizes: tuple[int, int] = (16, 2),
    layouts: tuple[str, str] = ("pages", "pages"),
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
) -> Pair:
    """Random rows; every index valid and distinct within a token and a cache. NaN lies around pages that lie apart."""
    generator = torch.Generator().manual_seed(seed)
    caches, selections = [], []
    for width, page_size, layout in zip(widths, page_sizes, layouts, strict=True):
        pages = -(-2 * width // page_size)
        cache = make_cache(device, pages, page_size, 512, dtype, layout)
        cache.copy_(torch.randn(pages, page_size, 1, 512, generator=generator))
        order = torch.rand(tokens, pages * page_size, generator=generator).argsort(dim=1)[:, :width]
        caches.append(cache)
        selections.append(order.to(torch.int32)[:, None].contiguous().to(device))
    q = torch.randn(tokens, heads, 512, generator=generator).to(dtype).to(device)
    return Pair(q, caches[0], selections[0], caches[1], selections[1])


def lengths(device: torch.device, *values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


def run(pair: Pair, **more: object) -> tuple[torch.Tensor, torch.Tensor]:
    with poisoned_memory():
        return sparse_mla_with_kvcache(**pair.arguments(), **more)


def check(pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a pair and compare it with the reference on the rows of both caches in one."""
    out, lse = run(pair)
    expected_out, expected_lse = naive_sparse_mla_with_kvcache(**pair.arguments())
    limit = LIMITS[pair.q.dtype]
    assert out.dtype == pair.q.dtype
    assert_close("out", out, expected_out, limit)
    assert_rows_close("out", out, expected_out, 2 * limit)
    assert_close("lse", lse, expected_lse, 3e-6)
    return out, lse


@pytest.fixture
def force_splits(monkeypatch):
    """Cut every selection into a given number of parts."""
    original = interface.plan_launch

    def force(parts: int) -> None:
        monkeypatch.setattr(interface, "plan_launch", lambda *given: replace(original(*given), num_splits=parts))

    return force


def test_the_reference_is_a_softmax_over_both_selections_and_a_sink(device):
    """Written out for one token and one head, since everything else is held to the reference."""
    pair = make_pair(device, tokens=1, heads=1, widths=(5, 3))
    pair.attn_sink = torch.tensor([0.7], device=device)
    pair.topk_length = lengths(device, 4)
    pair.extra_indices[0, 0, 1] = -1
    picked = [pair.kv_cache.reshape(-1, 512)[index] for index in pair.indices[0, 0, :4].tolist()]
    picked += [pair.extra_kv_cache.reshape(-1, 512)[pair.extra_indices[0, 0, place].item()] for place in (0, 2)]
    rows = torch.stack(picked).double()
    logits = rows @ pair.q[0, 0].double() * pair.sm_scale
    scores = torch.cat((logits, pair.attn_sink.double())).softmax(0)[:-1]
    out, lse = naive_sparse_mla_with_kvcache(**pair.arguments())
    assert_close("out", out[0, 0], scores @ rows, 1e-12)
    assert_close("lse", lse[0, 0], logits.logsumexp(0), 1e-12)


@pytest.mark.parametrize("heads", [4, 8, 16, 20, 64, 128])
def test_heads(device, on_gpu, heads):
    tokens, widths = (40, (128, 512)) if on_gpu else (2, (33, 50))
    check(make_pair(device, tokens, heads, widths, page_sizes=(64, 64)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("widths", [(1, 1), (1, 130), (130, 1), (7, 33), (64, 64), (128, 512), (192, 1023)])
def test_widths(device, widths, dtype):
    check(make_pair(device, 1, 8, widths, dtype=dtype))


@pytest.mark.parametrize("heads", [8, 64])
@pytest.mark.parametrize("page_sizes", [(64, 64), (64, 2), (2, 64), (1, 1), (48, 3)])
@pytest.mark.parametrize("layouts", [("contiguous", "contiguous"), ("pages", "rows"), ("rows", "contiguous")])
def test_pages(device, heads, page_sizes, layouts):
    check(make_pair(device, 1, heads, (20, 35), page_sizes, layouts))


def test_parts_are_planned_over_both_selections(device, monkeypatch):
    pair = make_pair(device, tokens=1, heads=8, widths=(40, 70))
    planned = []
    original = interface.plan_launch
    monkeypatch.setattr(interface, "plan_launch", lambda *given: planned.append(original(*given)) or planned[-1])
    run(pair)
    assert planned == [original(1, 8, 110, False, *device_facts(pair.q.device))]
    sparse_mla_with_kvcache(**pair.alone(""))
    assert planned[1] == original(1, 8, 40, False, *device_facts(pair.q.device))
    assert [plan.num_splits for plan in planned] == [2, 1]


@pytest.mark.parametrize("parts", [1, 2, 7, 64])
def test_two_calls_merged_by_their_lse_agree(device, force_splits, parts):
    force_splits(parts)
    pair = make_pair(device, tokens=3, heads=6, widths=(100, 150))
    pair.topk_length, pair.extra_topk_length = lengths(device, 100, 41, 0), lengths(device, 150, 3, 77)
    pair.attn_sink = torch.linspace(-4, 6, 6, device=device)
    out, lse = check(pair)
    first, first_lse = sparse_mla_with_kvcache(**pair.alone(""))
    second, second_lse = sparse_mla_with_kvcache(**pair.alone("extra_"))
    both = torch.logaddexp(first_lse, second_lse)
    total = torch.logaddexp(both, pair.attn_sink)
    merged = (first_lse - total).exp()[..., None] * first + (second_lse - total).exp()[..., None] * second
    assert_close("out", out, merged, 2 * LIMITS[torch.bfloat16])
    assert_close("lse", lse, both, 1e-6)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("heads", [8, 64])
def test_lengths_end_both_selections_and_their_tails_are_not_read(device, force_splits, parts, heads):
    force_splits(parts)
    pair = make_pair(device, tokens=6, heads=heads, widths=(40, 70))
    pair.topk_length = lengths(device, 0, 40, 1, 17, 5000, -3)
    pair.extra_topk_length = lengths(device, 70, 0, 33, 5000, 16, -1)
    stale = [-(2**31), 2**31 - 1, 3]
    for token in range(6):
        for name, length, width in (("", pair.topk_length, 40), ("extra_", pair.extra_topk_length, 70)):
            indices = getattr(pair, f"{name}indices")[token, 0]
            end = min(max(int(length[token]), 0), width)
            indices[end:] = lengths(device, *(stale[at % 3] for at in range(width - end)))
    out, lse = check(pair)
    assert (out[5] == 0).all()
    assert (lse[5] == -INF).all()


@pytest.mark.parametrize("parts", [1, 2])
def test_an_index_is_judged_by_its_own_cache(device, force_splits, parts):
    """What is past the end of one cache may lie inside the other, whichever is larger."""
    force_splits(parts)
    pair = make_pair(device, tokens=4, widths=(40, 70), page_sizes=(16, 2))
    rows, extra_rows = (cache.shape[0] * cache.shape[1] for cache in (pair.kv_cache, pair.extra_kv_cache))
    assert rows != extra_rows
    pair.indices[0, 0, ::3] = rows
    pair.indices[1, 0, ::5] = extra_rows - 1
    pair.extra_indices[1, 0, ::3] = extra_rows
    pair.extra_indices[2, 0, ::4] = rows - 1
    pair.extra_indices[3, 0, 1::2] = -1
    pair.indices[3, 0, :39] = -1
    check(pair)


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("sink", [None, 0.5])
@pytest.mark.parametrize("empty", ["first", "second", "both"])
def test_nothing_valid_in_one_cache_or_in_both(device, force_splits, parts, sink, empty):
    force_splits(parts)
    pair = make_pair(device, tokens=2)
    if empty in ("first", "both"):
        pair.indices[0] = -1
        pair.topk_length = lengths(device, 40, 0)
    if empty in ("second", "both"):
        pair.extra_indices[0] = -1
        pair.extra_topk_length = lengths(device, 70, 0)
    if sink is not None:
        pair.attn_sink = torch.tensor([-INF, INF] + [sink] * 6, device=device)
    out, lse = check(pair)
    if empty == "both":
        assert (out == 0).all()
        assert (lse == -INF).all()


@pytest.mark.parametrize("parts", [1, 3])
def test_the_sink_counts_once_and_not_in_the_lse(device, force_splits, parts):
    force_splits(parts)
    pair = make_pair(device)
    plain, plain_lse = run(pair)
    pair.attn_sink = torch.tensor([-INF, INF, 0.0, 3.0, -3.0, 60.0, -200.0, 6.5], device=device)
    out, lse = check(pair)
    assert torch.equal(lse, plain_lse)
    assert torch.equal(out[:, 0], plain[:, 0])
    assert (out[:, 1] == 0).all()


@pytest.mark.parametrize("poison", [NAN, INF])
@pytest.mark.parametrize("parts", [1, 2])
def test_rows_that_are_not_selected_never_leak(device, force_splits, poison, parts):
    force_splits(parts)
    pair = make_pair(device, tokens=1, heads=12)
    pair.topk_length, pair.extra_topk_length = lengths(device, 21), lengths(device, 50)
    pair.indices[0, 0, 3::5] = -1
    pair.extra_indices[0, 0, 3::5] = -1
    clean = run(pair)
    for name, end in (("", 21), ("extra_", 50)):
        cache, picked = getattr(pair, f"{name}kv_cache"), getattr(pair, f"{name}indices")[0, 0, :end]
        kept = torch.zeros(cache.shape[0] * cache.shape[1], dtype=torch.bool, device=device)
        kept[picked[picked >= 0].long()] = True
        cache[~kept.view(cache.shape[:2])] = poison
    dirty = check(pair)
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("name", ["kv_cache", "extra_kv_cache"])
def test_selected_nan_propagates_from_either_cache(device, name):
    pair = make_pair(device, tokens=1)
    picked = (pair.indices if name == "kv_cache" else pair.extra_indices)[0, 0, 11].item()
    cache = getattr(pair, name)
    cache[picked // cache.shape[1], picked % cache.shape[1]] = NAN
    out, _ = check(pair)
    assert out.isnan().all()


@pytest.mark.parametrize("heads", [8, 64])
def test_page_strides_beyond_32_bits(device, heads):
    """Both caches are slices of one allocation whose pages lie more than 2^31 elements apart."""
    stride = 2**31 + 2**12
    room = torch.empty(2 * stride + 2**16, dtype=torch.bfloat16, device=device)
    pair = make_pair(device, tokens=2, heads=heads, widths=(100, 5), page_sizes=(64, 2), layouts=("contiguous",) * 2)
    near = pair.kv_cache[:3], pair.extra_kv_cache[:3]
    pair.indices %= 192
    pair.extra_indices %= 6
    far = [
        torch.as_strided(room, cache.shape, (stride, 512, 512, 1), offset)
        for cache, offset in zip(near, (0, 2**15), strict=True)
    ]
    for cache, values in zip(far, near, strict=True):
        cache.copy_(values)
    expected = check(replace(pair, kv_cache=near[0].contiguous(), extra_kv_cache=near[1].contiguous()))
    found = run(replace(pair, kv_cache=far[0], extra_kv_cache=far[1]))
    for got, wanted in zip(found, expected, strict=True):
        assert torch.equal(got, wanted)


def test_selections_and_output_may_be_strided(device):
    pair = make_pair(device, tokens=3, heads=5)
    wide = torch.full((3, 2, 99), 7, dtype=torch.int32, device=device)
    view = wide[:, :1, 5:75]
    view.copy_(pair.extra_indices)
    pair.extra_indices = view
    room = torch.full((3, 7, 640), NAN, dtype=torch.bfloat16, device=device)
    out, _ = run(pair, out=room[:, :5, :512])
    assert_close("out", out, check(pair)[0], 1e-12)
    assert room[:, 5:].isnan().all()
    assert room[..., 512:].isnan().all()


def test_no_tokens(device):
    pair = make_pair(device, tokens=1)
    none = Pair(pair.q[:0], pair.kv_cache, pair.indices[:0], pair.extra_kv_cache, pair.extra_indices[:0])
    out, lse = run(none)
    assert (out.shape, lse.shape) == ((0, 8, 512), (0, 8))


@pytest.mark.parametrize("part", [(slice(0), slice(None)), (slice(None), slice(0))], ids=["no pages", "empty pages"])
@pytest.mark.parametrize(("empty", "other"), [("extra_", ""), ("", "extra_")])
def test_a_cache_without_rows_is_as_none(device, empty, other, part):
    pair = make_pair(device, heads=4, widths=(20, 30))
    setattr(pair, f"{empty}kv_cache", getattr(pair, f"{empty}kv_cache")[part])
    out, lse = check(pair)
    alone, alone_lse = sparse_mla_with_kvcache(**pair.alone(other))
    assert_close("out", out, alone, 1e-6)
    assert_close("lse", lse, alone_lse, 1e-6)


def test_same_inputs_same_bits(device):
    pair = make_pair(device, heads=8, widths=(40, 70))
    for one, other in zip(run(pair), run(pair), strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [8, 16, 64])
def test_prefill_of_8192_tokens(device, heads):
    pair = make_pair(device, tokens=8192, heads=heads, widths=(128, 512), page_sizes=(64, 64))
    position = torch.arange(8192, device=device)
    pair.topk_length = (position + 1).clamp(max=128).int()
    pair.extra_topk_length = ((position + 1) // 4).clamp(max=512).int()
    pair.attn_sink = torch.linspace(-3, 3, heads, device=device)
    out, lse = run(pair)
    some = torch.tensor([0, 1, 3, 127, 128, 2047, 4095, 8191], device=device)
    names = ("q", "indices", "topk_length", "extra_indices", "extra_topk_length")
    few = replace(pair, **{name: getattr(pair, name)[some] for name in names})
    expected_out, expected_lse = naive_sparse_mla_with_kvcache(**few.arguments())
    assert_rows_close("out", out[some], expected_out, 2 * LIMITS[torch.bfloat16])
    assert_close("lse", lse[some], expected_lse, 3e-6)
    assert out.isfinite().all()


@pytest.mark.gpu
def test_replays_in_a_cuda_graph_with_other_lengths(device):
    pair = make_pair(device, tokens=4, heads=16, widths=(128, 512), page_sizes=(64, 64))
    pair.topk_length, pair.extra_topk_length = lengths(device, 1, 2, 3, 4), lengths(device, 0, 1, 0, 1)
    out = torch.empty(4, 16, 512, dtype=torch.bfloat16, device=device)
    run(pair, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _, lse = sparse_mla_with_kvcache(**pair.arguments(), out=out)
    pair.topk_length.copy_(lengths(device, 128, 127, 0, 5))
    pair.extra_topk_length.copy_(lengths(device, 512, 0, 511, 77))
    out.fill_(NAN)
    graph.replay()
    expected_out, expected_lse = naive_sparse_mla_with_kvcache(**pair.arguments())
    assert_close("out", out, expected_out, LIMITS[torch.bfloat16])
    assert_close("lse", lse, expected_lse, 3e-6)


WRONG = {
    "extra_indices: got None with extra_kv_cache": lambda p: {"extra_indices": None},
    "extra_indices: got a tensor without extra_kv_cache": lambda p: {"extra_kv_cache": None},
    "extra_topk_length: got a tensor without extra_kv_cache": lambda p: {
        "extra_kv_cache": None,
        "extra_indices": None,
        "extra_topk_length": lengths(p.q.device, 1, 1),
    },
    "kv_format: got 'fp8_ds_mla', accepted: 'bf16' with extra_kv_cache": lambda p: {"kv_format": "fp8_ds_mla"},
    "q: got head dimension 576, accepted: 512 with extra_kv_cache": lambda p: {
        "q": torch.zeros(2, 8, 576, dtype=torch.bfloat16, device=p.q.device)
    },
    "extra_kv_cache: got dtype torch.float16": lambda p: {"extra_kv_cache": p.extra_kv_cache.half()},
    "extra_kv_cache: got shape": lambda p: {"extra_kv_cache": p.extra_kv_cache[..., 0, :]},
    "extra_indices: got shape [1, 1, 70]": lambda p: {"extra_indices": p.extra_indices[:1]},
    "extra_indices: got dtype torch.int64": lambda p: {"extra_indices": p.extra_indices.long()},
    "extra_indices: got topk 0": lambda p: {"extra_indices": p.extra_indices[..., :0]},
    "extra_topk_length: got shape [3]": lambda p: {"extra_topk_length": lengths(p.q.device, 1, 1, 1)},
    "extra_kv_cache: got device meta": lambda p: {"extra_kv_cache": p.extra_kv_cache.to("meta")},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(device, message):
    pair = make_pair(device)
    with pytest.raises(ArgumentError) as error:
        sparse_mla_with_kvcache(**{**pair.arguments(), **WRONG[message](pair)})
    assert str(error.value).startswith(message)
    assert "accepted: " in str(error.value)
