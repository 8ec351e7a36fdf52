"""Every log of the corpus, paraphrased from public threads or healthy, is explained as its index says."""

import json
import re
from pathlib import Path

import pytest

from dsa_doctor.catalog.findings import FINDINGS_BY_ID
from dsa_doctor.explain import explain
from dsa_doctor.redaction import redact

CORPUS = Path(__file__).parent / "corpus"
INDEX = json.loads((CORPUS / "index.json").read_text(encoding="utf-8"))


def test_the_corpus_is_what_it_claims_to_be():
    assert len(INDEX) >= 80
    assert {entry["log"] for entry in INDEX} == {file.name for file in CORPUS.glob("*.log")}
    assert all(entry["source"].startswith("https://github.com/") for entry in INDEX)
    layers = [{FINDINGS_BY_ID[one].layer for one in entry["ids"]} for entry in INDEX]
    assert sum(1 for one in layers if not one & {"csrc", "attention", "indexer"}) >= 12
    assert all(sum(1 for one in layers if layer in one) >= 5 for layer in ("csrc", "attention", "indexer", "runtime"))


@pytest.mark.parametrize("entry", INDEX, ids=lambda entry: entry["log"])
def test_log(entry):
    with (CORPUS / entry["log"]).open("rb") as stream:
        explanation = explain(stream)
    assert sorted(one.id for one in explanation.findings) == sorted(entry["ids"])
    if "capability" in entry:
        assert explanation.context.capability == entry["capability"]
    raw = (CORPUS / entry["log"]).read_bytes().decode().split("\n")
    assert explanation.context.lines == len(raw) - 1
    for finding in explanation.findings:
        assert finding.line == finding.evidence[0].line
        assert re.search(r"\{[a-z_]+\}", finding.summary) is None
        for evidence in finding.evidence:
            assert evidence.text[:60] in redact(raw[evidence.line - 1])
    if entry["log"].startswith("healthy-"):
        assert explanation.exit_code == 0
        assert explanation.context.end in {"healthy", "unfinished", "unclear"}
    elif explanation.findings and not {"csrc", "attention", "indexer"} & {one.layer for one in explanation.findings}:
        assert "no sign of a failure of csrc, attention or the indexer" in explanation.message
