import io
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_doctor.explain import explain, reader
from dsa_doctor.explain.reader import LogReader, Passage
from dsa_doctor.explain.signs import SIGNS
from dsa_doctor.explain.source import BLOCK, NotALogError

SIGN = b"RuntimeError: CUDA error: no kernel image is available for execution on the device"


REAL = reader.BytesAhoCorasick


def hits(data: bytes, needles=(b"no kernel image",)) -> list[Passage]:
    found = LogReader(needles)
    return [hit for hit in found.scan(io.BytesIO(data)) if isinstance(hit, Passage)]


@pytest.mark.parametrize("before", [0, 1, 1000, BLOCK - 40, BLOCK - 8, BLOCK, 2 * BLOCK - 20, 3 * BLOCK + 5])
def test_line_numbers_hold_across_blocks(before):
    filler = b"x" * 99 + b"\n"
    data = (filler * (before // 100 + 1))[: max(before - 1, 0)] + (b"\n" if before else b"") + SIGN + b"\nend\n"
    (hit,) = hits(data)
    assert hit.line.number == data[: data.index(SIGN)].count(b"\n") + 1
    assert hit.line.text == SIGN.decode()


def test_every_boundary_position_is_found_once():
    for shift in range(-len(SIGN) - 2, 3):
        data = b"a" * (BLOCK + shift) + SIGN + b"b" * 50_000
        assert len(hits(data)) == 1


def test_the_automaton_is_built_once_for_every_log_of_the_process(monkeypatch):
    built = []
    monkeypatch.setattr(
        reader, "BytesAhoCorasick", lambda *args, **options: built.append(args) or REAL(*args, **options)
    )
    reader._automaton.cache_clear()
    needles = (b"needle of this test",)
    for text in (b"a needle of this test\n", b"nothing\n", b"needle of this test, again\n"):
        assert len(hits(text, needles)) == text.count(needles[0])
    assert len(built) == 1


def test_repeats_are_counted():
    (found,) = explain(io.BytesIO((SIGN + b"\n") * 100_000)).findings
    assert found.count == 100_000
    assert found.line == 1


def test_a_rare_sign_among_noise_is_found():
    noise = b"(Worker pid=%d) RuntimeError: CUDA error: an illegal memory access was encountered %d\n"
    lines = b"".join(noise % (number, number) for number in range(60_000))
    data = lines + b"NotImplementedError: Sparse Attention is not supported on CPU.\n" + lines
    found = {one.id: one for one in explain(io.BytesIO(data)).findings}
    assert found["DSA201"].line == 60_001


def test_sixteen_bit_text_of_windows_shells():
    text = "INFO start\r\n" + SIGN.decode() + "\r\n"
    (found,) = explain(io.BytesIO(text.encode("utf-16"))).findings
    assert (found.id, found.line) == ("DSA101", 2)


def test_colours_and_progress_bars_are_stripped():
    data = b"Loading 1%\rLoading 2%\r\x1b[31m(Worker_TP1 pid=7)\x1b[0m \x1b[1;35m" + SIGN + b"\x1b[0m\n"
    (hit,) = hits(data)
    assert hit.line.text == SIGN.decode()
    assert hit.line.rank == "(Worker_TP1 pid=7)"


@pytest.mark.parametrize(
    "prefix",
    [
        "(Worker_TP3 pid=12) ERROR 11-23 10:11:12 [core.py:123] ",
        "ERROR 06-13 11:42:20 _custom_ops.py:11] ",
        "[rank0]: ",
        "[2025-07-29 15:06:51 TP0] ",
        "2026-01-02T03:04:05.678901234Z stderr F ",
        "vllm-1  | (EngineCore pid=5) ",
        "Aug 15 18:16:57 host vllm[7438]: (EngineCore pid=7438) WARNING 08-15 18:16:57 [import_utils.py:408] ",
        "(RayWorkerWrapper pid=1188, ip=10.0.0.3) ",
        "> ",
    ],
)
def test_prefixes_are_stripped(prefix):
    (hit,) = hits(prefix.encode() + SIGN)
    assert hit.line.text.strip() == SIGN.decode()


class Endless(io.RawIOBase):
    """`total` bytes of one line, with a sign in the middle."""

    def __init__(self, total: int) -> None:
        self.left, self.middle = total, total // 2

    def readable(self) -> bool:
        return True

    def readinto(self, target) -> int:
        size = min(len(target), self.left)
        target[:size] = b"y" * size
        if self.left > self.middle >= self.left - size and size > len(SIGN):
            target[: len(SIGN)] = SIGN
        self.left -= size
        return size


def test_memory_does_not_grow_with_the_log():
    tracemalloc.start()
    explanation = explain(io.BufferedReader(Endless(60_000_000), BLOCK))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [one.id for one in explanation.findings] == ["DSA101"]
    assert explanation.context.lines == 1
    assert peak < 24_000_000


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=600), st.lists(st.sampled_from([sign for sign, _ in SIGNS]), max_size=6), st.binary(max_size=80)
)
def test_no_bytes_crash_it(head, signs, glue):
    data = head + glue.join(sign.encode() for sign in signs) + glue
    try:
        explanation = explain(io.BytesIO(data))
    except NotALogError:
        return
    assert explanation.context.bytes <= len(data) or data.startswith((b"\xff\xfe", b"\xfe\xff"))
    explanation.model_dump_json()


PADDING = ["x", " ", "(", "[", "a.", "A_", "/a", ":", "'", "\\", 'File "', "def a(", "sm_", "use_sparse=", "1.", "]: ["]


@pytest.mark.parametrize("padding", PADDING)
def test_long_hostile_lines_stay_quick(padding):
    """Each sign within a long line of one pattern: a classifier that backtracks takes minutes here."""
    around = (padding * 9000)[:9000].encode()
    data = b"".join(around + sign.encode() + around + b"\n" for sign, _ in SIGNS)
    start = time.process_time()
    explain(io.BytesIO(data))
    assert time.process_time() - start < 10
