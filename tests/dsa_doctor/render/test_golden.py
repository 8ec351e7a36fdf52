"""Each format against a committed file, from committed verdicts.

The verdicts in golden/inputs were made by the real resolver; they are files, so that a change of the resolver's words
does not look like a change of a format. After a deliberate change:

    DSA_DOCTOR_UPDATE_GOLDEN=1 pytest tests/dsa_doctor/render/test_golden.py

and read the difference before it is committed.
"""

import os
from datetime import date
from pathlib import Path

import pytest

from dsa_doctor.policy import Policy, Report, Suppression, apply_policy
from dsa_doctor.render.formats import ReportFormat, render
from dsa_doctor.verdict.schema import Verdict
from tests.dsa_doctor.reports import PIN, TODAY, verdict

GOLDEN = Path(__file__).with_name("golden")
UPDATE = bool(os.environ.get("DSA_DOCTOR_UPDATE_GOLDEN"))
EXTENSIONS = {
    ReportFormat.HUMAN: "txt",
    ReportFormat.JSON: "json",
    ReportFormat.JUNIT: "xml",
    ReportFormat.MARKDOWN: "md",
    ReportFormat.HTML: "html",
    ReportFormat.GITHUB: "github",
    ReportFormat.SARIF: "sarif",
}
INPUTS = {
    "a100": lambda: verdict(),
    "a100-plugin": lambda: verdict(plugin=True),
    "a100-v32": lambda: verdict("DeepSeek-V3.2", "a100"),
    "h100": lambda: verdict(target="h100"),
    "rtx4090-flash": lambda: verdict("GLM-5.3-Flash", "4090", plugin=True),
}
POLICY = Policy(
    source="dsa-doctor.toml",
    allowed_states={"csrc": ("native", "upstream"), "attention": ("native",), "indexer": ("native", "plugin")},
    suppressions=(
        Suppression(id="DSA201", reason="new image in April", expires=date(2026, 4, 30), targets=("a100",)),
        Suppression(id="DSA301", reason="lapsed", expires=date(2026, 2, 28)),
        Suppression(id="DSA302", reason="once needed", expires=date(2026, 12, 31)),
    ),
)


def load(name: str) -> Verdict:
    path = GOLDEN / "inputs" / f"{name}.json"
    if UPDATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            INPUTS[name]().model_copy(update={"dsa_doctor_version": "0.1.0"}).model_dump_json(indent=2) + "\n"
        )
    return Verdict.model_validate_json(path.read_text(encoding="utf-8"))


def lone() -> Report:
    return apply_policy([(None, load("a100"))], Policy(), today=TODAY)


def passing() -> Report:
    return apply_policy([(None, load("h100"))], Policy(), today=TODAY, manifest=PIN)


def fleet() -> Report:
    wheel = "vllm-0.32.0-cp38-abi3-manylinux_2_28_x86_64.whl"
    judged = [(None, load(name)) for name in ("a100", "a100-v32", "h100", "rtx4090-flash")]
    judged += [(wheel, load("a100-plugin")), (wheel, load("h100"))]
    return apply_policy(judged, POLICY, today=TODAY, manifest=PIN)


SCENARIOS = {"lone": lone, "passing": passing, "fleet": fleet}


@pytest.mark.parametrize("form", ReportFormat, ids=lambda form: form.value)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_format_is_as_committed(scenario, form):
    report = SCENARIOS[scenario]().model_copy(update={"dsa_doctor_version": "0.1.0"})
    text = render(report, form)
    path = GOLDEN / f"{scenario}.{EXTENSIONS[form]}"
    if UPDATE:
        path.write_text(text, encoding="utf-8")
    assert text.endswith("\n")
    assert text == path.read_text(encoding="utf-8"), f"see the docstring of {Path(__file__).name} for how to update"
