"""FlashInfer's sources: the installed package, and copies of it with one thing taken back."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from dsa_doctor.probes import flashinfer
from dsa_doctor.probes.environment import Environment

HEADERS = "data/include/flashinfer/attention/sparse_mla_sm120"


@pytest.fixture
def copied(tmp_path):
    """Copy the SM120 sources of the installed FlashInfer; a test may change them."""
    spec = importlib.util.find_spec("flashinfer")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("flashinfer is not installed")
    installed = Path(next(iter(spec.submodule_search_locations)))
    if not (installed / HEADERS).is_dir():
        pytest.skip("this FlashInfer has no kernels for 12.x")
    package = tmp_path / "flashinfer"
    shutil.copytree(installed / HEADERS, package / HEADERS)
    shutil.copytree(installed / "mla", package / "mla", ignore=shutil.ignore_patterns("__pycache__"))
    return package


def read(package):
    return flashinfer.probe(Environment(python=None, search_path=(package.parent,)))


def edit(package, pattern, old, new):
    changed = 0
    for path in (package / HEADERS).rglob(pattern):
        text = path.read_text()
        path.write_text(text.replace(old, new))
        changed += old in text
    assert changed


def test_the_installed_one(copied):
    found = read(copied).value
    assert (found.barrier, found.swap_ab, found.rope_free) == ("alternates", "retires", True)
    assert found.shapes["DSV3_2"].most_heads == 128
    assert found.shapes["DSV3_2"].least_topk == 1


def test_without_the_alternating_barrier(copied):
    edit(copied, "*.cuh", "bar_arrive_alt", "bar_arrive_other")
    assert read(copied).value.barrier == "livelocks"


def test_without_the_early_return(copied):
    edit(copied, "*swapab*", "if (io_tid >= BI) return;", "")
    assert read(copied).value.swap_ab == "hangs"
    for path in (copied / HEADERS).rglob("*swapab*"):
        path.unlink()
    assert read(copied).value.swap_ab == "absent"


def test_a_table_of_pairs(copied):
    shutil.rmtree(copied / "mla")
    (copied / "mla").mkdir()
    table = (
        "_DECODE_DSV3_2_DISPATCH = frozenset({(8, 2048), (16, 2048)})\n_DECODE_OTHER_DISPATCH = frozenset({(1, 2)})\n"
    )
    (copied / "mla" / "_sparse_mla_sm120.py").write_text(table)
    found = read(copied).value
    assert found.shapes["DSV3_2"].pairs == ((8, 2048), (16, 2048))
    assert set(found.shapes) == {"DSV3_2"}


def test_absent_and_unreadable(copied, tmp_path):
    assert read(tmp_path / "elsewhere" / "flashinfer").status == "absent"
    (copied / "mla" / "_sparse_mla_sm120.py").write_text("_DECODE_DSV4_DISPATCH = (\n")
    assert read(copied).status == "unknown"
    shutil.rmtree(copied / HEADERS)
    assert read(copied).status == "absent"
