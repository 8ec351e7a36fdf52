"""Inputs of the sparse MLA tests, poisoned memory, and the comparison with the reference."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass
class Case:
    """Arguments of `sparse_mla_fwd`."""

    q: torch.Tensor
    kv: torch.Tensor
    indices: torch.Tensor
    sm_scale: float
    attn_sink: torch.Tensor | None = None
    topk_length: torch.Tensor | None = None

    def arguments(self) -> dict[str, object]:
        return dict(vars(self))


def make_case(
    device: torch.device,
    tokens: int = 2,
    heads: int = 8,
    topk: int = 64,
    rows: int = 200,
    head_dim: int = 576,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
) -> Case:
    """Random rows and indices, every index valid and distinct within a token where there are rows enough."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(tokens, heads, head_dim, generator=generator).to(dtype)
    kv = torch.randn(rows, 1, head_dim, generator=generator).to(dtype)
    if rows >= topk:
        order = torch.rand(tokens, rows, generator=generator).argsort(dim=1)[:, :topk]
    else:
        order = torch.randint(0, rows, (tokens, topk), generator=generator)
    return Case(
        q=q.to(device),
        kv=kv.to(device),
        indices=order.to(torch.int32)[:, None, :].contiguous().to(device),
        sm_scale=head_dim**-0.5,
    )


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """What torch.empty returns holds NaN: a result that is not written shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


#: ‖out − ref‖ / ‖ref‖: rounding the output and the weights alone gives about 2e-3 for bf16 and 3e-4 for fp16.
LIMITS = {torch.bfloat16: 4e-3, torch.float16: 6e-4}


def assert_close(name: str, got: torch.Tensor, wanted: torch.Tensor, limit: float) -> None:
    """Masks of inf and NaN first, then the relative error of what is finite."""
    got, wanted = got.to(torch.float64).cpu(), wanted.to(torch.float64).cpu()
    assert got.shape == wanted.shape, name
    for kind, of in (("NaN", torch.isnan), ("+inf", torch.isposinf), ("-inf", torch.isneginf)):
        misplaced = (of(got) != of(wanted)).sum().item()
        assert misplaced == 0, f"{name}: {misplaced} of {got.numel()} differ in being {kind}"
    finite = torch.isfinite(wanted)
    norm = wanted[finite].norm()
    error = (got[finite] - wanted[finite]).norm()
    assert error <= limit * norm, f"{name}: relative error {(error / norm).item():.2e} above {limit:.0e}"


def assert_rows_close(name: str, got: torch.Tensor, wanted: torch.Tensor, limit: float) -> None:
    """`assert_close` for each (token, head) apart, so that a small wrong row cannot hide among large right ones."""
    for token in range(got.shape[0]):
        for head in range(got.shape[1]):
            assert_close(f"{name}[{token}, {head}]", got[token, head], wanted[token, head], limit)
