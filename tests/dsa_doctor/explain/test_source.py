import bz2
import gzip
import io
import json
import lzma
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from dsa_doctor.explain import explain
from dsa_doctor.explain.source import NotALogError, Source

DATA = Path(__file__).parents[2] / "data"

TEXT = (
    "INFO start\nRuntimeError: CUDA error: no kernel image is available for execution on the device: Größe\n" * 9
).encode()

PACKED = {
    "gzip": gzip.compress(TEXT),
    "gzip, several members": gzip.compress(TEXT[:50]) + gzip.compress(TEXT[50:]),
    "gzip, padded": gzip.compress(TEXT) + bytes(512),
    "bzip2": bz2.compress(TEXT),
    "xz": lzma.compress(TEXT),
    "zst": zstandard.compress(TEXT),
    "zst, several frames": zstandard.compress(TEXT[:50]) + zstandard.compress(TEXT[50:]),
}
ENCODED = {
    "utf-8 with a mark": TEXT.decode().encode("utf-8-sig"),
    "utf-16 with a mark": TEXT.decode().encode("utf-16"),
    "utf-16-le": TEXT.decode().encode("utf-16-le"),
    "utf-16-be": TEXT.decode().encode("utf-16-be"),
    "utf-32 with a mark": TEXT.decode().encode("utf-32"),
    "utf-16 packed": gzip.compress(TEXT.decode().encode("utf-16")),
    "a hole of zeros": bytes(3 << 20) + TEXT,
}


def read(data: bytes) -> bytes:
    return b"".join(Source(io.BytesIO(data)).blocks())


@pytest.mark.parametrize("data", [*PACKED.values(), *ENCODED.values()], ids=[*PACKED, *ENCODED])
def test_every_form_gives_the_same_text(data):
    assert read(data) == TEXT
    explanation = explain(io.BytesIO(data))
    assert [(one.id, one.line, one.count) for one in explanation.findings] == [("DSA101", 2, 9)]


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_a_packed_log_that_is_cut_off_is_read_as_far_as_it_goes(name):
    pack = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}[name]
    lines = b"".join(b"INFO %d %d\n" % (number, number * 7919 % 10007) for number in range(300_000))
    data = pack(TEXT + lines)
    source = Source(io.BytesIO(data[: len(data) * 4 // 5]))
    text = b"".join(source.blocks())
    assert text.startswith(TEXT)
    assert len(text) > 0.6 * len(TEXT + lines)
    assert "cut off" in source.remark


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x7fELF" + bytes(100), "ELF"),
        ((DATA / "facts-vllm-0.33.0.json").read_bytes(), "check --facts FILE"),
        (gzip.compress((DATA / "facts-h100-no-vllm.json").read_bytes()), "check --facts FILE"),
        (b"GGUF\x03\0\0\0" + bytes(100), "GGUF"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"\x98\x1a\0\0\0\0\0\0" + b'{"model.embed": {}}', "safetensors"),
        (bytes(257) .replace(b"\0", b"a") + b"ustar\0" + bytes(100), "tar"),
        (bytes(5000), "zero bytes"),
        (bytes(range(256)) * 40, "binary"),
        (gzip.compress(bytes(range(256)) * 40), "binary"),
        (b"\x1f\x8b\x08nonsense that is not gzip at all", "nothing can be read"),
        (b"\x28\xb5\x2f\xfdnonsense", "nothing can be read"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_named(data, what):
    with pytest.raises(NotALogError, match=what):
        read(data)


class Zeros(io.RawIOBase):
    def readable(self):
        return True

    def readinto(self, target):
        target[:] = bytes(len(target))
        return len(target)


def test_zeros_without_an_end_are_refused():
    with pytest.raises(NotALogError, match="zero bytes"):
        b"".join(Source(io.BufferedReader(Zeros(), 1 << 20)).blocks())


def test_a_bomb_is_unpacked_in_bounded_memory():
    for pack in (gzip.compress, bz2.compress, lzma.compress, zstandard.compress):
        data = pack(b"INFO x\n" * 20_000_000)
        tracemalloc.start()
        size = sum(len(block) for block in Source(io.BytesIO(data)).blocks())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size == 140_000_000
        assert peak < 16_000_000


def test_the_objects_of_dockers_log_files_are_unwrapped():
    lines = ["INFO start\n", "RuntimeError: CUDA error: no kernel ", "image is available\n", "Größe\n"]
    data = "".join(json.dumps({"log": line, "stream": "stderr", "time": "2026-09-02"}) + "\n" for line in lines)
    assert read(data.encode()) == "".join(lines).encode()
    assert read((data + "no object\n").encode()).endswith("Größe\nno object\n".encode())
    (found,) = explain(io.BytesIO(data.encode())).findings
    assert (found.id, found.line) == ("DSA101", 2)


def test_text_in_other_alphabets_is_text():
    for text in ("警告：显存不足\n" * 50).encode("gbk"), ("\x1b[31mред\x1b[0m\r\n" * 50).encode("koi8-r"):
        assert read(text) == text
