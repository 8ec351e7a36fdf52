"""`dsa-doctor verify`."""

import sys
import time
from typing import Annotated

import typer

from dsa_doctor.cli.check import Format
from dsa_doctor.cli.completion import complete_target
from dsa_doctor.cli.output import console, fail_usage, print_data

EXIT_NOT_VERIFIED = 3
"""Exit status where a kernel does not compile or fit, or where a case failed or could not be judged."""


def verify(
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            metavar="GPU",
            autocompletion=complete_target,
            help="Compile for this GPU instead, without one: a100, 4090, sm80, 8.0, ...",
            show_default=False,
        ),
    ] = None,
    op: Annotated[
        list[str] | None,
        typer.Option(
            "--op",
            metavar="OP",
            help="Test this op alone (repeatable): sparse_mla, indexer_logits, topk, indexer_topk, fp8, kpool, "
            "compressor, mhc, engram or wheel_topk.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[int, typer.Option("--device", metavar="N", min=0, help="Which GPU, as torch counts them.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Small shapes: quicker, and shows less.")] = False,
    emulate: Annotated[
        str | None,
        typer.Option(
            "--emulate",
            metavar="TARGET",
            help="Run code for an older GPU on this one: PTX whose own target is a100, sm80, 8.6, ...",
            show_default=False,
        ),
    ] = None,
    output_format: Annotated[Format, typer.Option("--format", "-f", help="How to print the table.")] = Format.HUMAN,
) -> None:
    """Run the adversarial self-test of every op on this GPU, against references and full sorts.

    The ops are dsa-doctor's, and the top-k ops of the installed vLLM. With --target nothing runs: every kernel is
    compiled for that GPU, and registers, spills and shared memory are shown.

    Exit code: 0 everything passed; 3 something failed, does not compile or could not be judged; 2 wrong usage, or
    neither a GPU nor --target.
    """
    if target is None:
        if emulate is not None:
            emulate_or_fail(emulate)
        _run(tuple(op or ()), device, quick, output_format)
        return
    chosen = (("--op", bool(op)), ("--device", device != 0), ("--quick", quick), ("--emulate", emulate is not None))
    for option, given in chosen:
        if given:
            fail_usage(f"{option}: chooses what runs on a GPU; with --target nothing runs. Give one or the other.")
    _compile(target, output_format)


def emulate_or_fail(text: str) -> None:
    """Have every kernel of this run compiled as for another target, or end with what is wrong about that."""
    from dsa_doctor.verify.emulate import EmulationRefusedError, set_emulation

    try:
        set_emulation(text)
    except EmulationRefusedError as error:
        fail_usage(str(error))


def _compile(target: str, output_format: Format) -> None:
    from dsa_doctor.catalog.targets import target_from_text
    from dsa_doctor.verify import as_human, as_json, verify_target

    try:
        table = verify_target(target_from_text(target).capability.sm)
    except ValueError as error:
        fail_usage(str(error))
    if output_format is Format.JSON:
        print_data(as_json(table))
    else:
        shown, sentence = as_human(table)
        if table.rows:
            console().print(shown)
        console().print(sentence)
    if not table.ok:
        raise typer.Exit(EXIT_NOT_VERIFIED)


def _run(ops: tuple[str, ...], device: int, quick: bool, output_format: Format) -> None:
    from dsa_doctor import verify as verification
    from dsa_doctor.probes import gpus

    try:
        groups = verification.groups_of(ops)
    except ValueError as error:
        fail_usage(str(error))
    inventory = gpus.probe()
    if inventory.status == "absent":
        _fail_without_gpu(inventory.cause or "no GPU")
    driver = inventory.value.driver_version if inventory.value else None
    test = verification.SelfTest(groups, ops, f"cuda:{device}", quick)
    human = output_format is Format.HUMAN
    start = time.monotonic()
    cases: list[verification.Judged] = []
    for record in test.records():
        case = verification.judge_record(record)
        if human and not cases:
            _say(*verification.machine_lines(test.machine, driver, quick), "", verification.heading())
        cases.append(case)
        if human:
            _say(*verification.row_lines(case))
    if test.no_device:
        _fail_without_gpu(test.no_device)
    report = verification.judge(test.machine, cases, time.monotonic() - start)
    if human:
        details = verification.detail_lines(report)
        _say("", *details, *([""] if details else []), *verification.closing_lines(report))
    else:
        print_data(verification.report_json(report, driver, quick))
    if not report.ok:
        raise typer.Exit(EXIT_NOT_VERIFIED)


def _say(*lines: str) -> None:
    """Plain text that lasts under a pipe: written as it comes."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def _fail_without_gpu(reason: str) -> None:
    fail_usage(
        f"verify: no GPU to test on ({reason}). Run it on the machine with the GPU, or give --target (such as "
        "--target a100) to compile every kernel for that GPU here."
    )
