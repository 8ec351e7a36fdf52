"""What every test shares."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulated_vllm import of_one_run
from tests.guards import path_left_as_it_was
from tests.once import Once, once_in, shared_folder

# What an earlier run of a user was told must not answer for the code under test; the cache's own tests switch it on.
os.environ["DSA_DOCTOR_CACHE"] = "off"

# Wherever vLLM is imported, humming starts two processes that build its launcher: more work than the import itself.
os.environ["HUMMING_DISABLE_PARALLEL_BUILD"] = "1"

if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker for every core: more threads of a worker, or of its children, wait for each other.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

if not Path("/dev/nvidiactl").exists():
    # Before any test module imports a kernel: the decorator decides when a kernel is defined, and one process may
    # collect tests that import kernels before it comes to the kernels' own.
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        stack = contextlib.ExitStack()
        stack.enter_context(of_one_run())
        config.add_cleanup(stack.close)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may take longest comes first: at the end no worker waits for another's last test."""
    items.sort(key=_longest_first)


def _longest_first(item: pytest.Item) -> tuple[bool, float]:
    limit = item.get_closest_marker("timeout")
    return item.get_closest_marker("slow") is None, -float(limit.args[0] if limit is not None else 0)


@pytest.fixture(autouse=True)
def _the_path_is_left_as_it_was() -> Iterator[None]:
    with path_left_as_it_was():
        yield


@pytest.fixture(autouse=True)
def _no_interpreter_for_children(
    request: pytest.FixtureRequest, _the_path_is_left_as_it_was: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernel tests run under Triton's interpreter; processes that other tests start must not see it."""
    if "tests/dsa_kernels" not in request.node.nodeid:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Ask once for all workers; see `tests.once`."""
    return once_in(shared_folder(tmp_path_factory))
