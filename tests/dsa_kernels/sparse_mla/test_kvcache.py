import pytest
import torch

from dsa_kernels.sparse_mla import dequantize_fp8_ds_mla, naive_sparse_mla_with_kvcache, sparse_mla_with_kvcache
from tests.dsa_kernels.sparse_mla.cases import LIMITS, assert_close, assert_rows_close, make_case, poisoned_memory

PAGE = 16


def make_cache(
    device: torch.device, pages: int, page_size: int, width: int, dtype: torch.dtype, layout: str
) -> torch.Tensor:
    """An empty cache whose pages are contiguous, lie apart, or have rows that lie apart; NaN between."""
    shape = {"contiguous": (pages, page_size, 1, width), "pages": (2 * pages, page_size, 1, width)}
    room = torch.empty(shape.get(layout, (pages + 1, page_size + 3, 2, width + 64)), dtype=dtype, device=device)
    room.view(torch.uint8).fill_(0xFF)  # NaN in bf16, fp16, fp32 and e4m3
    if layout == "contiguous":
        return room
    return room[1::2] if layout == "pages" else room[1:, :page_size, :1, :width]


def fp8_tokens(shape: tuple[int, ...], seed: int, low: float = -3, high: float = 3) -> torch.Tensor:
    """Random fp8_ds_mla tokens [..., 656] with scales from 2^low to 2^high."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.empty(*shape, 656, dtype=torch.uint8)
    codes = torch.randn(*shape, 512, generator=generator).to(torch.float8_e4m3fn)
    scales = torch.exp2(torch.rand(*shape, 4, generator=generator) * (high - low) + low)
    tokens[..., :512] = codes.view(torch.uint8)
    tokens[..., 512:528] = scales.view(torch.uint8)
    tokens[..., 528:] = torch.randn(*shape, 64, generator=generator).to(torch.bfloat16).view(torch.uint8)
    return tokens


def check(q, cache, indices, limit=None, **options):
    sm_scale = options.pop("sm_scale", q.shape[2] ** -0.5)
    with poisoned_memory():
        out, lse = sparse_mla_with_kvcache(q, cache, indices, sm_scale, **options)
    options.pop("out", None)
    expected_out, expected_lse = naive_sparse_mla_with_kvcache(q, cache, indices, sm_scale, **options)
    assert_close("out", out, expected_out, limit or LIMITS[q.dtype])
    assert_rows_close("out", out, expected_out, 2 * (limit or LIMITS[q.dtype]))
    assert_close("lse", lse, expected_lse, 3e-6)
    return out, lse


@pytest.mark.parametrize("layout", ["contiguous", "pages", "rows"])
@pytest.mark.parametrize("head_dim", [576, 512])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_paged_rows(device, layout, head_dim, dtype):
    case = make_case(device, tokens=2, heads=12, topk=100, rows=8 * PAGE, head_dim=head_dim, dtype=dtype)
    case.indices[0, 0, :4] = torch.tensor([-1, 8 * PAGE, 2**31 - 1, -(2**31)], dtype=torch.int32, device=device)
    cache = make_cache(device, 8, PAGE, head_dim, dtype, layout)
    cache.copy_(case.kv.view(8, PAGE, 1, head_dim))
    sink = torch.linspace(-3, 3, 12, device=device)
    length = torch.tensor([100, 41], dtype=torch.int32, device=device)
    check(case.q, cache, case.indices, attn_sink=sink, topk_length=length)


@pytest.mark.parametrize("page_size", [1, 48, 64])
@pytest.mark.parametrize("pages", [1, 3])
def test_page_sizes(device, page_size, pages):
    case = make_case(device, tokens=1, topk=33, rows=pages * page_size)
    cache = make_cache(device, pages, page_size, 576, torch.bfloat16, "pages")
    cache.copy_(case.kv.view(pages, page_size, 1, 576))
    check(case.q, cache, case.indices)


@pytest.mark.parametrize("layout", ["contiguous", "pages", "rows"])
@pytest.mark.parametrize("heads", [8, 20, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_fp8_tokens(device, on_gpu, layout, heads, dtype):
    tokens, topk, pages = (20, 2051, 400) if on_gpu else (1, 70, 8)
    case = make_case(device, tokens, heads, topk, pages * PAGE, dtype=dtype)
    cache = make_cache(device, pages, PAGE, 656, torch.uint8, layout)
    cache.copy_(fp8_tokens((pages, PAGE, 1), seed=1))
    out = torch.empty(tokens, heads, 512, dtype=dtype, device=device)
    result, _ = check(case.q, cache, case.indices, kv_format="fp8_ds_mla", out=out)
    assert result.data_ptr() == out.data_ptr()


@pytest.mark.parametrize("exponent", [-20, -9, 0, 9, 20])
def test_every_fp8_code_through_any_scale(device, exponent):
    """Selecting a single row returns it, bit for bit: its softmax weight is one."""
    codes = torch.arange(256, dtype=torch.uint8)
    finite = codes[codes & 0x7F != 0x7F]
    tokens = fp8_tokens((5, 1, 1), seed=2)
    for row in range(3):  # 3 rows of 128 codes: each code under each of the four scales
        group = finite[(torch.arange(128) + 100 * row) % 254]
        tokens[row, 0, 0, :512] = group.repeat(4)
    tokens[3, ..., 5] = 0x7F
    tokens[4, ..., 511] = 0xFF
    scales = torch.tensor([2.0**exponent, 1.5 * 2.0**exponent, 1.0, 2.0**-exponent])
    tokens[..., 512:528] = scales.view(torch.uint8)
    assert tokens[:3, 0, 0, :128].unique().numel() == 254
    cache = tokens.to(device)
    q = torch.ones(5, 1, 576, dtype=torch.bfloat16, device=device) * 2.0**-24
    indices = torch.arange(5, dtype=torch.int32, device=device)[:, None, None]
    with poisoned_memory():
        out, _ = sparse_mla_with_kvcache(q, cache, indices, 1.0, kv_format="fp8_ds_mla")
    values = tokens[:, 0, 0, :512].contiguous().view(torch.float8_e4m3fn).double().view(5, 4, 128)
    wanted = (values * scales.double()[:, None]).view(5, 1, 512).to(torch.bfloat16).to(device)
    assert torch.equal(out[:3], wanted[:3])
    # A NaN anywhere in a selected row makes its logit NaN, and with it the whole output.
    assert out[3:].isnan().all()


@pytest.mark.parametrize("poison", [0x7F, 0xFF])
def test_fp8_rows_that_are_not_selected_never_leak(device, poison):
    case = make_case(device, tokens=1, heads=8, topk=40, rows=8 * PAGE)
    cache = make_cache(device, 8, PAGE, 656, torch.uint8, "contiguous")
    cache.fill_(poison)
    kept = case.indices[0, 0, :30].long()
    case.indices[0, 0, 30:] = -1
    cache.view(-1, 656)[kept] = fp8_tokens((30,), seed=3).to(device)
    out, _ = check(case.q, cache, case.indices, kv_format="fp8_ds_mla")
    assert out.isfinite().all()


def test_fp16_overflow_of_code_times_scale_is_inf(device):
    cache = fp8_tokens((1, 1, 1), seed=4)
    cache[..., :512] = torch.full((512,), 448.0).to(torch.float8_e4m3fn).view(torch.uint8)
    cache[..., 512:528] = torch.tensor([1.0, 146.0, 147.0, 1e6]).view(torch.uint8)
    cache = cache.to(device)
    q = torch.zeros(1, 1, 576, dtype=torch.float16, device=device)
    indices = torch.zeros(1, 1, 1, dtype=torch.int32, device=device)
    rows = dequantize_fp8_ds_mla(cache, torch.float16).view(-1)[:512].view(4, 128)
    assert rows[:2].isfinite().all()
    assert rows[2:].isinf().all()
    # 0 * inf: the logit, and so the output, is NaN, as for an fp16 cache that holds inf.
    out, lse = sparse_mla_with_kvcache(q, cache, indices, 1.0, kv_format="fp8_ds_mla")
    expected_out, expected_lse = naive_sparse_mla_with_kvcache(q, cache, indices, 1.0, kv_format="fp8_ds_mla")
    assert_close("out", out, expected_out, 1e-3)
    assert_close("lse", lse, expected_lse, 1e-3)
