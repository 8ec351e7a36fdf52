"""What every test shares."""

import pytest


@pytest.fixture(autouse=True)
def _no_interpreter_for_children(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernel tests turn Triton's interpreter on for their process; processes that other tests start must not see it."""
    if "tests/dsa_kernels" not in request.node.nodeid:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
