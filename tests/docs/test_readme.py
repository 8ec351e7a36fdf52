"""The README's picture is a real report, and its test command is the one that the gate runs."""

import os
import re
from pathlib import Path

from rich.console import Console

from dsa_doctor.inputs import Options
from dsa_doctor.preflight import preflight
from dsa_doctor.render.human import MAX_WIDTH, print_verdict
from tests.docs.pages import FACTS, REPOSITORY

PICTURE = REPOSITORY / "docs" / "images" / "report-a100.svg"


def picture() -> str:
    """Draw the report of the README's first command, from the facts of a stock wheel, the plugin left out."""
    verdict = preflight("GLM-5-FP8", Options(target="a100", plugin_mode="off"), facts_file=FACTS)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        # _environ: neither NO_COLOR nor TERM of whoever runs the test has a say.
        console = Console(
            record=True, width=MAX_WIDTH, file=nowhere, force_terminal=True, color_system="truecolor", _environ={}
        )
        print_verdict(console, verdict)
        return console.export_svg(
            title="DSA_DOCTOR_PLUGIN=off dsa-doctor check GLM-5-FP8 --target a100", unique_id="report"
        )


def test_the_picture_is_the_real_report():
    drawn = picture()
    if os.environ.get("DSA_DOCTOR_UPDATE_GOLDEN"):
        PICTURE.write_text(drawn, encoding="utf-8")
    assert PICTURE.read_text(encoding="utf-8") == drawn, "DSA_DOCTOR_UPDATE_GOLDEN=1 pytest tests/docs draws it anew"


def test_the_gate_runs_the_readme_test_command():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^pip install .*&& pytest$", readme, flags=re.MULTILINE)
    assert commands == ["pip install -e '.[vllm,test]' && pytest"]
