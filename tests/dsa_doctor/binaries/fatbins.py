"""Builds fat binaries around real payloads, to be read back."""

import struct

import lz4.block
import zstandard

from dsa_doctor.binaries.fatbin import Buffer, GpuImage

FLAGS_64_BIT_LINUX = 0x11
COMPRESSION_FLAG = {"none": 0, "lz4": 0x2000, "zstd": 0x8000}
SUFFIX_FLAG = {"": 0, "a": 0x100000, "f": 0x200000}


def entry(
    payload: bytes,
    *,
    kind: int = 2,
    architecture: int = 80,
    suffix: str = "",
    compression: str = "none",
    claims: int = -1,
) -> bytes:
    """Return one entry; `claims` overrides the decompressed size."""
    stored = {
        "none": lambda data: data,
        "lz4": lambda data: lz4.block.compress(data, store_size=False),
        "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    }[compression](payload)
    padded = stored + b"\0" * (-len(stored) % 8)
    flags = FLAGS_64_BIT_LINUX | COMPRESSION_FLAG[compression] | SUFFIX_FLAG[suffix]
    decompressed = 0 if compression == "none" else len(payload) if claims < 0 else claims
    compressed = 0 if compression == "none" else len(stored)
    header = struct.pack(
        "<HHIQIIHHIIIQQQ", kind, 0x101, 64, len(padded), compressed, 0, 8, 1, architecture, 0, 0, flags, 0, decompressed
    )
    return header + padded


def container(*entries: bytes) -> bytes:
    """Return a fat binary of the entries."""
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def stored_bytes(data: Buffer, image: GpuImage) -> bytes:
    """Return the payload as it lies in the file."""
    return data[image.offset : image.offset + image.size]
