"""From any stream to blocks of UTF-8: compressed logs are unpacked, other encodings converted, other files refused."""

import codecs
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from dsa_doctor.reading import ReadingError, compression_of, decompressed
from dsa_doctor.reading.files import is_safetensors

BLOCK = 1 << 20
_MAX_ZEROS = 64 << 20
"""A log that was cut at its head while it was written begins with a hole of zero bytes; more of them are no log."""
_CONTROL = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]")
_MOST_CONTROL = 0.03
_OWN_DOCUMENT = re.compile(rb"(?:\xef\xbb\xbf)?\s*\{\s*\"schema_version\":\s*\"[\d.]+\",\s*\"dsa_doctor_version\":")
_DOCKER = re.compile(rb"\s*\{\"log\":\s?\"")

_OTHER_FILES = (
    (b"\x7fELF", "a program or library (ELF)"),
    (b"GGUF", "a GGUF model"),
    (b"PK\x03\x04", "a zip archive or wheel: unpack it first"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!", "a rar archive: unpack it first"),
    (b"\x1f\x9d", "a file of `compress`: unpack it first"),
    (b"\x04\x22\x4d\x18", "an lz4 file: unpack it first (lz4 -dc FILE | dsa-doctor explain -)"),
    (b"%PDF", "a PDF document: copy its text"),
    (b"\x89PNG", "a picture: copy the text, as text"),
    (b"\xff\xd8\xff", "a picture: copy the text, as text"),
    (b"SQLite format 3\x00", "a database"),
    (b"PAR1", "a Parquet file"),
    (b"LPKSHHRH", "a journal of systemd: journalctl --file FILE | dsa-doctor explain -"),
)


class NotALogError(ReadingError):
    """What was given is not text; the message says what it is."""


class Source:
    """Blocks of UTF-8, or of whatever bytes a text has.

    Attributes:
        remark: what was wrong with the input, where some of it could be read nevertheless; or "".
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.remark = ""

    def blocks(self) -> Iterator[bytes]:
        """Yield the text as it comes.

        Raises:
            NotALogError: the input is not text, packed or not.
        """
        head = _read(self._stream)
        blocks, compression = _chain(head, self._stream), compression_of(head[:6])
        if compression is not None:
            blocks = self._unpacked(decompressed(io.BufferedReader(_Raw(blocks)), compression))
        yield from _unwrapped(_decoded(_without_hole(blocks)))

    def _unpacked(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        size = 0
        try:
            for block in blocks:
                size += len(block)
                yield block
        except ReadingError as error:
            if not size:
                raise NotALogError(f"a compressed file of which nothing can be read: {error}") from error
            self.remark = (
                f"The compressed file is damaged or cut off: only the first {size} bytes of its text were read."
            )


def _read(stream: BinaryIO) -> bytes:
    """Return what there is without waiting for a whole block: a log that is being written is read as it grows."""
    read1: Callable[[int], bytes] = getattr(stream, "read1", stream.read)
    return read1(BLOCK)


def _chain(head: bytes, stream: BinaryIO) -> Iterator[bytes]:
    while head:
        yield head
        head = _read(stream)


class _Raw(io.RawIOBase):
    """Blocks as a stream that can be read."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._rest = blocks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        if not self._rest:
            self._rest = next(self._blocks, b"")
        size = min(len(target), len(self._rest))
        target[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _without_hole(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Skip a hole of zero bytes at the start."""
    zeros = 0
    for block in blocks:
        rest = block
        if zeros or block.startswith(bytes(16)):
            rest = block.lstrip(b"\0")
            zeros += len(block) - len(rest)
        if rest:
            yield rest
            yield from blocks
            return
        if zeros >= _MAX_ZEROS:
            raise NotALogError(f"zero bytes, {_MAX_ZEROS >> 20} MiB and more of them")
    if zeros:
        raise NotALogError("zero bytes alone")


def _decoded(blocks: Iterator[bytes]) -> Iterator[bytes]:
    head = next(blocks, b"")
    encoding = _encoding(head)
    if encoding is None:
        if what := _other_file(head):
            raise NotALogError(what)
        yield head.removeprefix(codecs.BOM_UTF8)
        yield from blocks
        return
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for block in _prepend(head, blocks):
        if text := decoder.decode(block):
            yield text.encode("utf-8", "replace")


def _unwrapped(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Take the lines out of the objects in which Docker's json-file driver stores them."""
    head = next(blocks, b"")
    if not _DOCKER.match(head):
        yield from _prepend(head, blocks)
        return
    rest = b""
    for block in _prepend(head, blocks):
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > BLOCK:  # no driver writes such lines: it is passed on as it is
            lines, rest = [*lines, rest], b""
        yield b"".join(map(_line_within, lines))
    if rest:
        yield _line_within(rest)


def _line_within(raw: bytes) -> bytes:
    try:
        text = json.loads(raw)["log"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return raw + b"\n"
    return str(text).encode("utf-8", "surrogatepass")


def _prepend(head: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from blocks


def _encoding(head: bytes) -> str | None:
    """Return the encoding of text with wide characters, None for any other."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    sample = head[:4096]
    if len(sample) >= 16:
        even, odd = sample[::2].count(0), sample[1::2].count(0)
        half = len(sample) // 2
        if odd > 0.6 * half and even < 0.02 * half:
            return "utf-16-le"
        if even > 0.6 * half and odd < 0.02 * half:
            return "utf-16-be"
    return None


def _other_file(head: bytes) -> str | None:
    """Return what a file is that is no text, or None."""
    if _OWN_DOCUMENT.match(head):
        return "a report or a facts file of dsa-doctor: `dsa-doctor check --facts FILE` judges facts"
    known = next((what for magic, what in _OTHER_FILES if head.startswith(magic)), None)
    if known is not None:
        return known
    if is_safetensors(head[:16]):
        return "a safetensors file"
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it first (tar -xOf FILE | dsa-doctor explain -)"
    sample = head[: 64 << 10]
    if len(sample) >= 16 and len(_CONTROL.findall(sample)) > _MOST_CONTROL * len(sample):
        return "binary data"
    return None
