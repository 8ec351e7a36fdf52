"""JSON and TOML from outside: bounded in depth and in number of values, with one meaning."""

import json
import re
import sys
from typing import Any

from dsa_doctor.reading.errors import ReadingError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MOST_VALUES = 1_000_000
"""A hundred bytes each and more: this bounds the memory, where the bytes alone do not."""

_DEEPEST = 100
_LARGEST_INTEGER = 1 << 64
_LONGEST_NUMBER = 400
_MOST_DOTS = 1 << 26
"""Sum of the squares of the dots of each line: that is what parsing dotted keys costs, half a second here."""


def parse_json(text: str, *, most_values: int = MOST_VALUES, finite: bool = True) -> Any:
    """Return the value of a JSON document.

    Args:
        text: the document.
        most_values: bound of the values in it.
        finite: whether NaN and Infinity, which JSON does not know, are errors; transformers writes them.

    Raises:
        ReadingError: it is no JSON, it is nested deeper than 100, a key has two values in one object, or a number is
            beyond what any field can mean.
    """
    if text.count(",") + text.count("[") + text.count("{") > most_values:
        raise ReadingError(f"holds more than {most_values} values")

    def refuse(kind: str, literal: str) -> ReadingError:
        shown = literal if len(literal) <= 40 else literal[:30] + f"... ({len(literal)} characters)"
        return ReadingError(f"line {_line_of(text, literal)}: {shown} is {kind}")

    def constant(literal: str) -> float:
        if finite:
            raise refuse("not a number that JSON knows", literal)
        return float(literal.replace("Infinity", "inf"))

    def integer(literal: str) -> int:
        if len(literal) > _LONGEST_NUMBER or abs(int(literal)) >= _LARGEST_INTEGER:
            raise refuse("larger than 64 bits hold", literal)
        return int(literal)

    def real(literal: str) -> float:
        value = float(literal) if len(literal) <= _LONGEST_NUMBER else float("inf")
        if value in {float("inf"), float("-inf")}:
            raise refuse("larger than a number can be", literal)
        return value

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            for key, value in pairs:
                if found[key] is not value and found[key] != value:
                    place = json.dumps(key, ensure_ascii=True)[:100]
                    raise ReadingError(f"the key {place} stands twice in one object, with different values")
        return found

    try:
        value = json.loads(text, parse_constant=constant, parse_int=integer, parse_float=real, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        if not text.strip():
            raise ReadingError("is empty") from error
        raise ReadingError(f"not valid JSON: line {error.lineno} column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise ReadingError(f"nested deeper than {_DEEPEST} levels") from error
    _check_depth(value)
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a TOML document.

    Raises:
        ReadingError: it is no TOML, it is nested deeper than 100, or its dotted keys are too long.
    """
    cost = 0
    for number, line in enumerate(text.split("\n"), 1):
        cost += line.count(".") ** 2
        if cost > _MOST_DOTS:
            raise ReadingError(f"line {number}: too many dots; no key has so many parts")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ReadingError(f"not valid TOML ({error})") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise ReadingError(f"not valid TOML ({str(error).partition(':')[0]})") from error
    except RecursionError as error:
        raise ReadingError(f"nested deeper than {_DEEPEST} levels") from error
    _check_depth(content)
    return content


def _check_depth(value: Any) -> None:
    """Walk level by level: a document that a parser took may still be too deep for what is done with it."""
    level = [value]
    for _ in range(_DEEPEST + 1):
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise ReadingError(f"nested deeper than {_DEEPEST} levels")


def _line_of(text: str, literal: str) -> int:
    """Return the line of the first number that is written so, 1-based."""
    found = re.search(rf"(?<![\w.+-]){re.escape(literal)}(?![\w.])", text)
    return text.count("\n", 0, found.start() if found else 0) + 1
