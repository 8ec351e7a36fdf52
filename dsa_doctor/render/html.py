"""One HTML file that needs nothing else: to mail, to archive, to open without a network. Light and dark."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from dsa_doctor.policy.report import Report
from dsa_doctor.render import wording
from dsa_doctor.render.human import kept_line
from dsa_doctor.render.steps import todo_lines

_STATE_MARKS = {"native": "good", "upstream": "good", "plugin": "plugin", "unresolved": "bad", "unknown": "doubt"}


def render_html(report: Report) -> str:
    """Return the report as one self-contained HTML document; everything shown is escaped."""
    return _template().render(
        report=report,
        marks=_STATE_MARKS,
        policy_lines=list(wording.policy_lines(report)),
        environments=any(case.environment is not None for case in report.verdicts),
        subject=wording.subject,
        case_title=wording.case_title,
        case_answer=wording.case_answer,
        case_conclusion=wording.case_conclusion,
        report_conclusion=wording.report_conclusion,
        versions=wording.versions,
        kept_line=kept_line,
        by_gravity=wording.by_gravity,
        finding_of=wording.finding_of,
        todo_lines=todo_lines,
        documentation_of=wording.documentation_of,
        finding_title=wording.finding_title,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("dsa_doctor.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: wording.clean(value) if type(value) is str else value,
    )
    return environment.get_template("report.html")
