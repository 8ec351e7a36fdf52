"""The page of each finding, as shipped: in a wheel beside the package, in a checkout below docs."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from dsa_doctor.catalog.findings import FINDINGS_BY_ID


def finding_id_of(text: str) -> str | None:
    """Return the finding that a text names, whatever the case (dsa301), or None."""
    wanted = text.strip().upper()
    return wanted if wanted in FINDINGS_BY_ID else None


def page_of(finding_id: str) -> str | None:
    """Return a finding's page as Markdown; None where this installation has none."""
    for folder in _folders():
        page = folder / f"{finding_id}.md"
        if page.is_file():
            return page.read_text(encoding="utf-8")
    return None


def _folders() -> tuple[Traversable, ...]:
    package = files("dsa_doctor")
    return package / "pages", Path(str(package)).parent / "docs" / "checks"
