"""From a log to its explanation: collects what the classifiers see, merges the ranks, and keeps what is proven."""

import re
from dataclasses import dataclass, field
from typing import BinaryIO

from dsa_doctor import __version__
from dsa_doctor.catalog.capability import Capability
from dsa_doctor.catalog.findings import FINDINGS_BY_ID
from dsa_doctor.catalog.targets import find_gpu
from dsa_doctor.explain.background import NEEDLES, Background
from dsa_doctor.explain.causes import CAUSES, Cause
from dsa_doctor.explain.deep_gemm import MIXING
from dsa_doctor.explain.ending import Ending, judge
from dsa_doctor.explain.excerpt import Excerpt
from dsa_doctor.explain.marks import MARKS, SERVED, TROUBLE
from dsa_doctor.explain.outlook import next_failures, plugin_gate, plugin_outlook
from dsa_doctor.explain.reader import REQUESTS, LogReader, Repeats
from dsa_doctor.explain.remedies import Setting, fitting
from dsa_doctor.explain.schema import EvidenceLine, Explanation, LogContext, LogFinding, PossibleCause, exit_code_of
from dsa_doctor.explain.sighting import Sighting
from dsa_doctor.explain.signs import SIGNS
from dsa_doctor.explain.stop import stopped_by
from dsa_doctor.explain.text import Line
from dsa_doctor.explain.wording import message_of, summary_of
from dsa_doctor.facts.schema import Facts
from dsa_doctor.redaction import redact
from dsa_doctor.resolver.request import PluginMode, Target
from dsa_doctor.resolver.settings import plugin_settings

_MAX_EVIDENCE = 4
_MAX_TEXT = 400
_MAX_NUMBERS = 4096
_POOR_ACCEPTANCE = 10.0
"""Percent of drafted tokens below which drafting is of no use, whatever the model."""

_MARKS = tuple(dict.fromkeys(mark.needle for mark in MARKS if mark.name != SERVED))
_NEEDLES = (*REQUESTS, *(one.encode() for one in (*(sign for sign, _ in SIGNS), *NEEDLES, *_MARKS, *TROUBLE)))
_FIRST_SIGN = len(REQUESTS)
_FIRST_MARK = _FIRST_SIGN + len(SIGNS) + len(NEEDLES)
_FIRST_TROUBLE = _FIRST_MARK + len(_MARKS)


@dataclass
class _Collected:
    """All sightings of one finding."""

    first: Sighting
    weak: bool
    count: int = 0
    last_line: int = 0
    lines: dict[str, Line] = field(default_factory=dict)
    details: dict[str, list[str]] = field(default_factory=dict)
    numbers: set[int] = field(default_factory=set)

    @property
    def number(self) -> int:
        """Return the line of the finding."""
        return self.first.lines[0].number


def explain(
    stream: BinaryIO, *, target: Target | None = None, facts: Facts | None = None, plugin_mode: PluginMode | None = None
) -> Explanation:
    """Explain a log; memory does not grow with it.

    Args:
        stream: the log, a traceback or a pasted issue; packed or not, in any encoding.
        target: the GPU that the log is from, where the user names it.
        facts: of the environment that the log is from.
        plugin_mode: as DSA_DOCTOR_PLUGIN; None leaves it to the facts.

    Raises:
        NotALogError: the input is no text.
    """
    reader, background, collected, excerpt = _read(stream)
    lines = excerpt.lines()
    background.note_engine(lines)
    ending = judge(lines)
    notes = _notes(ending, background, reader.remark)
    kept = _keep(collected, background, ending, lines, notes)
    layers = {str(FINDINGS_BY_ID[one.first.id].layer) for one in kept}
    capability, gpu, source = _gpu(background, target, facts)
    if (contradiction := _contradiction(background, target)) is not None:
        kept.append(contradiction)
    model = background.models[0] if background.models else None
    setting = _setting(background, capability, gpu, facts)
    gate = None
    if (target is not None or facts is not None) and capability is not None:
        gate = plugin_gate(capability, facts=facts, mode=plugin_mode, model=model)
    findings = []
    for one in kept:
        details = {name: ", ".join(values[:4]) for name, values in one.details.items()}
        cause = CAUSES[one.first.id]
        shown_next = background.uses_dsa is not False and setting.platform in {None, "cuda"}
        findings.append(
            LogFinding(
                id=one.first.id,
                layer=FINDINGS_BY_ID[one.first.id].layer,
                line=one.number,
                count=max(one.count, 1),
                summary=redact(summary_of(one.first.id, details, background)),
                evidence=_evidence(one),
                remedy=tuple(redact(text) for text in _remedies(one.first, cause, setting)),
                backends=one.first.backends,
                next=next_failures(one.first.id, capability, layers) if shown_next else (),
                plugin=plugin_outlook(one.first.id, details, gate[0], judged=gate[1]) if gate is not None else None,
                dsa=False if background.uses_dsa is False else None if details.get("part") == MIXING else cause.dsa,
                possible=tuple(
                    PossibleCause(cause=other.cause, told_by=other.told_by)
                    for other in cause.possible
                    if not one.first.decided
                ),
                collect=cause.collect,
            )
        )
    found = tuple(findings)
    context = LogContext(
        lines=reader.lines,
        bytes=reader.bytes,
        engine=background.engine,
        engine_version=background.engine_version,
        torch_version=background.torch_version,
        model=redact(model) if model else None,
        uses_dsa=background.uses_dsa,
        gpu=gpu,
        capability=str(capability) if capability is not None else None,
        capability_source=source,
        attention_backend=background.chosen_backend,
        platform=background.platform,
        arguments=_arguments(background),
        starts=ending.starts,
        ready_line=ending.ready or None,
        end="healthy" if ending.came_back else ending.state,
        stage=ending.stage or None,
        cut_off=bool(ending.cut) or ending.state == "unfinished" or bool(reader.remark),
    )
    told = {one.dsa for one in found if one.id != "DSA943"}
    return Explanation(
        dsa_doctor_version=__version__,
        findings=found,
        context=context,
        message=message_of(found, context),
        exit_code=exit_code_of(found),
        dsa_problem=True if True in told else None if None in told or not told else False,
        notes=tuple(redact(note) for note in notes),
    )


def _read(stream: BinaryIO) -> tuple[LogReader, Background, dict[str, _Collected], Excerpt]:
    reader = LogReader(_NEEDLES, quotes=_FIRST_SIGN)
    background, collected, excerpt = Background(), dict[str, _Collected](), Excerpt()
    ids_of_key: dict[bytes, list[str]] = {}
    ids_of_needle: dict[int, list[str]] = {}
    for hit in reader.scan(stream):
        if isinstance(hit, Repeats):
            ids = ids_of_key.get(hit.key, []) if hit.key is not None else ids_of_needle.get(hit.needle, [])
            for finding_id in ids:
                collected[finding_id].count += hit.count
            continue
        if hit.needle >= _FIRST_MARK:
            telling = hit.needle < _FIRST_TROUBLE
            excerpt.keep(hit, telling=telling)
            if excerpt.full(telling=telling):
                span = (_FIRST_MARK, _FIRST_TROUBLE) if telling else (_FIRST_TROUBLE, len(_NEEDLES))
                reader.spent.update(range(*span))
            continue
        background.note(hit)
        if hit.needle >= _FIRST_SIGN + len(SIGNS):
            continue
        sightings = SIGNS[hit.needle - _FIRST_SIGN][1](hit)
        for sighting in sightings:
            _collect(collected, sighting, hit.line.number)
            excerpt.keep(hit, telling=True)
        ids_of_key[hit.key] = [sighting.id for sighting in sightings]
        if sightings:
            ids_of_needle[hit.needle] = ids_of_key[hit.key]
    excerpt.end(*reader.tail)
    return reader, background, collected, excerpt


def _collect(collected: dict[str, _Collected], sighting: Sighting, line: int) -> None:
    one = collected.setdefault(sighting.id, _Collected(sighting, sighting.weak))
    if one.weak and not sighting.weak and one.first.lines[0].number != line:
        sighting.lines = [*sighting.lines, *one.first.lines]
        one.first = sighting
    one.weak = one.weak and sighting.weak
    if line != one.last_line:
        one.count += 1
        one.last_line = line
    if len(one.numbers) < _MAX_NUMBERS:
        one.numbers |= {line, *(evidence.number for evidence in sighting.lines)}
    for evidence in sighting.lines:
        shown = re.sub(r"0x[0-9a-f]+|\d+", "0", evidence.text.strip())
        if shown and len(one.lines) < _MAX_EVIDENCE:
            one.lines.setdefault(shown, evidence)
    for name, value in sighting.details.items():
        values = one.details.setdefault(name, [])
        if value and value not in values and len(values) < 8:
            values.append(value)


def _keep(
    collected: dict[str, _Collected], background: Background, ending: Ending, lines: list[Line], notes: list[str]
) -> list[_Collected]:
    """Return what the log proves, in the order of its lines."""
    for one in list(collected.values()):
        replaced = one.first.without_dsa
        if background.uses_dsa is False and replaced is not None:
            del collected[one.first.id]
            if replaced and replaced not in collected:
                one.first.id = replaced
                collected[replaced] = one
    guard, imported = collected.get("DSA302"), collected.get("DSA303")
    if guard is not None and imported is not None:  # the guard says that, the import says why
        imported.weak = imported.weak and guard.weak
        imported.lines.update(list(guard.lines.items())[:1])
        imported.numbers |= guard.numbers
        del collected["DSA302"]
    elif imported is not None and imported.weak:
        del collected["DSA303"]
    for one in [one for one in collected.values() if not one.weak and _survived(one, ending)]:
        del collected[one.first.id]
        notes.append(
            f"Line {one.number} shows {one.first.id} ({FINDINGS_BY_ID[one.first.id].title}), and the server came up or "
            f"went on afterwards (line {max(ending.ready, ending.came_back)})."
        )
    strong = [one for one in collected.values() if not one.weak]
    failed = bool(strong) or ending.state in {"failed", "stuck"} or (background.failed and not ending.ready)
    kept = [one for one in collected.values() if not one.weak or failed]
    for sighting in stopped_by(ending, lines, background):
        if not _explained(sighting, ending, kept):
            same = next((one for one in kept if one.first.id == sighting.id), None)
            if same is None:
                kept.append(_of_stop(sighting))
    kept.sort(key=lambda one: one.number)
    return [one for position, one in enumerate(kept) if not (one.first.unless_earlier and position > 0)]


def _survived(one: _Collected, ending: Ending) -> bool:
    """Whether the server came up after all that a finding rests on, and nothing died in between."""
    came_up = ending.ready
    if not came_up or came_up < max(one.numbers) or ending.root is not None:
        return False
    return ending.died is None or not min(one.numbers) - 5 <= ending.died.number <= came_up


def _explained(sighting: Sighting, ending: Ending, kept: list[_Collected]) -> bool:
    """Whether what is known already says what stopped the log."""
    strong = [one for one in kept if not one.weak]
    if ending.root is None:
        return bool(kept)
    spans = [(part.starts - 3, part.line.number + part.message.count("\n") + 1) for part in ending.root.chain()]
    for one in kept:
        if one.first.unless_earlier:
            continue
        if any(low <= number <= high for number in one.numbers for low, high in spans):
            return True
        if any(_same(ending.root.text, line.text) for line in one.lines.values()):
            return True
    if sighting.id == "DSA933" and strong:
        return True
    return any(one.number < ending.root.starts for one in strong if not one.first.unless_earlier)


def _same(left: str, right: str) -> bool:
    first, second = (" ".join(re.sub(r"0x[0-9a-f]+|\d+", "0", text).split()) for text in (left, right))
    return bool(first) and first[:160] in second


def _of_stop(sighting: Sighting) -> _Collected:
    one = _Collected(sighting, weak=False, count=1, last_line=sighting.lines[0].number)
    for line in sighting.lines[:_MAX_EVIDENCE]:
        one.lines.setdefault(str(line.number), line)
        one.numbers.add(line.number)
    one.details = {name: [value] for name, value in sighting.details.items() if value}
    return one


def _contradiction(background: Background, target: Target | None) -> _Collected | None:
    """Return the finding that --target and the log's GPU are not the same, where they are not."""
    if target is None or background.gpu is None or background.gpu[0] == target.parsed:
        return None
    capability, name, number = background.gpu
    line = Line(number, background.gpu_lines.get(number, ""), "", "")
    seen = f"{name} ({capability})" if name else f"compute capability {capability}"
    details = {"given": f"{target.name} ({target.capability})", "seen": seen}
    return _of_stop(Sighting("DSA943", [line], details))


def _setting(background: Background, capability: Capability | None, gpu: str | None, facts: Facts | None) -> Setting:
    """Return what decides which remedies fit."""
    known = find_gpu(gpu) if gpu else None
    target = known.alias if known is not None else capability.sm if capability is not None else None
    installed = facts is not None and plugin_settings(facts).registered
    platform = background.platform or ("cuda" if capability is not None else None)
    return Setting(
        engine=background.engine,
        platform=platform,
        capability=capability,
        model=redact(background.models[0]) if background.models else None,
        target=target,
        plugin_loaded=background.plugin_loaded or installed,
    )


def _arguments(background: Background) -> dict[str, str]:
    shown = {}
    for name, value in background.arguments.items():
        text = redact(f"--{name.replace('_', '-')}={value}").split("=", 1)
        shown[name] = text[1][:120] if len(text) > 1 else ""
    return shown


def _notes(ending: Ending, background: Background, remark: str) -> list[str]:
    """Return what is worth knowing and no failure."""
    notes = [remark] if remark else []
    if ending.starts > 1:
        notes.append(f"The log holds {ending.starts} starts of the server.")
    if ending.came_back:
        notes.append(f"After that failure the server runs again from line {ending.came_back} on.")
    if ending.answered is not None:
        notes.append(
            f"The server did not stop by it: it answered the request with an error (line {ending.answered.number}), "
            "and the log shows no death."
        )
    if ending.survived and ending.state in {"healthy", "stopped"}:
        first = ending.survived[0]
        notes.append(
            f"{len(ending.survived)} errors that the server survived, the first on line {first.line.number}: "
            f"{first.text[:160]}"
        )
    if background.acceptance is not None and background.acceptance[0] < _POOR_ACCEPTANCE:
        rate, number = background.acceptance
        notes.append(
            f"The target accepts {rate:g} % of the drafted tokens (line {number}): drafting costs time here. That is "
            "no failure; the usual causes are draft layers (MTP) that were quantised or loaded wrongly, or a draft of "
            "another model. Serve without --speculative-config to compare."
        )
    return notes


def _gpu(
    background: Background, target: Target | None, facts: Facts | None
) -> tuple[Capability | None, str | None, str | None]:
    """Return the capability, the GPU's name and where both come from: what the user says counts first."""
    if target is not None:
        return target.parsed, target.name, "--target"
    if facts is not None and facts.gpus.value is not None:
        kinds = {gpu.capability: gpu.name for gpu in facts.gpus.value.gpus if gpu.visible}
        if len(kinds) == 1:
            (capability, name), *_ = kinds.items()
            return Capability.parse(capability), name, "--facts"
    if background.gpu is not None:
        found, gpu, number = background.gpu
        return found, gpu, f"line {number}"
    return None, None, None


def _remedies(sighting: Sighting, cause: Cause, setting: Setting) -> tuple[str, ...]:
    """Return what helps; where the passage told which cause it is, the remedies for the other causes are left out."""
    if sighting.decided and (own := fitting(sighting.remedy, setting)):
        return own
    return fitting((*sighting.remedy, *cause.remedy), setting)


def _evidence(one: _Collected) -> tuple[EvidenceLine, ...]:
    lines = sorted(one.lines.values(), key=lambda line: (line.number != one.number, line.number))
    return tuple(EvidenceLine(line=line.number, text=redact(line.text.strip())[:_MAX_TEXT]) for line in lines)
