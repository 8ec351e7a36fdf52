"""Files compressed with gzip, bzip2, xz or zstd, read piece by piece."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from typing import IO, Any

from dsa_doctor.reading.errors import ReadingError

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_PIECE = 1 << 18
_LARGEST_WINDOW = 1 << 27
"""Bytes that a zstd frame may demand: the format's own default limit."""


def compression_of(start: bytes) -> str | None:
    """Return gzip, bzip2, xz or zstd by the first six bytes of a file, or None."""
    return next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)


def decompressed(stream: IO[bytes], compression: str) -> Iterator[bytes]:
    """Yield the content of a compressed stream in pieces of at most 256 KiB; members one after another are one content.

    Args:
        stream: the compressed bytes, read as far as they are needed.
        compression: as `compression_of` names it.

    Raises:
        ReadingError: the stream is damaged, or (but for zstd, which cannot tell) ends before its content does.
    """
    reader = _opened(stream, compression)
    while True:
        try:
            piece = reader.read1(_PIECE)  # read() would lose the last piece of what is cut off
        except EOFError as error:
            raise ReadingError(f"the {compression} data is cut off") from error
        except (OSError, ValueError, zlib.error, lzma.LZMAError, _zstd_error()) as error:
            raise ReadingError(f"damaged {compression} data ({error or type(error).__name__})") from error
        if not piece:
            return
        yield piece


def _opened(stream: IO[bytes], compression: str) -> Any:
    if compression == "gzip":
        return gzip.GzipFile(fileobj=stream)
    if compression == "bzip2":
        return bz2.BZ2File(stream)
    if compression == "xz":
        return lzma.LZMAFile(stream)
    import zstandard  # what is not compressed does not need it

    reader: Any = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    return reader.stream_reader(stream, read_across_frames=True)


def _zstd_error() -> type[Exception]:
    import zstandard

    return zstandard.ZstdError
