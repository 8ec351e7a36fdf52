"""The answer of a verdict, and what to do about it as steps."""

from datetime import datetime, timezone

import pytest

from dsa_doctor.catalog.findings import KNOWN_FINDINGS, trouble_of
from dsa_doctor.render.formats import ReportFormat, render
from dsa_doctor.render.human import answer, kept_from_judging
from dsa_doctor.render.memory import blocks
from dsa_doctor.render.steps import remedy_of, todo, todo_lines
from dsa_doctor.resolver.judgement import finding
from dsa_doctor.resolver.resolve import undetermined
from tests.dsa_doctor import facts_library as library
from tests.dsa_doctor.render.test_plan import _plan
from tests.dsa_doctor.reports import report, verdict


def _with(*findings, **changes):
    return verdict().model_copy(update={"findings": findings, **changes})


def _unknown(found):
    return undetermined(library.facts(), found).model_copy(update={"asked": "GLM-5"})


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: verdict(target="h100"), "runs"),
        (lambda: verdict(plugin=True), "runs with dsa-doctor's plugin"),
        (lambda: verdict(), "does not run: no attention backend serves sparse MLA here"),
        (
            lambda: verdict(target="h100").model_copy(
                update={"exit_code": 32, "findings": (finding("DSA904", "fail", "It lacks it."),)}
            ),
            "does not run: this vLLM does not serve the model's architecture here",
        ),
        (
            lambda: _unknown(finding("DSA911", "unknown", "No GPU.")),
            "could not be told: no GPU here, and no --target given",
        ),
        (
            lambda: _unknown(finding("DSA912", "skip", "It is none.")),
            "is not judged: the model uses no DeepSeek Sparse Attention",
        ),
    ],
)
def test_the_answer_is_one_of_four(made, said):
    assert answer(made()) == said


def test_what_kept_everything_from_being_judged_is_one_reason():
    assert kept_from_judging(_unknown(finding("DSA911", "unknown", "No GPU."))) == "No GPU."
    assert kept_from_judging(verdict()) is None


def test_equal_remedies_are_one_step_and_a_layer_has_alternatives():
    made = _with(
        finding("DSA201", "fail", "a", remedy=("unset X",)),
        finding("DSA205", "fail", "b", remedy=("--kv-cache-dtype bfloat16",)),
        finding("DSA301", "fail", "c", remedy=("unset X",)),
        finding("DSA103", "fail", "d", remedy=("pip install vllm   # a whole wheel",)),
        finding("DSA902", "warn", "e", remedy=("--flag",)),
        finding("DSA909", "warn", "f", remedy=("pip install torch",), judge_only=True),
    )
    assert todo_lines(made) == [
        "1. run: unset X",
        "   or give vllm serve: --kv-cache-dtype bfloat16",
        "   for DSA201 (2 attention), DSA205 (2 attention), DSA301 (3 indexer)",
        "2. run: pip install vllm   # a whole wheel",
        "   for DSA103 (1 csrc)",
        "Advised: give vllm serve: --flag",
        "   for DSA902 (runtime)",
        "On this machine, which is not the one judged: run: pip install torch",
        "   for DSA909 (runtime)",
    ]


def test_what_passes_needs_nothing():
    assert not todo(verdict(target="h100").model_copy(update={"findings": (finding("DSA304", "pass", "ok"),)}))


def test_the_model_that_was_asked_for_stands_in_its_place():
    made = _unknown(finding("DSA911", "unknown", "No GPU.", remedy=("dsa-doctor check MODEL --target a100",)))
    assert todo_lines(made)[0] == "1. run: dsa-doctor check GLM-5 --target a100"


@pytest.mark.parametrize(
    ("text", "kind", "note"),
    [
        ("--kv-cache-dtype bfloat16", "flag", ""),
        ("pip install x   # why", "command", "why"),
        ("use another GPU", "advice", ""),
    ],
)
def test_kinds_of_remedies(text, kind, note):
    remedy = remedy_of(text)
    assert (remedy.kind, remedy.note) == (kind, note)


@pytest.mark.parametrize("known", KNOWN_FINDINGS, ids=lambda known: known.id)
def test_every_finding_says_what_is_the_matter_in_a_few_words(known):
    said = trouble_of(known.id)
    assert said
    assert len(said) <= 75
    assert not said.endswith(".")


def test_a_range_of_weights_is_shown_as_one():
    found = _plan(141)
    line = found.lines[0].model_copy(update={"bytes": 3 << 30, "low_bytes": 1 << 30, "label": "estimated"})
    weights = blocks(found.model_copy(update={"lines": (line, *found.lines[1:])}))[0]
    least = (weights.size - (2 << 30)) / 2**30
    assert weights.label == f"at most; at least {least:.2f} GiB"


@pytest.mark.parametrize("form", [ReportFormat.HUMAN, ReportFormat.MARKDOWN, ReportFormat.HTML])
@pytest.mark.parametrize("from_file", [False, True])
def test_answers_of_an_earlier_run_are_told_with_what_brings_fresh_ones(form, from_file):
    """A facts file is not asked anew by an option: it is gathered anew."""
    since = datetime(2026, 2, 3, 4, 5, tzinfo=timezone.utc)
    kept = verdict().model_copy(update={"kept_from": since, "from_file": from_file})
    text = " ".join(render(report(kept), form).replace("\\", "").replace("&gt;", ">").split())
    assert "with answers kept from 2026-02-03 04:05 UTC" in text
    assert ("UTC; --no-cache asks anew" in text) == (not from_file)
    assert ("dsa-doctor facts --no-cache > facts.json" in text) == from_file
    assert "answers kept from" not in render(report(), form)


def test_a_command_is_in_one_piece_and_advice_hangs_below_its_number(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    command = f"pip install {' '.join(f'package-{number}' for number in range(9))}"
    advice = "choose a checkpoint that leaves these modules in bf16, or quantise it anew so"
    judged = _with(
        finding("DSA301", "fail", "one", remedy=(f"{command}   # with a note that does not fit beside it",)),
        finding("DSA917", "fail", "two", remedy=(advice,)),
        exit_code=16,
    )
    lines = render(report(judged), ReportFormat.HUMAN).splitlines()
    assert f"  1. run: {command}" in lines
    assert lines[lines.index(f"  1. run: {command}") + 1].startswith("     # with a note")
    first = next(number for number, line in enumerate(lines) if line.startswith("  2. choose"))
    assert lines[first + 1].startswith("     ")
    assert " ".join(" ".join(lines[first : first + 3]).split()).startswith(f"2. {advice}")


def test_the_geometry_of_a_model_without_dsa_is_not_shown():
    judged = verdict()
    assert "top-k 2048" in render(report(judged), ReportFormat.HUMAN)
    dense = judged.model_copy(update={"model": judged.model.model_copy(update={"uses_dsa": False})})
    assert "top-k" not in render(report(dense), ReportFormat.HUMAN).split("\n\n")[0]
