"""The formats by name, behind one interface: a report goes in, text comes out."""

import io
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # pydantic is not for --help
    from dsa_doctor.policy.report import Report


class ReportFormat(str, Enum):
    """Formats of `check`."""

    HUMAN = "human"
    JSON = "json"
    JUNIT = "junit"
    MARKDOWN = "markdown"
    HTML = "html"
    GITHUB = "github"
    SARIF = "sarif"


def render(report: "Report", form: ReportFormat) -> str:
    """Return the report in a format, as text that ends with a newline."""
    return _renderer(form)(report)


def _renderer(form: ReportFormat) -> Callable[["Report"], str]:
    """Return the function of a format; only that one is imported."""
    if form is ReportFormat.JUNIT:
        from dsa_doctor.render.junit import render_junit

        return render_junit
    if form is ReportFormat.MARKDOWN:
        from dsa_doctor.render.markdown import render_markdown

        return render_markdown
    if form is ReportFormat.HTML:
        from dsa_doctor.render.html import render_html

        return render_html
    if form is ReportFormat.GITHUB:
        from dsa_doctor.render.github import render_github

        return render_github
    if form is ReportFormat.SARIF:
        from dsa_doctor.render.sarif import render_sarif

        return render_sarif
    return _json if form is ReportFormat.JSON else _plain_text


def _json(report: "Report") -> str:
    """Return a lone verdict as such, and anything else as a document with the policy in it."""
    from dsa_doctor.policy.report import SingleReport
    from dsa_doctor.render.json import render_json
    from dsa_doctor.verdict.schema import Verdict

    if len(report.verdicts) > 1:
        return render_json(report)
    only = report.verdicts[0]
    fields = {name: getattr(only, name) for name in type(only).model_fields}
    if report.plain:
        return render_json(Verdict(**{name: fields[name] for name in Verdict.model_fields}))
    fields["exit_code"] = report.exit_code
    return render_json(SingleReport(**fields, policy=report.policy, manifest=report.manifest))


def _plain_text(report: "Report") -> str:
    from rich.console import Console

    from dsa_doctor.render.human import MAX_WIDTH
    from dsa_doctor.render.people import print_report

    stream = io.StringIO()
    print_report(Console(file=stream, width=MAX_WIDTH, highlight=False, color_system=None), report)
    return stream.getvalue()
