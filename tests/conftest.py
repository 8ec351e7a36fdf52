"""What every test shares."""

import os
from pathlib import Path

import pytest

# What an earlier run of a user was told must not answer for the code under test; the cache's own tests switch it on.
os.environ["DSA_DOCTOR_CACHE"] = "off"

if not Path("/dev/nvidiactl").exists():
    # Before any test module imports a kernel: the decorator decides when a kernel is defined, and one process may
    # collect tests that import kernels before it comes to the kernels' own.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def _no_interpreter_for_children(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernel tests run under Triton's interpreter; processes that other tests start must not see it."""
    if "tests/dsa_kernels" not in request.node.nodeid:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
