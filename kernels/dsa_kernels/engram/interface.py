"""The lookup of DeepSeek-V4.1's engram: rows of a table far larger than a GPU's share of it, by hashed ids."""

from __future__ import annotations

import torch

from dsa_kernels.engram.config import PROGRAMS, STEP_ROWS, WARPS
from dsa_kernels.engram.kernels import lookup_kernel
from dsa_kernels.errors import expect, expect_same_device, expect_tensor
from dsa_kernels.fp8.interface import CODES, INTEGERS
from dsa_kernels.targets import device_facts


def engram_lookup(
    table: torch.Tensor,
    scales: torch.Tensor,
    ids: torch.Tensor,
    out: torch.Tensor,
    first_id: int,
    first_head: int = 0,
    background: bool = False,
) -> None:
    """Fetch this rank's rows of an engram table and decode them to bf16.

    Row `ids[t, first_head + h] - first_id` of the table goes to `out[t, h]`: each value times its group's scale, exact
    but below 2^-126, where it is rounded or zero. Zeros where the id lies outside the table (a negative one for a token
    that takes no part, an id of another rank), and for heads past the last column of `ids`, which pad a rank.

    Args:
        table: [R, D] e4m3 codes, as float8_e4m3fn or uint8, contiguous, D a power of two; on the device of `ids`, or in
            pinned host memory, which is read over the bus. Offsets in it are 64 bits wide.
        scales: [R, D / group] uint8 or float8_e8m0fnu, contiguous, where the table is: exponents of powers of two, 127
            for 1; the group is a power of two. 255 is NaN, as e8m0 has it.
        ids: [T, hash columns] int32 or int64, any strides.
        out: [T, heads of this rank, D] bf16, contiguous, written in place whole.
        first_id: id of the table's first row.
        first_head: column of `ids` that the rank's first head is.
        background: leave most of the device to others: rows of a host table are bound by the bus.

    Raises:
        ArgumentError: a wrong shape, dtype, stride or device; the message names the argument.

    Source: `ParallelEngramEmbedding.lookup` of vLLM (models/deepseek_v41/common/engram.py), whose kernel needs Triton's
    fp8e4nv. There the scale of byte 0 is 0, and that of 255 infinite.
    """
    expect_tensor("table", table, ["R", "D"], CODES)
    rows, width = table.shape
    expect(rows > 0, "table", f"shape {list(table.shape)}", "at least one row")
    expect(_is_power_of_two(width) and width >= 16, "table", f"rows of {width}", "a power of two, at least 16")
    expect_tensor("scales", scales, [rows, "groups"], [torch.uint8, torch.float8_e8m0fnu])
    groups = scales.shape[1]
    expect(_is_power_of_two(groups) and groups <= width, "scales", f"{groups} a row", f"a power of two up to {width}")
    expect_tensor("ids", ids, ["T", "hash columns"], INTEGERS)
    tokens, columns = ids.shape
    expect_tensor("out", out, [tokens, "heads", width], [torch.bfloat16])
    heads = out.shape[1]
    expect(first_head >= 0, "first_head", first_head, "0 or more")
    expect(tokens * heads < 2**30, "out", f"{tokens * heads} rows", "fewer than 2^30")
    for name, tensor in (("table", table), ("scales", scales), ("out", out)):
        expect(tensor.is_contiguous(), name, f"strides {tensor.stride()}", "a contiguous tensor")
    expect_same_device("ids", ids, out=out)
    for name, tensor in (("table", table), ("scales", scales)):
        reachable = tensor.device == ids.device or tensor.is_pinned()
        expect(reachable, name, f"pageable memory of {tensor.device}", f"{ids.device}, or pinned host memory")
    count = tokens * heads
    if not count:
        return
    multiprocessors = device_facts(ids.device)[1]
    most = max(1, multiprocessors // 2) if background else PROGRAMS * multiprocessors
    lookup_kernel[(min(-(-count // STEP_ROWS), most),)](
        table.view(torch.uint8),
        scales.view(torch.uint8),
        ids,
        out,
        first_id,
        rows,
        count,
        heads,
        first_head,
        columns,
        ids.stride(0),
        ids.stride(1),
        WIDTH=width,
        GROUP=width // groups,
        ROWS=STEP_ROWS,
        num_warps=WARPS,
    )


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
