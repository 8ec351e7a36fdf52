"""Names that the user or a file gives: what must not be in them, and how they are shown."""

import unicodedata

from dsa_doctor.reading.errors import ReadingError

_FORBIDDEN = frozenset({"Cc", "Zl", "Zp"})
"""Unicode categories: control characters, line and paragraph separators."""

_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Controls of writing direction: what is shown is then not what is there (https://trojansource.codes)."""

_BYTES = frozenset({"Cs"})
"""Surrogates: bytes of a command line that are no text."""


def check_name(text: str, *, breaks: bool = False) -> None:
    """Refuse control characters, line separators, bidirectional controls and bytes that are no text.

    Args:
        text: what came.
        breaks: whether line breaks and tabs are accepted, as in an option's JSON.

    Raises:
        ReadingError: names the character and its place.
    """
    for place, character in enumerate(text, 1):
        if not is_inert(character) and not (breaks and character in "\n\t"):
            name = unicodedata.name(character, "") or "a control character"
            if unicodedata.category(character) in _BYTES:
                name = "a byte that is not UTF-8 text"
            raise ReadingError(f"character {place} is U+{ord(character):04X} ({name}), which no name may hold")


def is_inert(character: str) -> bool:
    """Whether a character does nothing but be shown, in a terminal, a script or a manifest."""
    return unicodedata.category(character) not in _FORBIDDEN | _BYTES and character not in _DIRECTIONS


def one_line(text: str) -> str:
    """Return `text` with everything that `check_name` refuses made visible, for a comment or a sentence."""
    return "".join(one if is_inert(one) else f"\\u{ord(one):04x}" for one in text)
