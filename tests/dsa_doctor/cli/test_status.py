"""The status line, on a real pseudo-terminal: there while something slow runs, gone at the end, and nowhere else."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dsa_doctor.probes.environment import Environment

SLOW = "import time\ntime.sleep(5)\nraise ImportError('slow and broken')\n"
CLEAR = "\r\x1b[K"


class Terminal:
    """A command whose standard streams are a terminal of 100 columns."""

    def __init__(self, site: Path, *arguments: str, stdout: int | None = None, **variables: str) -> None:
        self._end, inner = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(site), "COLUMNS": "100", **variables}
        if "CI" not in variables:
            environment.pop("CI", None)
        command = [sys.executable, "-m", "dsa_doctor", *arguments]
        self.process = subprocess.Popen(
            command, stdin=inner, stdout=inner if stdout is None else stdout, stderr=inner, env=environment, cwd="/"
        )
        os.close(inner)
        self.text = ""

    def read_until(self, wanted: str | None, *, timeout: float = 90) -> str:
        """Read until something is written, or with None until the command has ended."""
        end = time.monotonic() + timeout
        while wanted is None or wanted not in self.text:
            assert time.monotonic() < end, self.text
            if not select.select([self._end], [], [], 0.2)[0]:
                continue
            try:
                self.text += os.read(self._end, 4096).decode()
            except OSError:  # the other side is closed
                break
        return self.text

    def close(self) -> int:
        self.read_until(None)
        os.close(self._end)
        return self.process.wait(timeout=30)


@pytest.fixture
def slow(site: Callable[..., Environment]) -> Path:
    return site({"vllm/__init__.py": SLOW}).search_path[0]


def test_a_person_sees_what_is_asked_and_nothing_of_it_at_the_end(slow: Path) -> None:
    terminal = Terminal(slow, "check", "--target", "a100")
    terminal.read_until("dsa-doctor: asking vLLM's selector, ")
    assert terminal.close() & 32
    before, _, report = terminal.text.rpartition(CLEAR)
    assert "asking vLLM's selector" in before
    assert "asking vLLM's selector" not in report
    assert "DSA" in report
    assert "\x1b[?25l" not in terminal.text, "the cursor is not hidden, so nobody has to bring it back"
    assert all(len(line) < 100 for line in before.replace(CLEAR, "\n").replace("\r", "\n").split("\n"))


def test_an_interrupt_leaves_its_own_line_alone(slow: Path) -> None:
    terminal = Terminal(slow, "check", "--target", "a100")
    terminal.read_until("asking vLLM's selector, 2 s")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.close() == 130
    last = terminal.text.replace("\n", "\r").rstrip("\r").rpartition("\r")[2]
    assert re.sub(r"\x1b\[[?\d]*[a-zA-Z]", "", last).startswith("dsa-doctor: ended by SIGINT")
    assert CLEAR in terminal.text[terminal.text.rindex("asking vLLM's selector") :]


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (("--format", "json"), {}),
        (("--format", "sarif"), {}),
        ((), {"CI": "true"}),
        ((), {"TERM": "dumb"}),
    ],
)
def test_nothing_of_it_where_a_machine_or_a_log_reads(
    slow: Path, arguments: tuple[str, ...], variables: dict[str, str]
) -> None:
    terminal = Terminal(slow, "check", "--target", "a100", *arguments, **variables)
    assert terminal.close() & 32
    assert "asking vLLM" not in terminal.text
    assert CLEAR not in terminal.text


def test_nothing_of_it_beside_a_pipe(slow: Path) -> None:
    read_end, write_end = os.pipe()
    terminal = Terminal(slow, "check", "--target", "a100", stdout=write_end)
    os.close(write_end)
    with os.fdopen(read_end, encoding="utf-8") as stream:
        report = stream.read()
    assert terminal.close() & 32
    assert terminal.text == ""
    assert "asking vLLM" not in report
