"""Every kind of file that a name can lead to: read within bounds, or refused by a sentence."""

import bz2
import gzip
import io
import lzma
import os
import socket
import struct
import sys
import threading
import time
import tracemalloc

import pytest
import zstandard

from dsa_doctor.reading import STANDARD_INPUT, ReadingError, files, read_bytes, read_file

LIMIT = 1 << 20
COMPRESSORS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


def test_a_file_is_read_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a" * LIMIT)
    assert read_bytes(path, limit=LIMIT) == b"a" * LIMIT
    with pytest.raises(ReadingError, match=r"cannot be read \(larger than 1023 KiB\)"):
        read_bytes(path, limit=LIMIT - 1024)


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/full", "/dev/urandom"])
def test_a_device_that_never_ends_is_refused(name):
    start = time.monotonic()
    with pytest.raises(ReadingError, match="it is a device or a socket, not a file"):
        read_bytes(type(STANDARD_INPUT)(name), limit=LIMIT)
    assert time.monotonic() - start < 5


def test_the_null_device_is_empty():
    assert read_bytes(type(STANDARD_INPUT)("/dev/null"), limit=LIMIT) == b""


def test_a_file_whose_size_is_not_told_is_read_to_its_end():
    assert b"VmRSS" in read_bytes(type(STANDARD_INPUT)("/proc/self/status"), limit=LIMIT)


def test_folders_sockets_and_missing_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ReadingError, match="it is a folder"):
        read_bytes(tmp_path, limit=LIMIT)
    with pytest.raises(ReadingError, match="no such file"):
        read_bytes(tmp_path / "nowhere", limit=LIMIT)
    monkeypatch.chdir(tmp_path)  # a socket's path has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(ReadingError, match="cannot be read"):
            read_bytes(tmp_path / "socket", limit=LIMIT)


def test_a_pipe_without_writer_is_refused_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_WRITER_TIMEOUT", 0.2)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ReadingError, match="a pipe that nobody wrote to"):
        read_bytes(tmp_path / "pipe", limit=LIMIT)


def test_a_pipe_is_read_to_its_end_however_slow_its_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    opened = threading.Event()

    def write():
        with (tmp_path / "pipe").open("wb", buffering=0) as stream:
            opened.set()
            for part in (b"one ", b"two ", b"three"):
                stream.write(part)
                time.sleep(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert read_bytes(tmp_path / "pipe", limit=LIMIT) == b"one two three"
    finally:
        writer.join()


def test_an_endless_pipe_is_refused(tmp_path):
    reader, writer = os.pipe()

    def write():
        try:
            while True:
                os.write(writer, b"x" * 65536)
        except BrokenPipeError:
            pass

    thread = threading.Thread(target=write)
    thread.start()
    with pytest.raises(ReadingError, match="larger than 1 MiB"):
        read_bytes(type(STANDARD_INPUT)(f"/dev/fd/{reader}"), limit=LIMIT)
    os.close(reader)
    thread.join(timeout=10)
    os.close(writer)
    assert not thread.is_alive()


def test_standard_input_is_read_within_the_same_bound(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"{}")))
    assert read_bytes(STANDARD_INPUT, limit=LIMIT) == b"{}"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x" * (LIMIT + 1))))
    with pytest.raises(ReadingError, match="larger than 1 MiB"):
        read_bytes(STANDARD_INPUT, limit=LIMIT)


@pytest.mark.parametrize("name", COMPRESSORS)
class TestCompressed:
    def test_is_unpacked(self, tmp_path, name):
        content = bytes(range(32, 127)) * 500
        (tmp_path / "file").write_bytes(COMPRESSORS[name](content))
        assert read_bytes(tmp_path / "file", limit=LIMIT) == content

    def test_several_members_are_one_content(self, tmp_path, name):
        (tmp_path / "file").write_bytes(COMPRESSORS[name](b"one ") + COMPRESSORS[name](b"two"))
        assert read_bytes(tmp_path / "file", limit=LIMIT) == b"one two"

    def test_what_unpacks_to_gigabytes_is_refused_in_bounded_memory(self, tmp_path, name):
        bomb = COMPRESSORS[name](b"\0" * (1 << 26))
        (tmp_path / "file").write_bytes(bomb)
        tracemalloc.start()
        try:
            with pytest.raises(ReadingError, match=f"larger than 1 MiB once its {name} is unpacked"):
                read_bytes(tmp_path / "file", limit=LIMIT)
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()

    def test_damage_is_said(self, tmp_path, name):
        whole = bytearray(COMPRESSORS[name](os.urandom(5000)))
        whole[8:40] = b"\xff" * 32
        (tmp_path / "file").write_bytes(whole)
        with pytest.raises(ReadingError, match=f"{name} data"):
            read_bytes(tmp_path / "file", limit=LIMIT)


@pytest.mark.parametrize("name", sorted(COMPRESSORS.keys() - {"zstd"}))
def test_a_cut_off_compressed_file_is_said(tmp_path, name):
    (tmp_path / "file").write_bytes(COMPRESSORS[name](os.urandom(5000))[:-100])
    with pytest.raises(ReadingError, match=f"the {name} data is cut off"):
        read_bytes(tmp_path / "file", limit=LIMIT)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"GGUF\x03\0\0\0", "a GGUF file"),
        (struct.pack("<Q", 64) + b'{"a":{"dtype":"F32"}}', "a safetensors file"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x7fELF\x02", "an executable or shared object"),
        (b"\x80\x02}q", "a pickle"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, start, what):
    (tmp_path / "file").write_bytes(start + bytes(100))
    with pytest.raises(ReadingError, match=f"it is {what}, not text"):
        read_bytes(tmp_path / "file", limit=LIMIT)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_every_unicode_encoding_is_told_apart(tmp_path, encoding):
    text = '{"name": "Ünïcode 🦙"}\n'
    (tmp_path / "file").write_bytes(text.encode(encoding))
    assert read_file(tmp_path / "file", limit=LIMIT) == text


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-32-be"])
def test_a_mark_of_the_other_byte_order_is_left_out(tmp_path, encoding):
    (tmp_path / "file").write_bytes(("\ufeff" + "[1]").encode(encoding))
    assert read_file(tmp_path / "file", limit=LIMIT) == "[1]"


def test_what_is_no_text_is_refused_with_its_place_or_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"one\ntwo \xe9\n")
    with pytest.raises(ReadingError, match=r"line 2: byte 8 is not UTF-8 text; save it as UTF-8"):
        read_file(tmp_path / "file", limit=LIMIT)
    assert read_file(tmp_path / "file", limit=LIMIT, exact=False) == "one\ntwo \ufffd\n"
