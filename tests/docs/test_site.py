"""The site builds without a warning, and the pages that come from the code are up to date."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dsa_doctor.catalog.findings import KNOWN_FINDINGS
from tests.docs.pages import PAGES, REPOSITORY

DOCS = REPOSITORY / "docs"


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-j", "1", str(source), str(target)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = build(DOCS, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    for page in PAGES:
        if page.is_relative_to(DOCS):
            assert (tmp_path / "site" / page.relative_to(DOCS)).with_suffix(".html").is_file(), page
    start = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "From nothing to a verdict" in start
    assert not re.findall(r"(?:src|href)=\"https?://[^\"]*\.(?:js|css)", start), "the site loads nothing from elsewhere"


@pytest.mark.slow
def test_the_manual_page_names_every_option(tmp_path: Path) -> None:
    """The page of the command line alone: the manual page and the site have one source."""
    source = tmp_path / "docs"
    source.mkdir()
    for name in ("conf.py", "manual.py", "cli.md"):
        shutil.copy(DOCS / name, source)
    (source / "contents.rst").write_text(":orphan:\n\nContents\n========\n\n.. toctree::\n\n   cli\n")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "man", str(source), str(tmp_path / "man")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "man" / "dsa-doctor.1").read_text(encoding="utf-8").replace("\\-", "-")
    assert text.count(".TP") > 50
    assert ".TS" not in text, "no table"
    options = set(re.findall(r"`(--[a-z][a-z-]+)`", (DOCS / "cli.md").read_text(encoding="utf-8")))
    assert {"--target", "--dry-run", "--redact"} <= options
    assert {one for one in options if one not in text} == set()


@pytest.mark.slow
def test_a_page_without_a_place_and_a_dead_link_fail_the_build(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    for name in ("conf.py", "manual.py"):
        shutil.copy(DOCS / name, source)
    (source / "contents.rst").write_text(":orphan:\n\nContents\n========\n\n.. toctree::\n\n   index\n")
    (source / "index.md").write_text("# Start\n")
    assert build(source, tmp_path / "good").returncode == 0
    (source / "lost.md").write_text("# Lost\n\n[nowhere](gone.md)\n")
    done = build(source, tmp_path / "bad")
    assert done.returncode != 0
    assert "toc.not_included" in done.stderr
    assert "myst.xref_missing" in done.stderr


def test_the_generated_pages_are_up_to_date() -> None:
    command = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_page_that_differs_from_the_code_is_noticed_and_written(tmp_path: Path) -> None:
    for folder in ("docs", "tests/data"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    page = tmp_path / "docs" / "checks" / "index.md"
    right = page.read_text(encoding="utf-8")
    page.write_text(right.replace(KNOWN_FINDINGS[0].title, "Something else"), encoding="utf-8")
    command = [sys.executable, str(tmp_path / "docs" / "generate.py")]
    command += ["checks/index.md", "capabilities.md"]  # all of them: the test above
    checked = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert "docs/checks/index.md" in checked.stdout
    assert "capabilities.md" not in checked.stdout
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert page.read_text(encoding="utf-8") == right
    other = subprocess.run([*command, "index.md"], capture_output=True, text=True, check=False)
    assert other.returncode == 2
    assert "index.md is not a generated page; known: capabilities.md, " in other.stderr


def test_every_variable_that_the_code_reads_is_in_the_reference() -> None:
    """DSA_DOCTOR_ANSWER_FD is how a probe's child returns its answer: set by its parent, never by a user."""
    sources = [*(REPOSITORY / "dsa_doctor").rglob("*.py"), *(REPOSITORY / "kernels" / "dsa_kernels").rglob("*.py")]
    text = "".join(file.read_text(encoding="utf-8") for file in sources)
    read = set(re.findall(r"\bDSA_DOCTOR_[A-Z_]+\b", text))
    reference = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert "DSA_DOCTOR_PLUGIN" in read
    assert {name for name in read if f"`{name}`" not in reference} == {"DSA_DOCTOR_ANSWER_FD"}
