"""Measures every shape on this machine's GPU; the only file of the command that touches it."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from dsa_doctor.bench.report import Report
from dsa_doctor.bench.shapes import OPS, BenchError, Fit, Setting, Shape, fit, shapes_of

if TYPE_CHECKING:
    import torch

    from dsa_kernels.bench import Case, Machine, Result

SAMPLING_MS, QUICK_SAMPLING_MS = 60.0, 15.0
_USED_SHARE = 0.8
"""Of the GPU memory that is free: the rest is for scratch of the ops and of their references."""

_WITHOUT_GPU = "Without one, `dsa-doctor verify --target a100` compiles the kernels and checks them."


def gather(setting: Setting, *, quick: bool, progress: Callable[[str], None] | None = None) -> Report:
    """Measure the ceilings, then gate and time every shape.

    Args:
        setting: from `setting_of`.
        quick: sample each shape for 15 ms in place of 60.
        progress: told what is measured next.

    Raises:
        BenchError: the GPU has too little free memory for the ceilings. `require_gpu` says what else is needed.
    """
    import torch

    from dsa_kernels.bench import measure_machine
    from dsa_kernels.bench.case import named

    started = time.monotonic()
    milliseconds = QUICK_SAMPLING_MS if quick else SAMPLING_MS
    torch.manual_seed(0)
    if progress:
        progress("ceilings: copy and bf16 product")
    try:
        machine = measure_machine(milliseconds)
    except torch.cuda.OutOfMemoryError:
        raise BenchError(
            "the GPU has too little free memory for the ceilings: 2.5 GB are needed. Stop what else runs on it, or "
            "choose another with CUDA_VISIBLE_DEVICES."
        ) from None
    results = []
    for shape in shapes_of(setting):
        if progress:
            progress(named(shape.op, shape.values))
        results.append(measure_shape(shape, setting, machine, milliseconds))
        torch.cuda.empty_cache()
    return Report(setting, machine, tuple(results), time.monotonic() - started)


def require_gpu() -> None:
    """Check that kernels run compiled on a GPU they were made for.

    Raises:
        BenchError: they do not; the message says what to do.
    """
    for module in ("torch", "triton"):
        if importlib.util.find_spec(module) is None:
            raise BenchError(f"bench needs {module}, which is not installed here: pip install vllm brings both.")
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise BenchError("TRITON_INTERPRET=1: times of the interpreter say nothing. Unset it.")
    import torch

    from dsa_kernels.emulation import VARIABLE, EmulationError, emulate
    from dsa_kernels.targets import has_kernels, running_capability

    if not torch.cuda.is_available():
        raise BenchError(f"bench measures on a CUDA GPU, and torch {torch.__version__} sees none. {_WITHOUT_GPU}")
    try:
        if os.environ.get(VARIABLE):
            emulate(os.environ[VARIABLE])
        capability = running_capability()
    except EmulationError as error:
        raise BenchError(f"--emulate: {error}.") from None
    except ValueError as error:
        raise BenchError(f"TRITON_OVERRIDE_ARCH: {error}") from None
    major, minor = torch.cuda.get_device_capability()
    if not (has_kernels(capability) and has_kernels(10 * major + minor)):
        raise BenchError(f"{torch.cuda.get_device_name()} is below compute capability 8.0, where the kernels begin.")


def measure_shape(shape: Shape, setting: Setting, machine: Machine, milliseconds: float) -> Result:
    """Gate and time one shape, as much of it as memory allows; nothing that the op does raises from here."""
    import torch

    from dsa_kernels.bench import Result, measure
    from dsa_kernels.bench.case import first_line

    fitting = fit(shape, setting, int(_USED_SHARE * torch.cuda.mem_get_info()[0]))
    if not fitting.rows:
        text = f"needs {fitting.bytes_needed / 2**30:.1f} GiB of free GPU memory"
        return Result(shape.op, shape.values, "skipped", 0.0, message=text)
    try:
        case = case_of(shape, setting, fitting, machine.l2_bytes)
    except Exception as error:
        return Result(shape.op, shape.values, "failed", 0.0, message=first_line(error))
    result = measure(case, machine, milliseconds)
    if result.status == "ok" and not fitting.whole:
        text = f"a cache of {fitting.rows:,} rows in place of {fitting.wanted:,}: requests share rows"
        return replace(result, message=text)
    return result


def case_of(shape: Shape, setting: Setting, fitting: Fit, l2_bytes: int, device: torch.device | str = "cuda") -> Case:
    """Make the case of a shape, inputs included."""
    from dsa_kernels.bench import indexer_cases, inputs, mla_cases, quant_cases

    values = shape.values
    if shape.op in OPS[:2]:
        decode = shape.op == OPS[0]
        if setting.kv_format == "fp8_ds_mla":
            cache = inputs.random_fp8_ds_mla(fitting.rows, device)
        else:
            rows = inputs.random_rows(fitting.rows, setting.d_qk, device)
            cache = rows.view(-1, inputs.PAGE_SIZE, 1, setting.d_qk)
        tokens = shape.batch * setting.next_n if decode else setting.prefill_tokens
        drawn = mla_cases.mla_inputs(
            cache,
            tokens,
            setting.heads,
            setting.index_topk,
            l2_bytes,
            span=setting.context,
            next_n=setting.next_n if decode else tokens,
            most_rotations=16,
        )
        return mla_cases.mla_case(shape.op, drawn, values, reread=not decode, batch_invariant=setting.batch_invariant)
    if shape.op == OPS[2]:
        paged = indexer_cases.paged_inputs(
            shape.batch,
            setting.next_n,
            setting.context,
            setting.index_heads,
            l2_bytes,
            most_pages=None if fitting.whole else fitting.rows // inputs.PAGE_SIZE,
            device=device,
        )
        return indexer_cases.paged_case(paged, values, setting.batch_invariant)
    if shape.op in (OPS[3], OPS[5]):
        ragged = indexer_cases.ragged_inputs(setting.prefill_tokens, setting.context, setting.index_heads, device)
        if shape.op == OPS[3]:
            return indexer_cases.ragged_case(ragged, values)
        return indexer_cases.chunked_case(ragged, setting.index_topk, values)
    if shape.op == OPS[4]:
        rows_, causal = int(values["rows"]), values["rows"] == setting.prefill_tokens
        logits = indexer_cases.topk_inputs(rows_, setting.context, setting.index_topk, l2_bytes, device, causal)
        return indexer_cases.topk_case(logits, values)
    tokens = int(values["tokens"])
    if shape.op == OPS[6]:
        return quant_cases.q_quant_case(
            tokens, setting.index_heads, setting.rope, setting.is_neox, values, setting.context, device
        )
    return quant_cases.k_cache_case(tokens, values, device)
