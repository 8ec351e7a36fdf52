import re
import struct
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_doctor.binaries import ElfError, SharedObject
from dsa_doctor.binaries.elf import gnu_hash


def nm(path: Path, *options: str) -> set[str]:
    try:
        done = subprocess.run(["nm", "-D", *options, path], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("nm (binutils) is not installed")
    lines = (line.split() for line in done.stdout.splitlines())
    return {words[-1].split("@")[0] for words in lines if words[-2] not in {"w", "v"}}


def test_undefined_and_exported_symbols_are_those_that_nm_lists(extensions: list[Path], torch_dir: Path) -> None:
    for path in [*(path for path in extensions if path.stat().st_size < 100_000_000), torch_dir / "lib" / "libc10.so"]:
        file = SharedObject(path)
        undefined = set(file.undefined_symbols())
        assert undefined == nm(path, "--undefined-only"), path.name
        exported = nm(path, "--defined-only")
        assert file.provided([*exported, *undefined, "surely_not_there"]) == exported, path.name
        assert undefined, path.name


def test_needed_libraries_and_run_path_are_those_that_readelf_lists(main_extension: Path, torch_dir: Path) -> None:
    for path in (main_extension, torch_dir / "lib" / "libtorch_python.so"):
        try:
            done = subprocess.run(["readelf", "-dW", path], capture_output=True, text=True, check=True)
        except FileNotFoundError:
            pytest.skip("readelf (binutils) is not installed")
        file = SharedObject(path)
        assert list(file.needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", done.stdout)
        assert ":".join(file.run_path) == ":".join(re.findall(r"\(R(?:UN)?PATH\).*\[(.*)\]", done.stdout))


def test_gnu_hash_of_a_known_name() -> None:
    assert gnu_hash(b"printf") == 0x156B2BB8


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "empty file"),
        (b"#!/bin/sh\n", "not an ELF file"),
        (b"\x7fELF", "truncated"),
        (b"\x7fELF" * 40, "not a 64-bit|truncated"),
    ],
)
def test_what_is_no_shared_object_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "x.so"
    path.write_bytes(content)
    with pytest.raises(ElfError, match=complaint):
        SharedObject(path)


@pytest.fixture(scope="module")
def small_object(extensions: list[Path]) -> Path:
    return min(extensions, key=lambda path: path.stat().st_size)


def hash_section(path: Path) -> tuple[int, int]:
    """First and last byte of the header of the symbol hash table, whose counts steer each lookup."""
    start, _ = SharedObject(path).section(".gnu.hash") or (0, 0)
    return start, start + 15


@settings(max_examples=150, deadline=5000)
@given(data=st.data())
def test_truncated_or_mutated_objects_end_in_elf_error_or_an_answer(
    small_object: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(small_object.read_bytes())
    # The ELF header and the section headers at the end are what steers the reader.
    places = st.one_of(
        st.integers(0, 63),
        st.integers(*hash_section(small_object)),
        st.integers(len(content) - 2048, len(content) - 1),
        st.integers(0, len(content) - 1),
    )
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(places)] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(1, len(content))))
    path = tmp_path_factory.mktemp("elf") / "x.so"
    path.write_bytes(content[:cut])
    try:
        file = SharedObject(path)
        file.provided(["a", "PyInit_spinloop", *file.undefined_symbols()])
    except ElfError:
        pass


def test_cut_off_object_is_never_taken_as_whole(small_object: Path, tmp_path: Path) -> None:
    content = small_object.read_bytes()
    for part in range(1, 16):
        path = tmp_path / f"{part}.so"
        path.write_bytes(content[: len(content) * part // 16])
        with pytest.raises(ElfError, match="truncated"):
            SharedObject(path)


def hostile_object(
    path: Path, *, strings: bytes, symbols: bytes = b"", dynamic: bytes = b"", hashed: bytes = b""
) -> Path:
    """An object whose tables are as given; its section names are sound."""
    names = b"\0.dynstr\0.dynsym\0.dynamic\0.gnu.hash\0.shstrtab\0"
    parts = [
        (1, 3, 0, strings),
        (9, 11, 1, symbols),
        (17, 6, 1, dynamic),
        (26, 0x6FFFFFF6, 2, hashed),
        (36, 3, 0, names),
    ]
    offset, headers, body = 64, [bytes(64)], b""
    for name, kind, link, part in parts:
        headers.append(struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset + len(body), len(part), link, 0, 8, 24))
        body += part
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, offset + len(body), 0, 64, 0, 0, 64, len(headers), 5)
    path.write_bytes(head + body + b"".join(headers))
    return path


def test_tables_that_would_take_for_ever_are_refused_in_seconds(tmp_path: Path) -> None:
    start = time.monotonic()
    endless = b"\0" + b"x" * (8 << 20)
    symbols = b"".join(struct.pack("<IBBHQQ", 1 + n, 0x12, 0, 0, 0, 0) for n in range(20_000))
    with pytest.raises(ElfError, match="the names of its symbols do not end"):
        SharedObject(hostile_object(tmp_path / "names.so", strings=endless, symbols=symbols)).undefined_symbols()
    many = SharedObject(hostile_object(tmp_path / "many.so", strings=b"\0", symbols=bytes(24 * 4_000_001)))
    with pytest.raises(ElfError, match=r"\d+ symbols"):
        many.undefined_symbols()
    with pytest.raises(ElfError, match="does not end"):
        SharedObject(hostile_object(tmp_path / "tag.so", strings=endless, dynamic=struct.pack("<qQ", 1, 1)))
    chain = struct.pack("<4IQI", 1, 1, 1, 6, 2**64 - 1, 1) + struct.pack("<I", 2) * 2_000_000
    found = SharedObject(hostile_object(tmp_path / "chain.so", strings=b"\0a\0", symbols=bytes(48), hashed=chain))
    with pytest.raises(ElfError, match="hash table does not end"):
        found.provided(["malloc"])
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(("place", "value"), [(60, 0xFFFF), (58, 1), (62, 4000), (4, 1), (5, 2), (40, 0xFF)])
def test_headers_that_lie_are_refused(small_object: Path, tmp_path: Path, place: int, value: int) -> None:
    content = bytearray(small_object.read_bytes())
    content[place : place + 2] = struct.pack("<H", value)
    (tmp_path / "x.so").write_bytes(content)
    with pytest.raises(ElfError, match=r"damaged|truncated|not a 64-bit"):
        SharedObject(tmp_path / "x.so")
