"""JUnit XML: one suite per layer and verdict, one case per check.

There is no one schema; read here is what CI servers agree on: `failure` is what a check found wrong, `error` what
could not be determined, `skipped` what was not needed or is suppressed, with its reason.
"""

from xml.etree import ElementTree

from dsa_doctor.policy.report import GatedVerdict, Outcome, Report
from dsa_doctor.render.wording import LAYERS, case_title, clean, finding_of, finding_title, remedies_of, versions
from dsa_doctor.verdict.schema import FindingLayer

_ELEMENTS = {"fail": "failure", "unknown": "error", "skip": "skipped", "suppressed": "skipped"}


def render_junit(report: Report) -> str:
    """Return the report as JUnit XML, ended by a newline."""
    root = ElementTree.Element("testsuites", name="dsa-doctor")
    for case in report.verdicts:
        for layer in LAYERS:
            root.append(_suite(case, layer, several=len(report.verdicts) > 1))
    if report.policy.warnings:
        root.append(_policy_suite(report))
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(case: GatedVerdict, layer: FindingLayer, *, several: bool) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name=f"{case_title(case)}: {layer}" if several else layer)
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in {"judged": case_title(case), "software": versions(case), "state": _state(case, layer)}.items():
        if value:
            ElementTree.SubElement(properties, "property", name=name, value=value)
    for outcome in case.gate.outcomes:
        if outcome.layer == layer:
            suite.append(_check(case, outcome))
    _count(suite)
    return suite


def _state(case: GatedVerdict, layer: FindingLayer) -> str:
    return next((one.state for one in case.layers if one.layer == layer), "")


def _check(case: GatedVerdict, outcome: Outcome) -> ElementTree.Element:
    finding = finding_of(case, outcome)
    name = f"{finding.id} {finding_title(finding.id)}" if finding is not None else f"state of layer {outcome.layer}"
    check = ElementTree.Element("testcase", classname=f"{case_title(case)}.{outcome.layer}", name=clean(name))
    check.set("time", "0")
    message = clean(outcome.message)
    evidence = [clean(line) for line in finding.evidence] if finding is not None else []
    element = _ELEMENTS.get(outcome.result)
    if element is not None:
        child = ElementTree.SubElement(check, element, message=message)
        if element != "skipped":
            child.set("type", outcome.finding_id or "state")
            remedies = finding.remedy if finding is not None else remedies_of(case)
            child.text = "\n".join([message, *evidence, *(f"remedy: {clean(one)}" for one in remedies)])
            return check
    said = [f"warning: {message}" if outcome.result == "warn" else message, *evidence]
    ElementTree.SubElement(check, "system-out").text = "\n".join(said)
    return check


def _policy_suite(report: Report) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name="policy")
    for warning in report.policy.warnings:
        message = clean(warning)
        check = ElementTree.SubElement(suite, "testcase", classname="policy", name=message, time="0")
        if report.policy.strict:
            ElementTree.SubElement(check, "failure", message=message, type="policy").text = message
        else:
            ElementTree.SubElement(check, "system-out").text = f"warning: {message}"
    _count(suite)
    return suite


def _count(suite: ElementTree.Element) -> None:
    suite.set("tests", str(len(suite.findall("testcase"))))
    for name, element in {"failures": "failure", "errors": "error", "skipped": "skipped"}.items():
        suite.set(name, str(len(suite.findall(f"testcase/{element}"))))
