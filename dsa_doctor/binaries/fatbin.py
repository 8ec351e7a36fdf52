"""Reads the headers of CUDA fat binaries: which GPU architectures a file carries code for, and where it lies.

The layout is not published by NVIDIA. What is used here was read off files that nvcc 13.0 wrote for every architecture
form (sm_90, sm_90a, sm_100f, ...) and compression mode, and is checked against cuobjdump in the tests. Little-endian:

    container  u32 magic 0xBA55ED50, u16 version, u16 header size, u64 size of the entries that follow
    entry      u16 kind, u16 version, u32 header size, u64 stored size, u32 compressed size, u32 options offset,
               u16 minor, u16 major, u32 architecture, u32 name offset, u32 name length, u64 flags, u64 zero,
               u64 decompressed size

A stored size is padded to 8 bytes; the compressed size is exact. A container may follow another after padding.
"""

import mmap
import struct
from dataclasses import dataclass
from typing import Literal

Buffer = bytes | mmap.mmap

MAGIC = struct.pack("<I", 0xBA55ED50)
_CONTAINER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQIIHHIIIQQQ")
_KINDS: dict[int, Literal["machine_code", "ptx"]] = {1: "ptx", 2: "machine_code"}
_LZ4, _ZSTD = 0x2000, 0x8000
_ARCHITECTURE_SPECIFIC, _FAMILY_SPECIFIC = 0x100000, 0x200000
_MOST_PROBLEMS = 20
"""A mangled file could report millions."""


@dataclass(frozen=True)
class GpuImage:
    """One entry of a fat binary.

    Attributes:
        kind: `machine_code` (a cubin) or `ptx`; `other` for what neither a driver loads nor a JIT compiles from here,
            as link-time intermediate code.
        architecture: as nvcc writes it, "sm_80", "sm_90a" or "sm_100f". The suffix comes from the entry's flags (bit
            20: architecture-specific, bit 21: family-specific); the cubin's own e_flags do not tell sm_90 from sm_90a.
        offset: where the payload starts in the file.
        size: bytes of the payload as stored, without padding.
        compression: how it is stored.
        decompressed_size: as the entry claims; 0 where it is not compressed. May lie in a damaged file.
    """

    kind: Literal["machine_code", "ptx", "other"]
    architecture: str
    offset: int
    size: int
    compression: Literal["none", "lz4", "zstd"]
    decompressed_size: int


@dataclass(frozen=True)
class FatbinScan:
    """All entries found, and what was wrong with the rest."""

    images: tuple[GpuImage, ...]
    problems: tuple[str, ...]


def scan_fatbins(data: Buffer, start: int = 0, end: int | None = None) -> FatbinScan:
    """Return the entries of all fat binaries in `data[start:end]`; payloads are not touched, and nothing is raised.

    Time and memory are linear in the range, whatever its bytes claim: each step moves on by at least a header.
    """
    end = len(data) if end is None else min(end, len(data))
    images: list[GpuImage] = []
    problems: list[str] = []
    position = data.find(MAGIC, max(start, 0), end)
    while position >= 0:
        position = _read_container(data, position, end, images, problems)
        position = data.find(MAGIC, position, end)
    return FatbinScan(tuple(images), tuple(problems[:_MOST_PROBLEMS]))


def _read_container(data: Buffer, position: int, end: int, images: list[GpuImage], problems: list[str]) -> int:
    """Append the entries of the container at `position`, and return where to look for the next one."""

    def complain(what: str) -> None:
        if len(problems) < _MOST_PROBLEMS:
            problems.append(f"fat binary at offset {position}: {what}")

    if position + _CONTAINER.size > end:
        complain("its header is cut off")
        return end
    _, _, header_size, size = _CONTAINER.unpack_from(data, position)
    if header_size < _CONTAINER.size:
        complain(f"header size {header_size}")
        return position + len(MAGIC)
    entry: int = position + header_size
    claimed_end = entry + size
    if claimed_end > end:
        complain(f"claims {size} bytes, {max(end - entry, 0)} are there")
    container_end: int = min(claimed_end, end)
    while entry + _ENTRY.size <= container_end:
        fields = _ENTRY.unpack_from(data, entry)
        kind, _, entry_header, stored, compressed, _, _, _, architecture, _, _, flags, _, decompressed = fields
        if entry_header < _ENTRY.size or not 10 <= architecture < 1000:
            complain(f"no entry at offset {entry}")
            return entry
        payload = entry + entry_header
        if payload + stored > container_end:
            complain(f"the entry at offset {entry} is cut off")
            return entry + _ENTRY.size
        compression: Literal["none", "lz4", "zstd"] = "none"
        if flags & _ZSTD:
            compression = "zstd"
        elif flags & _LZ4:
            compression = "lz4"
        suffix = "a" if flags & _ARCHITECTURE_SPECIFIC else "f" if flags & _FAMILY_SPECIFIC else ""
        images.append(
            GpuImage(
                kind=_KINDS.get(kind, "other"),
                architecture=f"sm_{architecture}{suffix}",
                offset=payload,
                size=min(compressed, stored) if compression != "none" else stored,
                compression=compression,
                decompressed_size=decompressed if compression != "none" else 0,
            )
        )
        entry = payload + stored
    return max(entry, container_end)
