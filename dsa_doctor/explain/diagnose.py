"""From a log to its explanation: collects what the classifiers see, merges the ranks, and keeps what is proven."""

import re
from dataclasses import dataclass, field
from typing import BinaryIO

from dsa_doctor import __version__
from dsa_doctor.catalog.capability import Capability
from dsa_doctor.catalog.findings import FINDINGS_BY_ID
from dsa_doctor.explain.background import NEEDLES, Background
from dsa_doctor.explain.causes import CAUSES
from dsa_doctor.explain.outlook import next_failures, plugin_gate, plugin_outlook
from dsa_doctor.explain.reader import LogReader, Repeats
from dsa_doctor.explain.schema import EvidenceLine, Explanation, LogContext, LogFinding, exit_code_of
from dsa_doctor.explain.sighting import Sighting
from dsa_doctor.explain.signs import SIGNS
from dsa_doctor.explain.text import Line
from dsa_doctor.facts.schema import Facts
from dsa_doctor.redaction import redact
from dsa_doctor.resolver.request import PluginMode, Target

_MAX_EVIDENCE = 4
_MAX_TEXT = 400


@dataclass
class _Collected:
    """All sightings of one finding."""

    first: Sighting
    weak: bool
    count: int = 0
    last_line: int = 0
    lines: dict[str, Line] = field(default_factory=dict)
    details: dict[str, list[str]] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """Return the line of the finding."""
        return self.first.lines[0].number


def explain(
    stream: BinaryIO, *, target: Target | None = None, facts: Facts | None = None, plugin_mode: PluginMode | None = None
) -> Explanation:
    """Explain a log; any bytes are accepted, and memory does not grow with them.

    Args:
        stream: the log, a traceback or a pasted issue.
        target: the GPU that the log is from, where the user names it.
        facts: of the environment that the log is from.
        plugin_mode: as DSA_DOCTOR_PLUGIN; None leaves it to the facts.
    """
    reader, background, collected = _read(stream)
    kept = _keep(collected, background)
    layers = {str(FINDINGS_BY_ID[one.first.id].layer) for one in kept}
    capability, gpu, source = _gpu(background, target, facts)
    model = background.models[0] if background.models else None
    gate = None
    if (target is not None or facts is not None) and capability is not None:
        gate = plugin_gate(capability, facts=facts, mode=plugin_mode, model=model)
    findings = []
    for one in kept:
        details = {name: ", ".join(values[:4]) for name, values in one.details.items()}
        cause = CAUSES[one.first.id]
        findings.append(
            LogFinding(
                id=one.first.id,
                layer=FINDINGS_BY_ID[one.first.id].layer,
                line=one.number,
                count=max(one.count, 1),
                summary=redact(_summary(one.first.id, details, background)),
                evidence=_evidence(one),
                remedy=(*one.first.remedy, *(text for text in cause.remedy if text not in one.first.remedy)),
                backends=one.first.backends,
                next=next_failures(one.first.id, capability, layers) if background.uses_dsa is not False else (),
                plugin=plugin_outlook(one.first.id, details, gate[0], judged=gate[1]) if gate is not None else None,
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
    )
    return Explanation(
        dsa_doctor_version=__version__,
        findings=found,
        context=context,
        message=_message(found, context),
        exit_code=exit_code_of(found),
    )


def _read(stream: BinaryIO) -> tuple[LogReader, Background, dict[str, _Collected]]:
    reader = LogReader([needle.encode() for needle in (*(sign for sign, _ in SIGNS), *NEEDLES)])
    background, collected = Background(), dict[str, _Collected]()
    ids_of_key: dict[bytes, list[str]] = {}
    ids_of_needle: dict[int, list[str]] = {}
    for hit in reader.scan(stream):
        if isinstance(hit, Repeats):
            ids = ids_of_key.get(hit.key, []) if hit.key is not None else ids_of_needle.get(hit.needle, [])
            for finding_id in ids:
                collected[finding_id].count += hit.count
            continue
        background.note(hit)
        if hit.needle >= len(SIGNS):
            continue
        sightings = SIGNS[hit.needle][1](hit)
        for sighting in sightings:
            _collect(collected, sighting, hit.line.number)
        ids_of_key[hit.key] = [sighting.id for sighting in sightings]
        if sightings:
            ids_of_needle[hit.needle] = ids_of_key[hit.key]
    return reader, background, collected


def _collect(collected: dict[str, _Collected], sighting: Sighting, line: int) -> None:
    one = collected.setdefault(sighting.id, _Collected(sighting, sighting.weak))
    if one.weak and not sighting.weak and one.first.lines[0].number != line:
        sighting.lines = [*sighting.lines, *one.first.lines]
        one.first = sighting
    one.weak = one.weak and sighting.weak
    if line != one.last_line:
        one.count += 1
        one.last_line = line
    for evidence in sighting.lines:
        shown = re.sub(r"0x[0-9a-f]+|\d+", "0", evidence.text.strip())
        if shown and len(one.lines) < _MAX_EVIDENCE:
            one.lines.setdefault(shown, evidence)
    for name, value in sighting.details.items():
        values = one.details.setdefault(name, [])
        if value and value not in values and len(values) < 8:
            values.append(value)


def _keep(collected: dict[str, _Collected], background: Background) -> list[_Collected]:
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
        del collected["DSA302"]
    elif imported is not None and imported.weak:
        del collected["DSA303"]
    if any(not one.first.generic for one in collected.values()):
        for one in [one for one in collected.values() if one.first.generic]:
            del collected[one.first.id]
    strong = [one for one in collected.values() if not one.weak]
    failed = bool(strong) or (background.failed and background.came_up is None)
    kept = [one for one in collected.values() if not one.weak or failed]
    kept.sort(key=lambda one: one.number)
    return [one for position, one in enumerate(kept) if not (one.first.unless_earlier and position > 0)]


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


def _summary(finding_id: str, details: dict[str, str], background: Background) -> str:
    """Fill the cause's sentence; what was not seen leaves no trace in it."""
    values = {**details, "via_api": details.get("api", "").split(", ")[0]}
    for name, template in (
        ("via", " through {via_api}"),
        ("kernel_text", " in the kernel {kernel}"),
        ("where_text", " ({where})"),
        ("limit_text", " and the limit is {limit}"),
        ("size_text", " while {size} were asked for"),
    ):
        source = template[template.index("{") + 1 : template.index("}")]
        values[name] = template.replace(f"{{{source}}}", values[source]) if values.get(source) else ""
    hung = background.chosen_backend
    values["backend_text"] = f"; {hung} is known to hang" if hung == "FLASHINFER_MLA_SPARSE_SM120" else ""
    text = re.sub(r"\{(\w+)\}", lambda match: values.get(match.group(1), ""), CAUSES[finding_id].summary)
    text = re.sub(r"\s{2,}", " ", text).replace(" :", ":").replace("()", "").replace(" .", ".").strip()
    return text if text.startswith(("vLLM", "torch")) else text[0].upper() + text[1:]


def _evidence(one: _Collected) -> tuple[EvidenceLine, ...]:
    lines = sorted(one.lines.values(), key=lambda line: (line.number != one.number, line.number))
    return tuple(EvidenceLine(line=line.number, text=redact(line.text.strip())[:_MAX_TEXT]) for line in lines)


def _message(findings: tuple[LogFinding, ...], context: LogContext) -> str:
    size = f"{context.lines} lines"
    layers = [layer for layer in ("csrc", "attention", "indexer") if any(one.layer == layer for one in findings)]
    others = [one.id for one in findings if one.layer == "runtime"]
    if not context.bytes:
        return "The log is empty: there is nothing to explain."
    if layers:
        message = f"{size}; failing: {', '.join(layers)}."
        return f"{message} Also found: {', '.join(others)}." if others else message
    message = f"{size}; no sign of a failure of csrc, attention or the indexer."
    return f"{message} What the log does show: {', '.join(others)}." if others else message
