"""Bytes to text: the encodings that editors and shells of other systems write."""

import codecs

from dsa_doctor.reading.errors import ReadingError

_MARKS = (  # UTF-32's little-endian mark starts with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode(data: bytes, *, exact: bool = True) -> str:
    """Return the text of UTF-8, or of UTF-16 and UTF-32 with or without byte order mark; the mark is left out.

    Args:
        data: the whole file.
        exact: whether a byte that is no text is an error; else it becomes U+FFFD.

    Raises:
        ReadingError: the bytes are not text in that encoding; the place is named.
    """
    encoding, start = _encoding(data)
    try:
        return data[start:].decode(encoding, "strict" if exact else "replace")
    except UnicodeDecodeError as error:
        # ASCII alone comes before the place, or it would not have been reached: lines can be counted.
        line = data.count(b"\n", 0, start + error.start) + 1
        name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
        raise ReadingError(
            f"cannot be read (line {line}: byte {start + error.start} is not {name} text; save it as UTF-8)"
        ) from error


def _encoding(data: bytes) -> tuple[str, int]:
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name, len(mark)
    # Text without a mark starts with an ASCII character, so where its zero bytes lie tells the rest.
    zeros = bytes(one != 0 for one in data[:4])
    for pattern, name in (
        (b"\1\0\0\0", "utf-32-le"), (b"\0\0\0\1", "utf-32-be"), (b"\1\0\1\0", "utf-16-le"), (b"\0\1\0\1", "utf-16-be"),
    ):  # fmt: skip
        if zeros == pattern:
            return name, 0
    return "utf-8", 0
