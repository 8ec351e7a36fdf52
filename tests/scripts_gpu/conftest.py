"""The scripts for the GPU machine, imported as they import each other; kernels run as in the kernels' own tests."""

import importlib
import sys
from pathlib import Path

import pytest

from tests.dsa_kernels.conftest import ON_GPU, device, on_gpu  # noqa: F401

SCRIPTS = Path(__file__).parents[2] / "scripts" / "gpu"


@pytest.fixture(autouse=True)
def _kernels_under_the_interpreter(monkeypatch, _no_interpreter_for_children):
    """The scripts import kernels within a test."""
    if not ON_GPU:
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def suites(monkeypatch):
    """The folder of suites/ on the path, without what an earlier test imported from other projects' folders."""
    monkeypatch.syspath_prepend(str(SCRIPTS / "suites"))
    names = ("flash_mla", "deep_gemm", "kernelkit", "generators", "lib", "test_attention", "routed", "cases", "run")
    names += ("loading", "on_cpu", "test_flash_mla_sparse_prefill", "test_flash_mla_sparse_decoding")

    def forget():
        for name in [one for one in sys.modules if one.split(".")[0] in names]:
            del sys.modules[name]

    forget()
    yield importlib.import_module
    forget()


@pytest.fixture
def scripts(monkeypatch):
    """The folder scripts/gpu on the path."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module
