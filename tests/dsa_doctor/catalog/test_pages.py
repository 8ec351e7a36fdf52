"""The page of a finding, from a checkout and from a wheel."""

import subprocess
import sys
import zipfile

import pytest

from dsa_doctor.catalog.findings import KNOWN_FINDINGS
from dsa_doctor.catalog.pages import names_a_finding, page_of
from tests.docs.pages import REPOSITORY


@pytest.mark.parametrize("known", KNOWN_FINDINGS, ids=lambda known: known.id)
def test_every_finding_has_a_page_whatever_the_case(known):
    assert page_of(known.id.lower()).startswith(f"# {known.id}: {known.title}\n")


def test_what_is_no_finding_has_none():
    assert page_of("DSA999") is None
    assert names_a_finding("dsa999")
    assert not names_a_finding("dsa301.log")


def test_a_wheel_carries_the_pages(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"dsa_doctor/pages/{known.id}.md" for known in KNOWN_FINDINGS} <= names


def test_the_command_prints_the_page_and_refuses_what_is_none():
    run = [sys.executable, "-m", "dsa_doctor", "explain"]
    done = subprocess.run([*run, "dsa301"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout == page_of("DSA301")
    done = subprocess.run([*run, "DSA999"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "neither a finding nor a file" in done.stderr
