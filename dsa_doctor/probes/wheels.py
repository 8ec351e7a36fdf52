"""Unpacks a wheel of vLLM into a folder, once its own table of contents says that it is one and fits.

A wheel may come from anywhere. What the table says of sizes holds: unpacking stops at the size that it gives.
"""

import re
import shutil
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from dsa_doctor.binaries.modules import is_module
from dsa_doctor.processes.child import ChildPool
from dsa_doctor.reading import ReadingError, check_name

MAX_MEMBERS = 50_000
"""vLLM 0.33 has 4,500 files."""
MAX_TABLE = 10 << 20
"""Bytes of the table of contents; vLLM 0.33's has 0.7 MiB."""
MAX_UNPACKED = 16 << 30
"""Bytes; vLLM 0.33 has 1.2 GB."""
MAX_RATIO = 50
"""Unpacked to packed, of all members together; compiled code and sources have 3."""
_FREE_RATIO = 64 << 20
"""Bytes that a wheel may unpack to, whatever its ratio: small files are mostly alike."""
_RESERVE = 256 << 20
"""Bytes that are left free for what else writes there, or needs memory."""
_MEMORY = Path("/proc/meminfo")

_UNPACKERS = 4
"""Threads: decompression leaves Python's lock."""
_PIECE = 1 << 20

_WANTED_SUFFIXES = (".py", ".json", ".so")
"""What the probes read or an import needs; C++ headers and executables are neither."""

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")


class WheelError(ValueError):
    """The file is no wheel of vLLM that can be unpacked here; the message says why."""


def check_wheel_name(name: str) -> None:
    """Refuse what is not the file name of a wheel of vLLM.

    Raises:
        WheelError: it is none, or a wheel of something else.
    """
    try:
        project, *_ = parse_wheel_filename(name)
    except InvalidWheelFilename as error:
        raise WheelError(f"not the name of a wheel ({error})") from error
    if project != canonicalize_name("vllm"):
        raise WheelError(f"a wheel of {project}")


def unpack(path: Path, folder: Path, *, modules: bool = True) -> None:
    """Unpack what is wanted of a wheel, the largest files first, side by side.

    Args:
        path: the wheel.
        folder: where to.
        modules: whether vLLM's compiled modules too; else there must be memory to read the largest of them.

    Raises:
        WheelError: it is not complete, not a wheel of vLLM, larger than any such wheel, or there is no room for it.
        OSError: a file cannot be read or written.
    """
    try:
        _check_table(path)
        with zipfile.ZipFile(path) as archive:
            members = _wanted(archive.infolist())
            _check_sizes(members)
            if not modules:
                _check_memory([one for one in members if is_module(one.filename, "vllm")])
                members = [one for one in members if not is_module(one.filename, "vllm")]
            _check_room(members, shutil.disk_usage(folder).free)
            for parent in {PurePosixPath(one.filename).parent for one in members}:  # two threads would race for them
                (folder / parent).mkdir(parents=True, exist_ok=True)
            with ChildPool(max_workers=_UNPACKERS) as pool:
                for _ in pool.map(lambda one: _write(archive, one, folder / one.filename), members):
                    pass
    except (WheelError, OSError):
        raise
    except Exception as error:  # zipfile lets many kinds of error out of a damaged archive
        raise WheelError(f"cannot be unpacked ({type(error).__name__}: {error})") from error


def table_size(path: Path) -> tuple[int, int]:
    """Return the number of members and the bytes of the table of contents, as the end of the archive gives them.

    Raises:
        WheelError: no archive ends here.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = max(0, size - _END.size - 0xFFFF)
        stream.seek(start)
        tail = stream.read()
        place = tail.rfind(b"PK\5\6")
        if place < 0 or place + _END.size > len(tail):
            raise WheelError("cannot be unpacked (not a zip archive, or its end is missing)")
        _, _, _, _, members, table, _, _ = _END.unpack_from(tail, place)
        if table != 0xFFFFFFFF and members != 0xFFFF:
            return members, table
        if place < _END64_LOCATOR.size:
            raise WheelError("cannot be unpacked (its end is damaged)")
        mark, _, offset, _ = _END64_LOCATOR.unpack_from(tail, place - _END64_LOCATOR.size)
        if mark != b"PK\6\7":
            return members, table
        stream.seek(min(offset, size))
        record = stream.read(_END64.size)
    if len(record) < _END64.size or not record.startswith(b"PK\6\6"):
        raise WheelError("cannot be unpacked (its end is damaged)")
    return _END64.unpack(record)[7], _END64.unpack(record)[8]


def _check_table(path: Path) -> None:
    members, table = table_size(path)
    if members > MAX_MEMBERS or table > MAX_TABLE:
        raise WheelError(
            f"a table of {members} files in {table >> 10} KiB; a wheel of vLLM has at most {MAX_MEMBERS} in "
            f"{MAX_TABLE >> 10} KiB"
        )


def _wanted(listed: Sequence[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Return the members to unpack, the largest first; each can be written below a folder, and by one name."""
    if len(listed) > MAX_MEMBERS:
        raise WheelError(f"it holds {len(listed)} files; a wheel of vLLM has at most {MAX_MEMBERS}")
    members = [one for one in listed if not one.filename.endswith("/") and _is_wanted(one.filename)]
    seen: set[str] = set()
    for one in members:
        _check_member(one)
        if one.filename in seen:
            raise WheelError(f"it holds {one.filename} twice")
        seen.add(one.filename)
    if not any(name.startswith("vllm/") for name in seen):
        raise WheelError("it holds no folder vllm")
    return sorted(members, key=lambda one: -one.file_size)


def _is_wanted(name: str) -> bool:
    base = name.rpartition("/")[2]
    return name.endswith(_WANTED_SUFFIXES) or ".so." in base or ".dist-info/" in name


def _check_member(one: zipfile.ZipInfo) -> None:
    name = PurePosixPath(one.filename)
    try:
        check_name(one.filename)
    except ReadingError as error:
        raise WheelError(f"the name of a file in it: {error}") from error
    if name.is_absolute() or ".." in name.parts or "\\" in one.filename or str(name) != one.filename:
        raise WheelError("it holds paths that lead out of it")
    if one.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise WheelError(f"{one.filename} is compressed by method {one.compress_type}; wheels are deflated")
    if one.flag_bits & 1:
        raise WheelError(f"{one.filename} is encrypted")


def _check_sizes(members: Sequence[zipfile.ZipInfo]) -> None:
    unpacked, packed = sum(one.file_size for one in members), sum(one.compress_size for one in members)
    if unpacked > MAX_UNPACKED or unpacked > max(MAX_RATIO * packed, _FREE_RATIO):
        raise WheelError(
            f"it unpacks from {packed >> 20} to {unpacked >> 20} MiB; a wheel of vLLM stays below "
            f"{MAX_UNPACKED >> 30} GiB and {MAX_RATIO} times its size"
        )


def _check_room(members: Sequence[zipfile.ZipInfo], free: int) -> None:
    unpacked = sum(one.file_size for one in members)
    if unpacked + _RESERVE > free:
        raise WheelError(f"it needs {(unpacked + _RESERVE) >> 20} MiB to unpack, and {free >> 20} are free; set TMPDIR")


def _check_memory(modules: Sequence[zipfile.ZipInfo]) -> None:
    needed, available = _RESERVE + max((one.file_size for one in modules), default=0), _available_memory()
    if available is not None and needed > available:
        raise WheelError(f"its largest module needs {needed >> 20} MiB of memory, and {available >> 20} are left")


def _available_memory() -> int | None:
    try:
        text = _MEMORY.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) << 10 if found else None


def _write(archive: zipfile.ZipFile, one: zipfile.ZipInfo, file: Path) -> None:
    """Write one member; never over another file, and never more than its size in the table."""
    with archive.open(one) as packed, file.open("xb") as stream:
        shutil.copyfileobj(packed, stream, _PIECE)
