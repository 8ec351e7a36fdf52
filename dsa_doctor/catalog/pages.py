"""The page of each finding, as shipped: in a wheel inside the package, in a checkout below docs."""

import re
from pathlib import Path

from dsa_doctor.catalog.findings import FINDINGS_BY_ID

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "pages", _PACKAGE.parent / "docs" / "checks")
_ID = re.compile(r"DSA\d{1,4}", re.IGNORECASE)


def names_a_finding(text: str) -> bool:
    """Whether a text is meant as the id of a finding, known or not."""
    return _ID.fullmatch(text.strip()) is not None


def page_of(text: str) -> str | None:
    """Return the page of a finding as Markdown, whatever the case of its id; None for an id that there is not."""
    finding_id = text.strip().upper()
    if finding_id not in FINDINGS_BY_ID:
        return None
    found = next((page for folder in _FOLDERS if (page := folder / f"{finding_id}.md").is_file()), None)
    return found.read_text(encoding="utf-8") if found is not None else None
