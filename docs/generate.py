"""Writes the pages of this folder that come from the code: `python docs/generate.py`; `--check` only compares.

A test runs the comparison, so these pages cannot drift from what the code knows.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from generator import catalog, cli, dense, fits, ledger, matrix, routes, schemas

DOCS = Path(__file__).resolve().parent

PAGES: dict[str, Callable[[], str]] = {
    "capabilities.md": catalog.capabilities_page,
    "models.md": catalog.models_page,
    "checks/index.md": catalog.findings_page,
    "support-matrix.md": matrix.matrix_page,
    "fits.md": fits.fits_page,
    "vllm-releases.md": ledger.releases_page,
    "cli.md": cli.cli_page,
    "json-schema.md": schemas.schemas_page,
    "explanation/dense-or-sparse.md": dense.dense_page,
    "explanation/kernel-routes.md": routes.routes_page,
}


def main() -> int:
    """Write every page, or with --check name those that differ and return 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page differs from the code")
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="only these, such as cli.md; all where none is named")
    arguments = parser.parse_args()
    check, names = arguments.check, arguments.pages or list(PAGES)
    if unknown := [name for name in names if name not in PAGES]:
        parser.error(f"{unknown[0]} is not a generated page; known: {', '.join(PAGES)}")
    stale = []
    for name in names:
        path, text = DOCS / name, PAGES[name]()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text, encoding="utf-8")
    for name in stale:
        sys.stdout.write(f"docs/{name}: {'differs from the code' if check else 'written'}\n")
    if check and stale:
        sys.stdout.write("`python docs/generate.py` writes them anew.\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
