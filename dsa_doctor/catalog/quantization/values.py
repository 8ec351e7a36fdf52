"""Reading values that come from a configuration, which anyone may have written."""

from collections.abc import Mapping
from typing import Any


def whole(
    settings: Mapping[str, Any], keys: tuple[str, ...], problems: list[str], *, least: int, most: int
) -> int | None:
    """Return the first of `keys` that is set as a whole number in bounds; None where none is, or it is out of bounds.

    What came and is no such number is added to `problems`.
    """
    for key in keys:
        value = settings.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            problems.append(f"{key} is {str(value)[:40]!r}; accepted: whole numbers from {least} to {most}")
            return None
        return value
    return None


def flag(settings: Mapping[str, Any], key: str, problems: list[str], *, default: bool) -> bool:
    """Return a setting that is true or false; `default` where it is absent or is neither."""
    value = settings.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        problems.append(f"{key} is {str(value)[:40]!r}; accepted: true or false")
        return default
    return value


def text(settings: Mapping[str, Any], *keys: str) -> str | None:
    """Return the first of `keys` that is a non-empty text, in lower case."""
    found = (settings.get(key) for key in keys)
    return next((one.lower() for one in found if isinstance(one, str) and one), None)


def mapping(settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a nested object; empty where the key is absent or holds something else."""
    value = settings.get(key)
    return {str(name): one for name, one in value.items()} if isinstance(value, dict) else {}


def entries(settings: Mapping[str, Any], *keys: str) -> list[Any] | None:
    """Return the first of `keys` that is a list; None where none is."""
    return next((settings[key] for key in keys if isinstance(settings.get(key), list)), None)


def pair(value: object) -> tuple[int, int] | None:
    """Return rows and columns of a block, or None where `value` is no pair of positive numbers."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    if any(isinstance(one, bool) or not isinstance(one, int) or not 0 < one <= 2**20 for one in value):
        return None
    return value[0], value[1]
