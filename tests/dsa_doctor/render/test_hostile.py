"""Names and error texts from outside cannot break out of any format."""

import json
import re
import unicodedata
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dsa_doctor.policy import Policy, Suppression
from dsa_doctor.policy.report import ManifestPin
from dsa_doctor.render.formats import ReportFormat, render
from dsa_doctor.render.wording import clean
from tests.dsa_doctor.reports import TODAY, report, verdict

ATTACKS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; --><svg/onload=alert(1)>",
    "]]></failure><testcase name='x'/>",
    "&lt;b&gt;&amp;&#60;",
    "{{ 7 * 7 }}{% include 'x' %}",
    "| a | b |\n| --- | --- |",
    "[click](javascript:alert(1)) ![x](http://example.com/x.png)",
    "**bold** _it_ `code` ``` ~~~ # h\n# heading\n\n- list\n1. one",
    "x\n::error file=a::pwned\r\n::set-output name=a::b",
    "100%0A::error::pwned, a:b",
    "\x1b[31mred\x1b[0m \x00 \x07 \x85 \u2028 \u2029 \ufffe \ud800 \u202egnp.exe",
    "````\nfence",
    "```",
    "`````",
    "http://example.com www.example.com a@example.com @team #123",
]
TEXTS = st.one_of(
    st.sampled_from(ATTACKS),
    st.text(max_size=40),
    st.text(alphabet="<>&\"'`*_[]()#|\\~:,%\r\n{}! ab-=@$^\x1b\u2028", max_size=40),
)
BASE = verdict()


def report_with(text):
    """Put the text wherever something from outside can stand."""
    findings = tuple(
        one.model_copy(update={"summary": text, "evidence": (text, "x" + text), "remedy": (text,)})
        for one in BASE.findings
    )
    found = BASE.model_copy(
        update={
            "findings": findings,
            "layers": tuple(one.model_copy(update={"reason": text}) for one in BASE.layers),
            "backends": tuple(one.model_copy(update={"name": text, "reasons": (text,)}) for one in BASE.backends),
            "model": BASE.model.model_copy(update={"name": text, "architecture": text, "source": text}),
            "target": BASE.target.model_copy(update={"name": text}),
            "software": BASE.software.model_copy(update={"vllm": text, "torch": text}),
        }
    )
    policy = Policy(source=text, suppressions=(Suppression(id="DSA201", reason=text or "r", expires=TODAY),))
    pin = ManifestPin(file=text or "f", line=1, text=text, requirement=text)
    made = report(found, found, policy=policy, manifest=pin)
    named = tuple(one.model_copy(update={"environment": text}) for one in made.verdicts)
    return made.model_copy(update={"verdicts": named})


def encodable(text):
    return text.encode("utf-8", "replace").decode()


def with_examples(test):
    for attack in ATTACKS:
        test = example(attack)(test)
    return settings(max_examples=60, deadline=None)(given(TEXTS)(test))


def baseline(form):
    return render(report_with("plain"), form)


@with_examples
def test_junit_stays_the_same_tree(text):
    plain, hostile = (
        ElementTree.fromstring(encodable(one))
        for one in (baseline(ReportFormat.JUNIT), render(report_with(text), ReportFormat.JUNIT))
    )
    assert [one.tag for one in plain.iter()] == [one.tag for one in hostile.iter()]
    shown = next(one for one in hostile.iter("failure"))
    assert shown.get("message") == clean(text)


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.seen, self.text = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, sorted(name for name, _ in attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def handle_comment(self, data):
        self.seen.append(("comment", data))


@with_examples
def test_html_stays_the_same_tree(text):
    page = Tags(render(report_with(text), ReportFormat.HTML))
    if text:
        assert page.seen == Tags(baseline(ReportFormat.HTML)).seen
        assert clean(text) in "".join(page.text)


@with_examples
def test_github_commands_stay_as_many_and_on_one_line_each(text):
    lines = render(report_with(text), ReportFormat.GITHUB).splitlines()
    assert len(lines) == len(baseline(ReportFormat.GITHUB).splitlines())
    for line in lines:
        match = re.fullmatch(r"::(error|warning|notice) ([^:]*)::([^\r\n]*)", line)
        assert match
        names = [part.split("=", 1)[0] for part in match[2].split(",")]
        assert names == ["file", "line", "title"]
        said = match[3].replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%")
        assert "policy" in match[2] or clean(text) in said


KINDS = {"heading_open", "table_open", "tr_open", "fence", "bullet_list_open", "list_item_open", "ordered_list_open"}


@with_examples
def test_markdown_stays_the_same_document(text):
    reader = MarkdownIt("gfm-like", {"linkify": False, "html": True})
    plain, hostile = (
        reader.parse(encodable(one))
        for one in (baseline(ReportFormat.MARKDOWN), render(report_with(text), ReportFormat.MARKDOWN))
    )
    if not text.strip():
        return
    assert [one.type for one in plain if one.type in KINDS] == [one.type for one in hostile if one.type in KINDS]
    allowed = {"text", "strong_open", "strong_close", "link_open", "link_close", "text_special"}
    for token in hostile:
        assert not token.type.startswith("html")
        for child in token.children or ():
            assert child.type in allowed, (child.type, child.content)
            if child.type == "link_open":
                assert child.attrGet("href").startswith(
                    "https://github.com/dsa-doctor/dsa-doctor/blob/main/docs/checks/DSA"
                )


@with_examples
def test_sarif_and_json_stay_readable(text):
    made = report_with(text)
    log = json.loads(encodable(render(made, ReportFormat.SARIF)))
    results = log["runs"][0]["results"]
    assert len(results) == len(json.loads(baseline(ReportFormat.SARIF))["runs"][0]["results"])
    uri = results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert re.fullmatch(r"[A-Za-z0-9_.~/%-]+", uri)


@with_examples
def test_the_text_for_people_cannot_steer_a_terminal(text):
    for character in render(report_with(text), ReportFormat.HUMAN).replace("\n", ""):
        assert unicodedata.category(character) not in {"Cc", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize("attack", ATTACKS)
def test_cleaned_text_holds_nothing_that_deceives(attack):
    for character in clean(attack):
        assert unicodedata.category(character) not in {"Cc", "Cs", "Zl", "Zp"}
        assert character not in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def test_clean_keeps_ordinary_text():
    text = "Ordinary text, ünïcödé, 中文, emoji 🙂, tabs\tbecome blanks"
    assert clean(text) == text.replace("\t", " ")
