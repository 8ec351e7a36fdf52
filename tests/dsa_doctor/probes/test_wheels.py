"""Wheels that no author would build: each is refused by a sentence, in seconds, and nothing is left on the disk."""

import contextlib
import os
import struct
import time
import zipfile
import zlib
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_doctor.probes import wheels
from dsa_doctor.probes.wheels import WheelError, check_wheel_name, table_size, unpack

NAME = "vllm-9.8.7-cp38-abi3-manylinux_2_28_x86_64.whl"
Usage = namedtuple("Usage", "total used free")


def wheel(path: Path, members: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in {"vllm/__init__.py": b"x = 1\n", **(members or {})}.items():
            archive.writestr(name, data)
    return path


def refused(path: Path, folder: Path, said: str) -> None:
    start = time.monotonic()
    with pytest.raises(WheelError, match=said):
        unpack(path, folder)
    assert time.monotonic() - start < 10
    assert sum(one.stat().st_size for one in folder.rglob("*") if one.is_file()) < 1 << 20


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def raw_archive(path: Path, members: list[tuple[str, int, bytes]]) -> Path:
    """Write an archive whose members claim a size of their own: (name, claimed size, deflated bytes)."""
    table = bytearray()
    with path.open("wb") as stream:
        for name, size, packed in members:
            offset = stream.tell()
            encoded = name.encode()
            common = struct.pack("<HHHHHLLLHH", 20, 0, 8, 0, 33, 0, len(packed), size, len(encoded), 0)
            stream.write(b"PK\3\4" + common + encoded + packed)
            table += b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHLL", 0, 0, 0, 0, offset) + encoded
        start = stream.tell()
        stream.write(table)
        stream.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(members), len(members), len(table), start, 0))
    return path


def deflated(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def test_what_is_wanted_is_unpacked_and_nothing_else(tmp_path, folder):
    members = {
        "vllm/_C.abi3.so": b"\x7fELF",
        "vllm/lib/libx.so.1.2": b"\x7fELF",
        "vllm/a.hpp": b"x",
        "vllm/vllm-rs": b"x",
        "vllm-9.8.7.dist-info/METADATA": b"Name: vllm\n",
        "vllm/empty/": b"",
    }
    unpack(wheel(tmp_path / NAME, members), folder)
    names = {one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()}
    assert names == {
        "vllm/__init__.py",
        "vllm/_C.abi3.so",
        "vllm/lib/libx.so.1.2",
        "vllm-9.8.7.dist-info/METADATA",
    }
    assert (folder / "vllm/__init__.py").read_bytes() == b"x = 1\n"


def test_one_that_unpacks_to_gigabytes_is_refused_before_a_byte_is_written(tmp_path, folder):
    # 20 GiB of zeros, claimed by 20 members that share one packed GiB's size.
    packed = deflated(1 << 26)
    members = [("vllm/__init__.py", 0, b"\3\0"), *((f"vllm/{n}.so", 1 << 30, packed) for n in range(20))]
    refused(raw_archive(tmp_path / NAME, members), folder, r"unpacks from \d+ to 20480 MiB")


def test_the_ratio_is_bounded_where_the_size_is_not(tmp_path, folder):
    path = wheel(tmp_path / NAME, {"vllm/a.so": bytes(1 << 27)})
    refused(path, folder, r"unpacks from 0 to 128 MiB.*50 times its size")


def test_a_member_larger_than_it_claims_is_cut_and_refused(tmp_path, folder):
    members = [("vllm/__init__.py", 0, b"\3\0"), ("vllm/a.so", 1000, deflated(1 << 27))]
    refused(raw_archive(tmp_path / NAME, members), folder, r"cannot be unpacked \(BadZipFile: Bad CRC-32")


def test_a_member_smaller_than_it_claims_is_refused(tmp_path, folder):
    members = [("vllm/__init__.py", 0, b"\3\0"), ("vllm/a.so", 5 << 20, deflated(1 << 20))]
    refused(raw_archive(tmp_path / NAME, members), folder, "cannot be unpacked")


def test_damaged_deflate_data_is_refused(tmp_path, folder):
    members = [("vllm/__init__.py", 0, b"\3\0"), ("vllm/a.py", 9, b"\0\1\2\3\4\5\6\7\x08")]
    refused(raw_archive(tmp_path / NAME, members), folder, r"cannot be unpacked \(error: Error -3")


def test_two_hundred_thousand_empty_files_are_refused_at_once(tmp_path, folder):
    path = raw_archive(tmp_path / NAME, [(f"vllm/{n}.py", 0, b"\3\0") for n in range(65_000)])
    refused(path, folder, "a table of 65000 files")
    path.write_bytes(b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 40_000, 40_000, 200_000 * 60, 0, 0))
    refused(path, folder, r"a table of 40000 files in 11718 KiB")


def test_a_table_that_lies_about_its_number_is_refused(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(wheels, "MAX_MEMBERS", 100)
    path = raw_archive(tmp_path / NAME, [(f"vllm/{n}.py", 0, b"\3\0") for n in range(200)])
    data = bytearray(path.read_bytes())
    data[-14:-10] = struct.pack("<2H", 2, 2)
    path.write_bytes(data)
    assert table_size(path)[0] == 2
    refused(path, folder, "it holds 200 files")


def test_a_table_of_64_bits_is_read(tmp_path, folder):
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1 << 40, 1 << 40, 1 << 45, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1)
    short = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / NAME).write_bytes(end + locator + short)
    assert table_size(tmp_path / NAME) == (1 << 40, 1 << 45)
    refused(tmp_path / NAME, folder, "a table of 1099511627776 files")


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(wheels.shutil, "disk_usage", lambda _: Usage(1, 1, 200 << 20))
    refused(wheel(tmp_path / NAME), folder, r"needs 256 MiB to unpack, and 200 are free; set TMPDIR")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../outside.py", "lead out of it"),
        ("/tmp/outside.py", "lead out of it"),
        ("vllm/../../outside.py", "lead out of it"),
        ("vllm/./a.py", "lead out of it"),
        ("vllm//a.py", "lead out of it"),
        ("C:\\a.py", "lead out of it"),
        ("vllm/a\nb.py", r"U\+000A"),
        ("vllm/\x1b[2J.py", r"U\+001B"),
        ("vllm/a\u202eb.py", r"U\+202E"),
    ],
)
def test_names_that_lead_out_or_that_no_file_has_are_refused(tmp_path, folder, name, said):
    refused(wheel(tmp_path / NAME, {name: b"x"}), folder, said)


def test_one_name_twice_is_refused(tmp_path, folder):
    path = raw_archive(tmp_path / NAME, [("vllm/__init__.py", 0, b"\3\0")] * 2)
    refused(path, folder, "it holds vllm/__init__.py twice")


def test_a_file_where_a_folder_must_be_is_refused(tmp_path, folder):
    path = wheel(tmp_path / NAME, {"vllm/a.py": b"x", "vllm/a.py/b.py": b"x"})
    with pytest.raises((WheelError, OSError)):
        unpack(path, folder)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_unpacks_without_bound_is_refused(tmp_path, folder, method):
    refused(wheel(tmp_path / NAME, {"vllm/a.py": b"x" * 100}, method), folder, "compressed by method")


def test_a_link_in_the_archive_becomes_a_file(tmp_path, folder):
    with zipfile.ZipFile(tmp_path / NAME, "w") as archive:
        archive.writestr("vllm/__init__.py", "")
        link = zipfile.ZipInfo("vllm/link.py")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    unpack(tmp_path / NAME, folder)
    assert not (folder / "vllm" / "link.py").is_symlink()
    assert (folder / "vllm" / "link.py").read_text() == "/etc/passwd"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_damage_is_a_wheel_or_a_sentence(tmp_path_factory, data):
    base = tmp_path_factory.mktemp("wheel")
    content = bytearray(wheel(base / NAME, {"vllm/a.so": os.urandom(100), "vllm/b.json": b"{}"}).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (base / NAME).write_bytes(content[: data.draw(st.integers(0, len(content)))])
    (base / "out").mkdir()
    with contextlib.suppress(WheelError, OSError):
        unpack(base / NAME, base / "out")
    assert {one.name for one in base.iterdir()} == {NAME, "out"}, "it stays below its folder"


def test_modules_that_stay_in_the_archive_need_memory_not_room(tmp_path, folder, monkeypatch):
    path = wheel(tmp_path / NAME, {"vllm/a.so": os.urandom(1 << 20), "vllm/b.py": b"", "vllm.libs/c.so": b"x"})
    monkeypatch.setattr(wheels.shutil, "disk_usage", lambda _: Usage(1, 1, (256 << 20) + 1000))
    refused(path, folder, "needs 257 MiB to unpack")
    memory = tmp_path / "meminfo"
    monkeypatch.setattr(wheels, "_MEMORY", memory)
    memory.write_text(f"MemTotal: 9999999 kB\nMemAvailable:   {256 << 10} kB\n")
    with pytest.raises(WheelError, match="its largest module needs 257 MiB of memory, and 256 are left"):
        unpack(path, folder, modules=False)
    assert not list(folder.rglob("*.*"))
    memory.write_text(f"MemTotal: 9999999 kB\nMemAvailable:   {258 << 10} kB\n")
    unpack(path, folder, modules=False)
    assert {one.name for one in folder.rglob("*.*") if one.is_file()} == {"__init__.py", "b.py", "c.so"}


@pytest.mark.parametrize(
    ("name", "said"), [("vllm.whl", "not the name of a wheel"), ("torch-1.0-py3-none-any.whl", "a wheel of torch")]
)
def test_other_names_are_refused(name, said):
    with pytest.raises(WheelError, match=said):
        check_wheel_name(name)
    check_wheel_name(NAME)
