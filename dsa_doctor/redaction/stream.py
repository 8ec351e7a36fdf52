"""Redacts a log of any size as a stream: line by line, in bounded memory, and what came in goes out at once."""

import re
from collections.abc import Iterable, Iterator

from ahocorasick_rs import BytesAhoCorasick, Implementation

from dsa_doctor.redaction import SECRET, find, redact
from dsa_doctor.redaction.kinds import KINDS
from dsa_doctor.redaction.names import own_names

MAX_LINE = 1 << 20
"""Bytes of one line that are held; a longer one is redacted in pieces."""
_MARGIN = 32 << 10
"""Bytes at the end of such a piece that wait for the next one, so that no secret is cut in two."""
_MAX_KEY_LINES = 200
"""A private key has fewer lines; after so many, text is text again."""

_WORDS = ("token", "tokens", "secret", "passwd", "password", "passphrase", "pass", "pwd", "credential",
          "credentials", "auth", "key", "keys", "keyid", "key_id", "key-id", "signature", "login")  # fmt: skip
_FOLLOWING = ("=", ":", "'", '"', "\\", " ", ")", "]", ",", "\t", *"0123456789", "_", "\r", "\n")
_KEY_BEGINS = re.compile(r"-----BEGIN[ A-Z0-9]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_KEY_LINE = re.compile(
    r"(?:[A-Za-z0-9+/=]{16,512}|(?=[A-Za-z]*[0-9+/=])[A-Za-z0-9+/=]{1,15}"
    r"|(?:Proc-Type|DEK-Info|Comment|Version):.{0,200})\s*\Z"
)


class Redactor:
    """Redacts blocks of bytes; text that is not UTF-8 passes through unchanged."""

    def __init__(self) -> None:
        names = [
            pattern.pattern.removeprefix("(?<![A-Za-z0-9_])").removesuffix("(?![A-Za-z0-9_])")
            for pattern, _ in own_names()
        ]
        plain = [re.sub(r"\\(.)", r"\1", name).lower() for name in names]
        needles = {
            *(keyword for kind in KINDS for keyword in kind.keywords),
            *(word + after for word in _WORDS for after in _FOLLOWING),
            *plain, "home/", "home\\", "users/", "users\\", "@", "-----",
        }  # fmt: skip
        self._automaton = BytesAhoCorasick([needle.encode() for needle in needles], implementation=Implementation.DFA)
        self._rest = b""
        self._key_lines = 0

    def stream(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the redacted lines of each block as soon as they are whole."""
        for block in blocks:
            data = self._rest + block
            cut = data.rfind(b"\n") + 1
            whole, self._rest = data[:cut], data[cut:]
            out = [self._lines(whole)] if whole else []
            while len(self._rest) > MAX_LINE:
                out.append(self._piece())
            if any(out):
                yield b"".join(out)
        if self._rest:
            yield self._lines(self._rest)
            self._rest = b""

    def _lines(self, data: bytes) -> bytes:
        """Return whole lines redacted; lines in which nothing could be a secret are not even decoded."""
        out, position = [], 0
        for _, start, _end in self._automaton.find_matches_as_indexes(data.lower()):
            if self._key_lines:
                break
            if start < position:
                continue
            line_start = data.rfind(b"\n", position, start) + 1 or position
            line_end = data.find(b"\n", start) + 1 or len(data)
            out += [data[position:line_start], self._line(data[line_start:line_end])]
            position = line_end
        if self._key_lines:
            for line in data[position:].splitlines(keepends=True):
                out.append(self._line(line))
            return b"".join(out)
        return b"".join([*out, data[position:]]) if out else data

    def _line(self, raw: bytes) -> bytes:
        text = raw.decode("utf-8", "surrogateescape")
        body = text.rstrip("\r\n")
        ending = text[len(body) :]
        if self._key_lines:
            self._key_lines -= 1
            if "-----END" in body:
                self._key_lines = 0
                body = body[: body.index("-----END")] + SECRET
                return f"{body}{ending}".encode("utf-8", "surrogateescape")
            last = body.rsplit(maxsplit=1)[-1] if body.strip() else ""
            if last and _KEY_LINE.match(last):
                body = body[: len(body.rstrip()) - len(last)] + SECRET
        elif (begins := _KEY_BEGINS.search(body)) and "-----END" not in body[begins.end() :]:
            self._key_lines = _MAX_KEY_LINES
        return f"{redact(body)}{ending}".encode("utf-8", "surrogateescape")

    def _piece(self) -> bytes:
        """Return the redacted head of a line that is too long to be held."""
        text = self._rest.decode("utf-8", "surrogateescape")
        cut = len(text) - _MARGIN
        spans = find(text)
        for span in spans:
            if span.start < cut < span.end:
                cut = span.start if span.start else span.end
        pieces, position = [], 0
        for span in spans:
            if span.end <= cut:
                pieces += [text[position : span.start], span.shown]
                position = span.end
        pieces.append(text[position:cut])
        self._rest = text[cut:].encode("utf-8", "surrogateescape")
        return "".join(pieces).encode("utf-8", "surrogateescape")
