"""Each machine format is read back by the reader it is meant for, and says what the report says."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest
from junitparser import Error, Failure, JUnitXml, Skipped
from markdown_it import MarkdownIt

from dsa_doctor.policy import Policy, Suppression
from dsa_doctor.policy.report import Report, SingleReport
from dsa_doctor.render.formats import ReportFormat, render
from dsa_doctor.render.github import MAX_MESSAGE_BYTES
from dsa_doctor.render.json import verdict_schema
from dsa_doctor.render.markdown import MAX_BYTES
from tests.dsa_doctor import facts_library as library
from tests.dsa_doctor.reports import PIN, TODAY, facts_for, report, verdict

SARIF_SCHEMA = json.loads((Path(__file__).parent / "data" / "sarif-schema-2.1.0.json").read_text(encoding="utf-8"))
SUPPRESSING = Policy(
    source="dsa-doctor.toml",
    suppressions=(
        Suppression(id="DSA201", reason="new image soon", expires=TODAY),
        Suppression(id="DSA302", reason="stale", expires=TODAY),
    ),
)


def unknown_verdict():
    facts = facts_for("GLM-5-FP8", "a100", plugin=True)
    broken = library.Observation[library.Selector].unknown("the selector probe died of SIGSEGV")
    return verdict(facts=facts.model_copy(update={"selector": broken}))


def no_vllm():
    software = library.Observation[library.Software].ok(library.software(without=("vllm",)))
    return verdict(facts=library.facts(software=software))


REPORTS = {
    "failing": lambda: report(verdict()),
    "passing": lambda: report(verdict(target="h100")),
    "plugin": lambda: report(verdict(plugin=True)),
    "unknown": lambda: report(unknown_verdict()),
    "nothing": lambda: report(no_vllm()),
    "suppressed": lambda: report(verdict(), policy=SUPPRESSING, manifest=PIN),
    "strict": lambda: report(verdict(plugin=True), policy=SUPPRESSING.model_copy(update={"strict": True})),
    "fleet": lambda: report(
        *(verdict(model, target) for model in ("GLM-5-FP8", "DeepSeek-V3.2") for target in ("a100", "h100", "4090")),
        policy=SUPPRESSING,
        manifest=PIN,
    ),
}


@pytest.fixture(params=REPORTS)
def made(request):
    return REPORTS[request.param]()


def results(made, *wanted):
    return [one for case in made.verdicts for one in case.gate.outcomes if one.result in wanted]


def test_junit_says_what_the_report_says(made):
    suites = list(JUnitXml.fromstring(render(made, ReportFormat.JUNIT).encode()))
    layers = [suite for suite in suites if suite.name != "policy"]
    assert [suite.name.split(": ")[-1] for suite in layers] == ["csrc", "attention", "indexer", "runtime"] * len(
        made.verdicts
    )
    cases = [case for suite in layers for case in suite]
    kinds = [type(case.result[0]) if case.result else None for case in cases]
    assert len(cases) == len(results(made, "pass", "warn", "fail", "unknown", "skip", "suppressed"))
    assert kinds.count(Failure) == len(results(made, "fail"))
    assert kinds.count(Error) == len(results(made, "unknown"))
    assert kinds.count(Skipped) == len(results(made, "skip", "suppressed"))
    for suite in suites:
        own = [case.result[0] for case in suite if case.result]
        assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (
            len(list(suite)),
            *(sum(isinstance(one, kind) for one in own) for kind in (Failure, Error, Skipped)),
        )


def test_junit_totals_and_reasons():
    made = REPORTS["suppressed"]()
    xml = JUnitXml.fromstring(render(made, ReportFormat.JUNIT).encode())
    assert xml.tests == sum(suite.tests for suite in xml)
    assert xml.failures == sum(suite.failures for suite in xml) > 0
    suite = next(one for one in xml if one.name == "attention")
    (skipped,) = next(case for case in suite if case.name.startswith("DSA201")).result
    assert skipped.message.startswith("Suppressed until 2026-03-01: new image soon.")
    policy = next(one for one in xml if one.name == "policy")
    assert policy.failures == 0
    strict = JUnitXml.fromstring(render(REPORTS["strict"](), ReportFormat.JUNIT).encode())
    assert next(one for one in strict if one.name == "policy").failures == 2


@pytest.mark.parametrize("layer", ["csrc", "attention", "indexer"])
def test_junit_shows_a_layer_that_nothing_was_found_about_as_an_error(layer):
    xml = JUnitXml.fromstring(render(REPORTS["nothing"](), ReportFormat.JUNIT).encode())
    (case,) = next(suite for suite in xml if suite.name == layer)
    assert isinstance(case.result[0], Error)
    assert "vLLM is not installed" in case.result[0].message


def parse_commands(text):
    found = []
    for line in text.splitlines():
        match = re.fullmatch(r"::(error|warning|notice) ([^:]*)::(.*)", line)
        assert match, line
        properties = dict(part.split("=", 1) for part in match[2].split(","))
        found.append((match[1], properties, match[3]))
    return found


def test_github_gives_at_most_one_annotation_per_layer(made):
    commands = parse_commands(render(made, ReportFormat.GITHUB))
    titles = [properties["title"] for _, properties, _ in commands]
    assert len(titles) == len(set(titles)) <= 5
    for layer in ("csrc", "attention", "indexer", "runtime"):
        own = [kind for kind, properties, _ in commands if f"layer {layer} " in properties["title"]]
        wrong = [one for one in results(made, "fail", "unknown") if one.layer == layer]
        warned = [one for one in results(made, "warn") if one.layer == layer]
        expected = "error" if wrong else "warning" if warned else "notice"
        assert own in ([expected], []), layer
        assert own or not [one for one in results(made, "fail", "unknown", "warn", "pass") if one.layer == layer]
    if made.manifest is not None:
        assert all((one["file"], one["line"]) == ("requirements.txt", "3") for _, one, _ in commands)
    assert all(len(message.replace("%0A", "\n")) <= MAX_MESSAGE_BYTES for _, _, message in commands)


def test_github_titles_say_what_is_the_matter():
    titles = [one["title"] for _, one, _ in parse_commands(render(REPORTS["failing"](), ReportFormat.GITHUB))]
    assert "GLM-5-FP8 on NVIDIA A100 80GB (sm80)%3A layer attention fails%3A no attention backend serves" in titles[0]
    assert all("DSA" not in one for one in titles)


def test_github_cuts_what_is_too_long():
    found = verdict()
    long = found.model_copy(
        update={"findings": tuple(one.model_copy(update={"summary": "ü" * 9000}) for one in found.findings)}
    )
    for _, _, message in parse_commands(render(report(long), ReportFormat.GITHUB)):
        assert message.endswith("%0A... (cut; see the report)")
        assert len(message.replace("%0A", "\n").encode()) <= MAX_MESSAGE_BYTES


def test_sarif_is_valid_and_holds_what_does_not_pass(made):
    log = json.loads(render(made, ReportFormat.SARIF))
    jsonschema.Draft4Validator(SARIF_SCHEMA, format_checker=jsonschema.FormatChecker()).validate(log)
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(rules) == len(set(rules))
    assert len(run["results"]) == len(results(made, "fail", "unknown", "warn", "suppressed"))
    assert run["invocations"][0]["exitCode"] == made.exit_code
    prints = [one["partialFingerprints"]["dsaDoctor/v1"] for one in run["results"]]
    assert len(set(prints)) == len(prints)
    for one in run["results"]:
        assert rules[one["ruleIndex"]] == one["ruleId"]
        assert bool(one["suppressions"]) == (one["properties"]["result"] == "suppressed")
        if made.manifest is None:
            assert "locations" not in one
        else:
            (location,) = one["locations"]
            physical = location["physicalLocation"]
            assert physical["artifactLocation"]["uri"] == "requirements.txt"
            assert physical["region"] == {"startLine": 3, "snippet": {"text": "vllm==0.32.0"}}


def test_the_sarif_schema_refuses_what_is_wrong():
    log = json.loads(render(REPORTS["failing"](), ReportFormat.SARIF))
    log["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft4Validator(SARIF_SCHEMA).validate(log)


def test_markdown_renders_to_the_same_words(made):
    text = render(made, ReportFormat.MARKDOWN)
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    assert not [token for token in tokens if token.type.startswith("html")]
    shown = "\n".join(
        "".join(child.content for child in token.children or ()) if token.type == "inline" else token.content
        for token in tokens
    )
    for case in made.verdicts:
        assert f"{case.model.name}" in shown
        if len(made.verdicts) == 1 or case.exit_code:
            for outcome in case.gate.outcomes:
                assert outcome.message in shown
    for line in made.policy.downgrade_lines:
        assert line in shown
    assert f"Exit code {made.exit_code}" in shown


def test_markdown_stays_within_what_a_step_summary_holds():
    evidence = tuple("x" * 300 for _ in range(150))
    found = verdict()
    fat = found.model_copy(
        update={"findings": tuple(one.model_copy(update={"evidence": evidence}) for one in found.findings)}
    )
    text = render(report(*[fat] * 20), ReportFormat.MARKDOWN)
    assert len(text.encode()) <= MAX_BYTES
    assert "Further combinations are left out here" in text
    assert text.rstrip().endswith("```"), "the lines that downgrade are kept"


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.text, self.open, self.loads = [], [], []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        assert not [name for name in named if name.startswith("on")]
        self.loads += [named[name] for name in ("src", "srcset", "data", "action") if name in named]
        if tag in {"link", "script", "iframe", "object", "img"}:
            self.loads.append(tag)
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def test_html_is_one_file_and_well_formed(made):
    text = render(made, ReportFormat.HTML)
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.loads == []
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    shown = "".join(page.text)
    for case in made.verdicts:
        for outcome in case.gate.outcomes:
            assert outcome.message in shown
    assert f"Exit code {made.exit_code}" in shown


def contrast(first, second):
    def luminance(colour):
        parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_html_colours_can_be_read_in_both_schemes():
    text = render(REPORTS["failing"](), ReportFormat.HTML)
    schemes = re.findall(r":root \{([^}]*)\}", text)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", scheme))
        for name in ("text", "soft", "good", "plugin", "bad", "doubt"):
            assert contrast(colours[name], colours["page"]) >= 4.5, (name, colours)


def test_json_of_a_lone_verdict_is_the_verdict():
    made = REPORTS["failing"]()
    document = json.loads(render(made, ReportFormat.JSON))
    assert document == verdict().model_dump(mode="json")


def test_json_with_a_policy_adds_fields_and_keeps_the_rest():
    made = REPORTS["suppressed"]()
    document = json.loads(render(made, ReportFormat.JSON))
    jsonschema.validate(document, verdict_schema())
    assert SingleReport.model_validate(document).policy == made.policy
    assert document["exit_code"] == made.exit_code == 16 | 0
    plain = verdict().model_dump(mode="json")
    assert {key: document[key] for key in plain if key != "exit_code"} == {
        key: value for key, value in plain.items() if key != "exit_code"
    }


def test_json_of_several_has_the_four_promised_fields():
    made = REPORTS["fleet"]()
    document = json.loads(render(made, ReportFormat.JSON))
    assert {"schema_version", "verdicts", "policy", "exit_code"} <= set(document)
    assert len(document["verdicts"]) == 6
    for one in document["verdicts"]:
        jsonschema.validate(one, verdict_schema())
    assert Report.model_validate(document) == made


def test_the_text_for_people_ends_with_the_line_that_downgrades(made):
    lines = render(made, ReportFormat.HUMAN).splitlines()
    judged = any(layer.state != "unknown" for case in made.verdicts if case.exit_code for layer in case.layers)
    if judged and made.policy.downgrade_lines:
        assert tuple(lines[-len(made.policy.downgrade_lines) :]) == made.policy.downgrade_lines
    else:
        assert "To let this pass" not in "\n".join(lines)
    for line in lines:
        assert line == line.rstrip()
