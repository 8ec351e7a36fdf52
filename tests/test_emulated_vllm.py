"""One process a release answers all tests of a run, each question in a copy of its own."""

import os
import signal
import time
from typing import Any

import pytest

from tests.emulated_vllm import ask
from tests.releases import RELEASES, release_folder

pytestmark = pytest.mark.slow


def answer(request: dict[str, Any], emulated: Any) -> dict[str, Any]:
    """Do what a test below asks for."""
    import vllm
    from vllm.platforms import current_platform

    if "end" in request:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(request.get("sleep", 0))
    seen = getattr(vllm, "left_behind", False)
    vllm.left_behind = True
    return {
        "seen": seen,
        "parent": os.getppid(),
        "capability": current_platform.get_device_capability().as_version_str(),
        "variable": os.environ.get("A_VARIABLE"),
        "version": request["version"],
    }


def asked(**request: Any) -> Any:
    """Ask the oldest release, which other tests ask too."""
    return ask(__name__, release_folder(RELEASES[0]), "8.9", request, timeout=30, A_VARIABLE="value")


def test_questions_share_an_import_and_see_nothing_of_each_other() -> None:
    first, second = asked(version=1), asked(version=2)
    assert first["parent"] == second["parent"]
    assert (first["seen"], second["seen"]) == (False, False)
    assert (first["version"], second["version"]) == (1, 2)
    assert first["capability"] == "8.9"
    assert first["variable"] == "value"
    assert "A_VARIABLE" not in os.environ


@pytest.mark.parametrize("request_", [{"end": True}, {"sleep": 60, "version": 1}, {}], ids=["killed", "late", "raises"])
def test_without_an_answer_the_test_fails_and_the_next_is_answered(request_: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match=r"no answer within 2 s|KeyError: 'version'"):
        ask(__name__, release_folder(RELEASES[0]), "8.9", request_, timeout=2)
    assert asked(version=3)["version"] == 3
