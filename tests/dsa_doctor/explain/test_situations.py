"""Every kind of log is given its right answer, also where no message is known."""

import io
import re
from pathlib import Path

import pytest

from dsa_doctor.catalog.findings import FINDINGS_BY_ID
from dsa_doctor.explain import explain
from tests.dsa_doctor.explain.situations import SITUATIONS

FIELD = Path(__file__).parent / "field"
EXPECTED = [line.split("\t") for line in (FIELD / "expected.tsv").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", SITUATIONS)
def test_situation(name):
    situation = SITUATIONS[name]
    explanation = explain(io.BytesIO(situation.log.encode()))
    everything = explanation.model_dump_json()
    assert tuple(one.id for one in explanation.findings) == situation.ids, everything
    assert (explanation.exit_code == 0) == (not situation.ids)
    for text in situation.says:
        assert text in everything.replace('\\"', '"')
    for text in situation.silent:
        assert text not in everything
    if situation.end is not None:
        assert explanation.context.end == situation.end
    for finding in explanation.findings:
        assert re.search(r"\{[a-z_]+\}", finding.summary) is None
        assert finding.evidence[0].line == finding.line


@pytest.mark.parametrize("name", SITUATIONS)
def test_windows_line_ends_and_container_prefixes_change_nothing(name):
    situation = SITUATIONS[name]
    for text in (
        situation.log.replace("\n", "\r\n"),
        "".join(f"vllm-1  | {line}\n" for line in situation.log.splitlines()),
    ):
        found = explain(io.BytesIO(text.encode())).findings
        assert tuple(one.id for one in found) == situation.ids


@pytest.mark.parametrize(("log", "layers", "finding"), EXPECTED, ids=lambda text: text if text.endswith(".log") else "")
def test_public_report(log, layers, finding):
    with (FIELD / log).open("rb") as stream:
        explanation = explain(stream)
    assert [one.id for one in explanation.findings] == [one for one in [finding] if one]
    found = {FINDINGS_BY_ID[one.id].layer for one in explanation.findings} or {"none"}
    assert found <= set(layers.split("|"))
    assert (explanation.exit_code == 0) == (not finding)
