import pytest
import torch

from dsa_kernels import gluon_support
from dsa_kernels.sparse_mla import (
    launch,
    naive_sparse_mla_fwd,
    sparse_mla_fwd,
    warmup_sparse_mla,
    warmup_two_sources,
)
from dsa_kernels.sparse_mla import plan as plans
from dsa_kernels.sparse_mla.config import MAX_SPLITS
from dsa_kernels.sparse_mla.interface import sparse_mla_with_kvcache
from dsa_kernels.sparse_mla.kernels import _ANY_ALIGNMENT, merge_kernel
from dsa_kernels.targets import VERIFIED_TARGETS, device_facts
from tests.dsa_kernels.sparse_mla.cases import make_case


@pytest.mark.parametrize("capability", VERIFIED_TARGETS)
@pytest.mark.parametrize("heads", [1, 8, 16, 17, 32, 33, 64, 128])
def test_configuration_does_not_depend_on_the_batch(capability, heads):
    found = {
        plans.plan_launch(tokens, heads, topk, False, capability, 108).config
        for tokens in (1, 7, 128, 5000)
        for topk in (1, 64, 2051)
    }
    assert len(found) == 1


def test_short_batches_fill_the_gpu_and_long_ones_are_not_cut():
    for tokens in (1, 2, 8, 32, 64):
        plan = plans.plan_launch(tokens, 8, 2048, False, 80, 108)
        programs = tokens * plan.num_head_blocks * plan.num_splits
        assert programs >= 0.6 * 108 * plan.config.programs_per_sm or plan.num_splits == 32
        assert programs <= 108 * plan.config.programs_per_sm
    assert plans.plan_launch(4096, 8, 2048, False, 80, 108).num_splits == 1
    assert plans.plan_launch(1, 8, 10**6, False, 80, 108).num_splits == MAX_SPLITS
    assert plans.plan_launch(1, 8, 1, False, 80, 108).num_splits == 1
    assert plans.plan_launch(0, 8, 2048, False, 80, 108).num_splits >= 1


class Recorder:
    """Stands for a kernel; notes what a launch would specialise on, in Triton's terms."""

    def __init__(self, kernel, seen: set[object]) -> None:
        self.kernel, self.seen = kernel, seen

    def __getitem__(self, grid):
        def launch_kernel(*arguments, **constexprs):
            types = []
            for name, value in zip(self.kernel.arg_names, arguments, strict=False):
                if isinstance(value, torch.Tensor):
                    aligned = name in _ANY_ALIGNMENT or value.data_ptr() % 16 == 0
                    types.append((str(value.dtype), aligned))
                else:
                    types.append("i32" if isinstance(value, int) and abs(value) < 2**31 else type(value).__name__)
            self.seen.add((self.kernel.__name__, tuple(types), tuple(sorted(constexprs.items()))))

        return launch_kernel


@pytest.fixture
def specialisations(monkeypatch):
    seen: set[object] = set()
    choose = launch.attention_kernel

    def record(config, fp8):
        kernel, keywords = choose(config, fp8)
        return Recorder(kernel, seen), keywords

    monkeypatch.setattr(launch, "attention_kernel", record)
    monkeypatch.setattr(launch, "merge_kernel", Recorder(merge_kernel, seen))
    return seen


@pytest.mark.parametrize("heads", [8, 64])
@pytest.mark.parametrize("kv_format", ["bf16", "fp8_ds_mla"])
def test_warmup_covers_what_serving_reaches(specialisations, device, heads, kv_format):
    warmup_sparse_mla(heads, kv_formats=(kv_format,), page_size=64, device=device)
    warmed = set(specialisations)
    names = {name for name, _, _ in warmed}
    assert "merge_kernel" in names
    assert len(names) == 2
    specialisations.clear()
    width, dtype = (656, torch.uint8) if kv_format == "fp8_ds_mla" else (576, torch.bfloat16)
    pages = torch.zeros(6, 64, 1, width, dtype=dtype, device=device)
    for cache in (pages, pages[1:], pages[::2], pages[1::3], pages[:1]):
        for tokens in (1, 2, 3, 16, 17, 200):
            for topk in (1, 64, 2048, 2051):
                q = torch.zeros(tokens + 1, heads, 576, dtype=torch.bfloat16, device=device)[1:]
                indices = torch.zeros(tokens + 1, 1, topk, dtype=torch.int32, device=device)[1:]
                sink = torch.zeros(heads, device=device) if topk == 64 else None
                length = torch.ones(tokens + 1, dtype=torch.int32, device=device)[1:] if tokens > 2 else None
                sparse_mla_with_kvcache(q, cache, indices, 1.0, kv_format=kv_format, attn_sink=sink, topk_length=length)
    assert specialisations, "nothing was launched"
    assert specialisations <= warmed


@pytest.mark.parametrize("heads", [8, 64])
def test_warmup_covers_two_sources_whatever_their_strides(specialisations, device, heads):
    warmup_two_sources(heads, ((64, 64), (64, 2)), device=device)
    warmed = set(specialisations)
    assert len(warmed) == 3, "two pairs of page sizes, and the merge"
    specialisations.clear()
    window = torch.zeros(6, 64, 1, 512, dtype=torch.bfloat16, device=device)
    for page_size in (64, 2):
        rows = torch.zeros(6, page_size, 1, 512, dtype=torch.bfloat16, device=device)
        for first, second in ((window, rows), (window[::2], rows), (window, rows[1::3]), (window[:1], rows[:1])):
            for tokens, width, extra_width in ((1, 1, 7), (3, 128, 512), (200, 192, 8192)):
                q = torch.zeros(tokens + 1, heads, 512, dtype=torch.bfloat16, device=device)[1:]
                indices = torch.zeros(tokens + 1, 1, width, dtype=torch.int32, device=device)[1:]
                extra = torch.zeros(tokens + 1, 1, extra_width, dtype=torch.int32, device=device)[1:]
                length = torch.ones(tokens + 1, dtype=torch.int32, device=device)[1:] if tokens > 1 else None
                sparse_mla_with_kvcache(
                    q,
                    first,
                    indices,
                    1.0,
                    attn_sink=torch.zeros(heads, device=device),
                    topk_length=length,
                    extra_kv_cache=second,
                    extra_indices=extra,
                    extra_topk_length=length,
                )
    assert specialisations, "nothing was launched"
    assert specialisations <= warmed


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [8, 64])
def test_nothing_compiles_after_warmup(device, heads):
    capability, _ = device_facts(device)
    kernel, _ = launch.attention_kernel(plans.tile_config(capability, heads, False, gluon_support.USABLE), False)

    def compiled() -> int:
        return sum(len(cache[0]) for one in (kernel, merge_kernel) for cache in one.device_caches.values())

    warmup_sparse_mla(heads, device=device)
    before = compiled()
    assert before > 0
    for tokens in (1, 2, 3, 16, 17, 200, 1000):
        case = make_case(device, tokens=tokens, heads=heads, topk=300, rows=640)
        sparse_mla_fwd(**case.arguments())
        case.topk_length = torch.full((tokens,), 77, dtype=torch.int32, device=device)
        case.attn_sink = torch.zeros(heads, device=device)
        out, _, _ = sparse_mla_fwd(**case.arguments())
        assert torch.allclose(out.double(), naive_sparse_mla_fwd(**case.arguments())[0], atol=2e-2)
    assert compiled() == before
