"""What takes long is asked once in a test run, by whichever of pytest-xdist's workers comes first."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Once = Callable[[str, Callable[[], Any]], Any]
"""once(name, make): what `make` returned, as JSON gives it back; the name says all that the answer depends on."""


def once_in(folder: Path) -> Once:
    """Keep answers in a folder; it must be of one test run alone, so that no earlier state of the code answers."""

    def ask(name: str, make: Callable[[], Any]) -> Any:
        file = folder / f"once-{name}.json"
        with file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.is_file():
                written = file.with_suffix(".part")
                written.write_text(json.dumps(make()), encoding="utf-8")
                written.rename(file)
        return json.loads(file.read_text(encoding="utf-8"))

    return ask


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The folder of this test run that its workers share."""
    base = factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
