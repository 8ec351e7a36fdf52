"""Reads the values of a config.json within bounds: what the verdict, the plan or the plugin rests on is checked here.

The bounds lie far outside every published model. They are there so that nothing is computed from a number that no
model has, and that no list is made as long as a number says.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

MOST_LAYERS = 1024
MOST_EXPERTS = 1 << 17
"""Routed experts of all layers together; the largest models have about 23,000."""
_SHOWN = 60


class ConfigError(ValueError):
    """A config.json that cannot be read or lacks what it must hold; the message names the file and the key."""


@dataclass(frozen=True)
class Keys:
    """The keys of one section of a config.json.

    Attributes:
        values: the section.
        name: of the model, for messages.
        prefix: path of the section within the file, e.g. "vision_config."; empty at the top.
    """

    values: Mapping[str, Any]
    name: str
    prefix: str = ""

    def whole(self, key: str, least: int, most: int, default: int | None = None) -> int:
        """Return a whole number from `least` to `most`; `default` where the key is missing or null.

        Raises:
            ConfigError: the key is missing without a default, is not a whole number, or is out of bounds.
        """
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        accepted = f"a whole number from {least:,} to {most:,} is needed"
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.error(key, value, accepted)
        return value

    def wholes(self, key: str, least: int, most: int, length: int) -> tuple[int, ...] | None:
        """Return a list of at most `length` whole numbers within bounds; None where the key is missing or null.

        Raises:
            ConfigError: it is no such list.
        """
        value = self.values.get(key)
        if value is None:
            return None
        accepted = f"a list of at most {length:,} whole numbers from {least:,} to {most:,} is needed"
        if not isinstance(value, list) or len(value) > length:
            raise self.error(key, value, accepted)
        for one in value:
            if isinstance(one, bool) or not isinstance(one, int) or not least <= one <= most:
                raise self.error(key, one, accepted)
        return tuple(value)

    def words(self, key: str, accepted: Collection[str], length: int) -> tuple[str, ...] | None:
        """Return a list of at least `length` accepted words, cut to it; None where the key is missing or null.

        Raises:
            ConfigError: it is no list, shorter than the layers, or holds another word.
        """
        value = self.values.get(key)
        if value is None:
            return None
        needed = f"a list with one of {', '.join(sorted(accepted))} for each of {length:,} layers is needed"
        if not isinstance(value, list) or not length <= len(value) <= 2 * MOST_LAYERS:
            raise self.error(key, value, needed)
        for one in value[:length]:
            if not isinstance(one, str) or one not in accepted:
                raise self.error(key, one, needed)
        return tuple(value[:length])

    def section(self, key: str) -> "Keys | None":
        """Return a nested section; None where the key is missing or null.

        Raises:
            ConfigError: it is something else than a JSON object.
        """
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, value, "a JSON object is needed")
        return Keys(value, self.name, f"{self.prefix}{key}.")

    def error(self, key: str, value: Any, accepted: str) -> ConfigError:
        """Return the error that names the key, what came and what is accepted."""
        shown = _shown(value)
        return ConfigError(f"{self.name}: key '{self.prefix}{key}' of the model's config.json is {shown}; {accepted}")


def _shown(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'JSON object'} of {len(value):,}"
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return "a whole number of more than 60 digits"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
