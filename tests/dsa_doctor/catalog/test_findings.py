import re
from pathlib import Path

import pytest

from dsa_doctor.catalog.findings import FINDINGS_BY_ID, KNOWN_FINDINGS

PAGES = Path(__file__).parents[3] / "docs" / "checks"
FIRST_DIGIT = {"csrc": "1", "attention": "2", "indexer": "3", "runtime": "9"}


def test_ids_are_unique_and_carry_their_layer():
    assert len(FINDINGS_BY_ID) == len(KNOWN_FINDINGS)
    for known in KNOWN_FINDINGS:
        assert re.fullmatch(r"DSA\d{3}", known.id)
        assert known.id[3] == FIRST_DIGIT[known.layer]


def test_every_id_has_a_page_and_every_page_an_id():
    assert {page.stem for page in PAGES.glob("DSA*.md")} == set(FINDINGS_BY_ID)


@pytest.mark.parametrize("known", KNOWN_FINDINGS, ids=lambda known: known.id)
def test_page_names_its_finding_and_says_what_to_do(known):
    page = (PAGES / f"{known.id}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {known.id}: {known.title}\n")
    assert "## What it means" in page
    assert "## What to do" in page


def test_every_finding_that_the_resolver_gives_is_known():
    sources = "".join(
        file.read_text() for file in (PAGES.parents[1] / "dsa_doctor").rglob("*.py") if file.name != "findings.py"
    )
    given = set(re.findall(r'"(DSA\d{3})"', sources))
    assert given <= set(FINDINGS_BY_ID)
    assert {"DSA101", "DSA201", "DSA301"} <= given


def test_the_index_lists_every_finding():
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    rows = [f"| [{known.id}]({known.id}.md) | {known.layer} | {known.title} |" for known in KNOWN_FINDINGS]
    assert [line for line in index.splitlines() if line.startswith("| [DSA")] == rows
