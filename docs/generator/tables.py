"""Markdown pages and tables."""

import textwrap
from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; cells are one line each, and a bar within a cell is escaped.

    Raises:
        ValueError: a row has another number of cells than the headings.
    """
    lines = [_line(headings), "|" + "---|" * len(headings)]
    for row in rows:
        if len(row) != len(headings):
            raise ValueError(f"{len(row)} cells where there are {len(headings)} headings: {row}")
        lines.append(_line(row))
    return "\n".join(lines)


def code(text: str) -> str:
    """Return text as inline code; nothing stays nothing."""
    return f"`{text}`" if text else ""


def page(title: str, *parts: str) -> str:
    """Return a page of headings, tables, blocks of code, and paragraphs, which are wrapped at 120 columns."""
    return "\n\n".join((f"# {title}", *map(_wrapped, parts))) + "\n"


def _wrapped(part: str) -> str:
    if part.startswith(("#", "|", "```")):
        return part
    paragraphs = (" ".join(one.split()) for one in part.split("\n\n"))
    return "\n\n".join(
        textwrap.fill(one, width=120, break_long_words=False, break_on_hyphens=False) for one in paragraphs
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
