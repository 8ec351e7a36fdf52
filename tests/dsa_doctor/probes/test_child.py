import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dsa_doctor.probes import child
from dsa_doctor.probes.child import ChildResult, run_child

ANSWER = """
import json, os, sys
request = json.load(sys.stdin)
out = os.fdopen(int(os.environ['DSA_DOCTOR_ANSWER_FD']), 'w')
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ChildResult]:
    monkeypatch.setattr(child, "CHILDREN", tmp_path)

    def start(source: str, *, timeout: float = 20, request: dict[str, object] | None = None) -> ChildResult:
        (tmp_path / "script.py").write_text(source)
        return run_child(
            "script.py", request or {}, python=Path(sys.executable), timeout=timeout, environment={"X": "y"}
        )

    return start


def test_answer_comes_back_untouched_by_what_is_printed(run: Callable[..., ChildResult]) -> None:
    source = (
        ANSWER + "print('banner'); print('{\"a\": 2}', file=sys.stderr); json.dump([request, os.environ['X']], out)"
    )
    result = run(
        source.replace("json.dump([", "json.dump({'got': [").replace("'X']]", "'X']]}"), request={"n": "ü" * 9}
    )
    assert (result.status, result.cause) == ("answered", "")
    assert result.answer == {"got": [{"n": "ü" * 9}, "y"]}
    assert "banner" in result.evidence


def test_nothing_is_written_or_built_beside_what_is_examined(
    run: Callable[..., ChildResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("PYTHONDONTWRITEBYTECODE", "HUMMING_DISABLE_PARALLEL_BUILD")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    result = run(ANSWER + f"json.dump({{name: os.environ.get(name) for name in {names}}}, out)")
    assert result.answer == dict.fromkeys(names, "1")


@pytest.mark.parametrize(
    ("source", "status", "cause"),
    [
        ("import time; print('before'); time.sleep(60)", "timeout", "no answer within 1 s"),
        ("import sys; sys.stdin.close(); import time; time.sleep(60)", "timeout", "no answer within 1 s"),
        ("import os; os.kill(os.getpid(), 11)", "signal", "died of SIGSEGV"),
        ("import os; os.kill(os.getpid(), 40)", "signal", "died of "),
        ("raise ValueError('hf_abcdefghijk')", "exit", "exit status 1"),
        ("pass", "garbage", "no readable answer"),
        (ANSWER + "out.write('[1]')", "garbage", "no readable answer"),
        (ANSWER + "out.write('[' * 100000)", "garbage", "no readable answer"),
        (ANSWER + "out.write('{\"a\":')", "garbage", "no readable answer"),
    ],
)
def test_failures(run: Callable[..., ChildResult], source: str, status: str, cause: str) -> None:
    start = time.monotonic()
    result = run(source, timeout=1)
    assert (result.status, result.answer) == (status, {})
    assert cause in result.cause
    assert "hf_abcdefghijk" not in " ".join(result.evidence)
    assert time.monotonic() - start < 10


def test_request_larger_than_a_pipe_to_a_child_that_does_not_read(run: Callable[..., ChildResult]) -> None:
    result = run("import os; os._exit(4)", request={"text": "x" * (1 << 20)})
    assert (result.status, result.cause) == ("exit", "the script probe ended with exit status 4")


def test_request_larger_than_a_pipe_to_a_child_that_hangs(run: Callable[..., ChildResult]) -> None:
    result = run("import time; time.sleep(60)", request={"text": "x" * (1 << 20)}, timeout=1)
    assert result.status == "timeout"


def test_talkative_child_is_neither_stalled_nor_kept(run: Callable[..., ChildResult]) -> None:
    result = run(ANSWER + "print(('x' * 99 + '\\n') * 300000)\njson.dump({'done': 1}, out)")
    assert result.answer == {"done": 1}
    assert sum(map(len, result.evidence)) < 3000


def test_answer_without_end_is_cut(run: Callable[..., ChildResult], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_LARGEST_ANSWER", 1 << 16)
    assert run(ANSWER + "out.write('{\"a\": \"' + 'x' * (1 << 22) + '\"}')").status == "garbage"


def test_whole_process_group_is_killed(run: Callable[..., ChildResult], tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    source = (
        f"import subprocess, time; p = subprocess.Popen(['sleep', '60']); open({str(marker)!r}, 'w').write(str(p.pid))"
    )
    assert run(source + "\ntime.sleep(60)", timeout=2).status == "timeout"
    pid = int(marker.read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}/stat").exists()


def test_interpreter_that_is_not_there() -> None:
    result = run_child("dispatcher.py", {}, python=Path("/nonexistent/python3"), timeout=5)
    assert (result.status, result.cause) == ("not_started", "could not start python3: No such file or directory")


def test_no_byte_code_is_written(run: Callable[..., ChildResult], tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("value = 3\n")
    result = run(ANSWER + "import other\njson.dump({'value': other.value}, out)")
    assert result.answer == {"value": 3}
    assert not (tmp_path / "__pycache__").exists()


def test_no_descriptor_is_left_open(run: Callable[..., ChildResult]) -> None:
    run(ANSWER + "json.dump({}, out)")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for source in (ANSWER + "json.dump({}, out)", "raise SystemExit(3)"):
        run(source)
    run_child("x.py", {}, python=Path("/nonexistent"), timeout=1)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
