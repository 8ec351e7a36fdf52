"""Sphinx extension for the manual page: a table of options becomes the list that readers of manual pages know."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform


class TablesAsLists(SphinxPostTransform):
    """Makes of every row a term, its first cell, and what the others say of it, each behind its column's name."""

    default_priority = 500
    builders = ("man",)

    def run(self, **_: Any) -> None:
        """Replace the tables of one page."""
        for table in list(self.document.findall(nodes.table)):
            headings = [entry.astext() for head in table.findall(nodes.thead) for entry in head.findall(nodes.entry)]
            items = nodes.definition_list()
            for body in table.findall(nodes.tbody):
                for row in body.findall(nodes.row):
                    items += _item(headings, list(row.findall(nodes.entry)))
            table.replace_self(items)


def _item(headings: list[str], cells: list[nodes.entry]) -> nodes.definition_list_item:
    definition = nodes.definition()
    said = {name: cell.astext() for name, cell in zip(headings, cells, strict=True) if cell.astext()}
    term = said.pop(headings[0], "")
    values, default = said.pop("Values", ""), said.pop("Default", "")
    if default:
        said["Default"] = f"[default: {default}]"
    definition += nodes.paragraph("", " ".join(said.values()))
    return nodes.definition_list_item("", nodes.term("", f"{term} {values}".strip()), definition)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_post_transform(TablesAsLists)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
