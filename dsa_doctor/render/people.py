"""The report for people, when a policy, several combinations or several environments are in play."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsa_doctor.policy.report import GatedVerdict, Report
from dsa_doctor.render.human import conclusion, kept_from_judging, print_verdict, show, state_text
from dsa_doctor.render.wording import case_title, clean, policy_lines, report_conclusion, subject
from dsa_doctor.verdict.schema import Verdict


def print_report(console: Console, report: Report, *, verbose: bool = False) -> None:
    """Print one verdict as it is; of several, a table first, then each that fails (verbose: every one)."""
    several = len(report.verdicts) > 1
    if several:
        show(console, _table(report))
        if any(case.environment is not None for case in report.verdicts):
            show(console, Text("\nSoftware", style="bold"))
            show(console, _environments(report))
    for case in report.verdicts:
        if not several or case.exit_code != 0 or verbose:
            if several:
                show(console, Text())
            print_verdict(
                console,
                _as_found(case),
                verbose=verbose,
                title=f"== {case_title(case)}" if several else None,
                outcome=None if report.plain else _without_policy(case),
            )
    print_closing(console, report)


def print_closing(console: Console, report: Report) -> None:
    """Print what the policy did, the outcome of the run, and the exact lines that would let a failing run pass.

    Where nothing could be judged, nothing is offered.
    """
    lines = list(policy_lines(report))
    if lines:
        show(console, Text(f"\nPolicy {clean(report.policy.source or '')}".rstrip(), style="bold"))
        for line in lines:
            show(console, Text(f"- {line}"))
    if not report.plain:
        style = "bold green" if report.exit_code == 0 else "bold red"
        show(console, Text(f"\n{report_conclusion(report)}", style=style))
    failing = [case for case in report.verdicts if case.exit_code != 0]
    if report.policy.downgrade_lines and any(kept_from_judging(case) is None for case in failing):
        place = clean(report.policy.downgrade_table)
        show(console, Text(f"\nTo let this pass knowingly, put into {place}:", style="dim"))
        for line in report.policy.downgrade_lines:
            console.print(Text(clean(line)), soft_wrap=True)  # to be copied as it is


def _without_policy(case: GatedVerdict) -> str:
    """Return the verdict's own outcome, marked as such: the policy has the last word below."""
    return f"Without the policy: {conclusion(_as_found(case))}"


def _as_found(case: GatedVerdict) -> Verdict:
    """Return the verdict as it was before the policy, its texts cleaned for a terminal."""
    fields = {name: _cleaned(value) for name, value in case.model_dump(include=set(Verdict.model_fields)).items()}
    return Verdict.model_validate({**fields, "exit_code": case.gate.exit_code_without_policy})


def _cleaned(value: object) -> object:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(name): _cleaned(inner) for name, inner in value.items()}
    return tuple(map(_cleaned, value)) if isinstance(value, tuple) else value


def _table(report: Report) -> Table:
    """Return one row per model and GPU; several environments stand side by side, layer by layer."""
    environments = list(dict.fromkeys(case.environment for case in report.verdicts))
    table = Table(box=None, pad_edge=False, header_style="bold")
    if len(environments) == 1:
        for heading in ("MODEL", "GPU", "1 csrc", "2 attention", "3 indexer", "EXIT"):
            table.add_column(heading, overflow="fold")
        for case in report.verdicts:
            table.add_row(*_subject(case), *(state_text(layer.state) for layer in case.layers), str(case.exit_code))
        return table
    for heading in ("MODEL", "GPU", "LAYER", *(clean(one or "this environment") for one in environments)):
        table.add_column(heading, overflow="fold")
    rows: dict[tuple[str, str], dict[str | None, GatedVerdict]] = {}
    for case in report.verdicts:
        rows.setdefault(_subject(case), {})[case.environment] = case
    for judged, by_environment in rows.items():
        cases = [by_environment.get(one) for one in environments]
        names = [layer.layer for layer in next(iter(by_environment.values())).layers]
        for index, name in enumerate(names):
            states = [state_text(case.layers[index].state) if case is not None else Text("") for case in cases]
            table.add_row(*(judged if index == 0 else ("", "")), f"{index + 1} {name}", *states)
        table.add_row("", "", "exit code", *(str(case.exit_code) if case is not None else "" for case in cases))
    return table


def _subject(case: GatedVerdict) -> tuple[str, str]:
    model, gpu = subject(case)
    return clean(model), clean(gpu)


def _environments(report: Report) -> Table:
    grid = Table.grid(padding=(0, 2))
    seen: dict[str, str] = {}
    for case in report.verdicts:
        software = case.software
        versions = (("vLLM", software.vllm), ("torch", software.torch), ("Triton", software.triton))
        judged = ", ".join(f"{name} {version or 'not installed'}" for name, version in versions)
        seen.setdefault(case.environment or "this environment", judged)
    for environment, judged in seen.items():
        grid.add_row(clean(environment), clean(judged))
    return grid
