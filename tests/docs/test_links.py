"""Links lead somewhere: files, headings, and this repository's own addresses on GitHub. Nothing is fetched."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.docs.pages import PAGES, REPOSITORY, name_of

OWN = re.compile(r"https://github\.com/dsa-doctor/dsa-doctor/(?:blob|tree|raw)/main/")


def targets(page: Path) -> list[str]:
    """Return where the links and pictures of a page lead."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    children = [child for token in tokens for child in token.children or ()]
    linking = [child for child in children if child.type in {"link_open", "image"}]
    return [str(child.attrGet("href") or child.attrGet("src")) for child in linking]


def anchors(page: Path) -> set[str]:
    """Return the addresses of a page's headings, as GitHub and the site make them."""
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    found = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-") for text in found}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in targets(page):
        own = OWN.match(target)
        if not own and re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        here = (page.parent / path).resolve() if path else page
        linked = REPOSITORY / path[own.end() :] if own else here
        assert linked.exists(), f"{name_of(page)}: {target}"
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), f"{name_of(page)}: {target}"


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `two`, three\n\n| a |\n|---|\n| [x](gone.md) |\n\n![p](p.svg) `[no](link.md)`\n")
    assert targets(page) == ["gone.md", "p.svg"]
    assert anchors(page) == {"one-two-three"}
