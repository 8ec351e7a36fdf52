"""What to do about a verdict, in order: steps with their alternatives, and the findings that each belongs to.

A layer that is not resolved needs one step; what else would resolve the same layer is an alternative to it. A remedy
that several layers share is one step. What only warns, or concerns the judging machine alone, stands apart.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from shlex import quote
from typing import Literal

from dsa_doctor.verdict.schema import LAYER_NUMBERS, Finding, Verdict

Kind = Literal["command", "flag", "advice"]

_COMMANDS = ("dsa-doctor ", "pip ", "python ", "unset ", "export ", "uv ", "docker ", "ulimit ", "nvidia-smi")
_COMMENT = "   # "

ADVISED = "Advised: "
HERE = "On this machine, which is not the one judged: "
OR = "   or "


@dataclass(frozen=True)
class Remedy:
    """One remedy of a finding.

    Attributes:
        kind: a command for a shell, a flag for `vllm serve`, or advice in words.
        text: what to type, or the advice.
        note: what it does, where that is said.
    """

    kind: Kind
    text: str
    note: str = ""

    @property
    def lead(self) -> str:
        """Return the words that say what to do with the text."""
        return {"command": "run: ", "flag": "give vllm serve: ", "advice": ""}[self.kind]


@dataclass
class Step:
    """One thing to do: the nearest remedy first, the others in its place."""

    remedies: list[Remedy]
    findings: list[Finding] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """Return what the step is for: its findings, with the layer where it has a number."""
        return ", ".join(dict.fromkeys(f"{one.id} ({_layer_of(one)})" for one in self.findings))


@dataclass(frozen=True)
class Todo:
    """What to do.

    Attributes:
        needed: steps without which it does not run, or cannot be told; in order.
        advised: steps for what only warns.
        here: steps that concern the machine that judges, not the GPU that is judged.
    """

    needed: tuple[Step, ...]
    advised: tuple[Step, ...]
    here: tuple[Step, ...]

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.needed or self.advised or self.here)

    def marked(self) -> Iterator[tuple[str, Step]]:
        """Yield every step with what stands before it, in order."""
        yield from ((f"{number}. ", step) for number, step in enumerate(self.needed, start=1))
        yield from ((ADVISED, step) for step in self.advised)
        yield from ((HERE, step) for step in self.here)


def todo(verdict: Verdict) -> Todo:
    """Return what to do about a verdict."""
    asked = verdict.model.name if verdict.model is not None else verdict.asked
    here = [one for one in verdict.findings if one.status != "pass" and one.judge_only]
    rest = [one for one in verdict.findings if one not in here]
    blocking = [one for one in rest if one.status in {"fail", "unknown"}]
    if verdict.exit_code != 0 and not blocking:
        blocking = [one for one in rest if one.status == "skip"]  # what keeps it from being judged at all
    advised = [one for one in rest if one.status == "warn"]
    needed = _steps(blocking, asked)
    known = {remedy.text for step in needed for remedy in step.remedies}
    return Todo(
        tuple(needed),
        tuple(step for step in _steps(advised, asked) if step.remedies[0].text not in known),
        tuple(_steps(here, asked)),
    )


def todo_lines(verdict: Verdict) -> list[str]:
    """Return what to do as plain lines: numbered steps, their alternatives below them, each with its findings."""
    lines = []
    for mark, step in todo(verdict).marked():
        for index, remedy in enumerate(step.remedies):
            note = f"   # {remedy.note}" if remedy.note else ""
            lines.append(f"{OR if index else mark}{remedy.lead}{remedy.text}{note}")
        lines.append(f"   for {step.reason}")
    return lines


def remedy_of(text: str, model: str | None = None) -> Remedy:
    """Return a remedy taken apart; the word MODEL in a command becomes the model that was asked for."""
    body, _, note = text.partition(_COMMENT)
    if body.startswith("--"):
        return Remedy("flag", body, note)
    if body.startswith(_COMMANDS):
        return Remedy("command", body.replace(" MODEL", f" {quote(model)}") if model is not None else body, note)
    return Remedy("advice", body, note)


def _steps(findings: Sequence[Finding], model: str | None) -> list[Step]:
    """Return one step per layer (csrc and runtime: per finding); equal first remedies are one step."""
    steps: dict[str, Step] = {}
    by_layer: dict[str, Step] = {}
    for finding in findings:
        remedies = [remedy_of(one, model) for one in finding.remedy]
        if not remedies:
            continue
        step = steps.get(remedies[0].text)
        if step is None and finding.layer in {"attention", "indexer"}:
            step = by_layer.get(finding.layer)
        if step is None:
            step = steps[remedies[0].text] = Step([])
        if finding.layer in {"attention", "indexer"}:
            by_layer.setdefault(finding.layer, step)
        step.remedies += _new(remedies, step.remedies)
        step.findings.append(finding)
    return list(steps.values())


def _layer_of(finding: Finding) -> str:
    return "runtime" if finding.layer == "runtime" else f"{LAYER_NUMBERS[finding.layer]} {finding.layer}"


def _new(remedies: Iterable[Remedy], known: Sequence[Remedy]) -> list[Remedy]:
    return [one for one in remedies if one.text not in {other.text for other in known}]
