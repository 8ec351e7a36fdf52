"""The report of `dsa-doctor bench` for people, 80 columns wide, and as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

from dsa_doctor.bench.report import Report

if TYPE_CHECKING:
    from dsa_kernels.bench import Result

WIDTH = 80
_HEADINGS = f"{'':26}{'µs':>9}{'p10 to p90':>20}{'GB/s':>8}{'TFLOP/s':>9}{'floor':>8}"


def as_json(report: Report) -> str:
    """The report as one JSON object: the record of a benchmark run, with the setting and what follows from it."""
    from dsa_kernels.bench.record import as_record

    record = as_record("dsa-doctor bench", report.machine, report.results)
    whole = record | {
        "setting": asdict(report.setting),
        "ok": report.exit_code == 0,
        "seconds": round(report.seconds, 1),
    }
    return json.dumps(whole, indent=2, allow_nan=False) + "\n"


def as_human(report: Report) -> str:
    """The report as plain text, at most 80 columns wide."""
    lines = [*_header(report), "", _HEADINGS]
    for op, group in groupby(report.results, key=lambda one: one.op):
        lines += _group(op, list(group))
    return "\n".join([*lines, "", *_footer(report)]) + "\n"


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent)


def _header(report: Report) -> list[str]:
    setting, machine = report.setting, report.machine
    indexer = f"{setting.index_heads} index heads, " if setting.index_heads else ""
    lines = _wrap(
        f"{setting.model}, tensor parallel {setting.tensor_parallel_size}: {setting.heads} heads a rank, "
        f"{setting.kv_format} cache, {indexer}top-k {setting.index_topk:,}, next_n {setting.next_n}, "
        f"context {setting.context:,}"
    )
    lines += _wrap(
        f"{machine.gpu} ({machine.capability}), driver {machine.driver}, torch {machine.torch}, Triton {machine.triton}"
    )
    if machine.override_arch:
        asked = f"--emulate {machine.ptx_of}" if machine.ptx_of else f"TRITON_OVERRIDE_ARCH={machine.override_arch}"
        lines += _wrap(f"{asked}: {machine.pipeline}")
    lines += _wrap(
        f"measured ceilings: copy {machine.copy_bytes_per_s / 1e12:.2f} TB/s, bf16 product "
        f"{machine.bf16_flop_per_s / 1e12:.0f} TFLOP/s"
    )
    return lines


def _group(op: str, results: Sequence[Result]) -> list[str]:
    """The rows of an op under a line that says what they have in common."""
    varying = [key for key in results[0].shape if len({one.shape.get(key) for one in results}) > 1]
    varying = varying or list(results[0].shape)[:1]
    common = {key: value for key, value in results[0].shape.items() if key not in varying}
    lines = _wrap(f"{op} ({_text(common)})" if common else op)
    for one in results:
        lines += _row(_text({key: one.shape[key] for key in varying}), one)
    return lines


def _row(label: str, one: Result) -> list[str]:
    if one.timing is None or one.gb_per_s is None:
        return _wrap(f"  {label}: {one.status.upper()}, no speed: {one.message}", "    ")
    spread = f"{_figure(one.timing.low_us)} to {_figure(one.timing.high_us)}"
    flop = f"{one.tflop_per_s:9.1f}" if one.tflop_per_s is not None else f"{'-':>9}"
    row = f"  {label:24}{_figure(one.timing.median_us):>9}{spread:>20}{one.gb_per_s:8.0f}{flop}{one.share:8.0%}"
    lines = [row, *(_wrap(f"    {one.message}", "    ") if one.message else ())]
    for name, peer in one.peers.items():
        if peer.timing is None:
            lines += _wrap(f"    {name}: no speed: {peer.message}", "    ")
        else:
            ratio = peer.timing.median_us / one.timing.median_us
            lines.append(f"    {name}: {_figure(peer.timing.median_us)}, {ratio:.2f} times as long")
    return lines


def _figure(microseconds: float) -> str:
    return f"{microseconds:.1f}" if microseconds < 1000 else f"{microseconds:.0f}"


def _text(shape: Mapping[str, int | str]) -> str:
    return ", ".join(f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}" for key, value in shape.items())


def _footer(report: Report) -> list[str]:
    right = sum(one.status == "ok" for one in report.results)
    skipped = sum(one.status == "skipped" for one in report.results)
    lines = _wrap(
        "floor: share of the larger of two floors, bytes at the measured copy rate and FLOP at the measured bf16 rate. "
        "What stays in L2 can pass 100 %."
    )
    if not report.setting.index_heads:
        lines += _wrap("The indexer of this model is not this project's: not measured.")
    if skipped:
        lines += _wrap(f"Skipped for want of GPU memory: {skipped}.")
    if report.bad:
        names = ", ".join(dict.fromkeys(one.op for one in report.bad))
        lines += _wrap(f"{len(report.bad)} of {len(report.results)} are wrong or did not run: {names}.")
    else:
        lines += _wrap(f"All {right} results measured are right against the reference of their own shape.")
    return [*lines, f"{report.seconds:.0f} s"]
