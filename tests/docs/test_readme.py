"""The README tells the truth: its picture is a real report, its links lead somewhere, its commands exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dsa_doctor.preflight import Options, preflight
from dsa_doctor.render.human import MAX_WIDTH, print_verdict

REPOSITORY = Path(__file__).parents[2]
PICTURE = REPOSITORY / "docs" / "images" / "report-a100.svg"
FACTS = REPOSITORY / "tests" / "data" / "facts-vllm-0.32.0.json"
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]


def picture() -> str:
    """Draw the report of the README's first command, from the facts of a stock wheel, the plugin left out."""
    verdict = preflight("GLM-5-FP8", Options(target="a100", plugin_mode="off"), facts_file=FACTS)
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=MAX_WIDTH, file=nowhere, force_terminal=True, color_system="truecolor")
        print_verdict(console, verdict)
        return console.export_svg(
            title="DSA_DOCTOR_PLUGIN=off dsa-doctor check GLM-5-FP8 --target a100", unique_id="report"
        )


def test_the_picture_is_the_real_report():
    drawn = picture()
    if os.environ.get("DSA_DOCTOR_UPDATE_GOLDEN"):
        PICTURE.write_text(drawn, encoding="utf-8")
    assert PICTURE.read_text(encoding="utf-8") == drawn, "DSA_DOCTOR_UPDATE_GOLDEN=1 pytest tests/docs draws it anew"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor and linked.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name}: {target}"


def test_every_command_that_the_pages_show_exists():
    shown = set()
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            shown |= set(re.findall(r"^(?:.*&& )?dsa-doctor ([a-z-]+)", block, flags=re.MULTILINE))
    assert {"check", "facts"} <= shown
    listed = subprocess.run([sys.executable, "-m", "dsa_doctor", "--help"], capture_output=True, text=True).stdout
    for command in shown:
        assert re.search(rf"\b{command}\b", listed), command


def test_the_gate_runs_the_readme_test_command():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^pip install .*&& pytest$", readme, flags=re.MULTILINE)
    assert commands == ["pip install -e '.[vllm,test]' && pytest"]
