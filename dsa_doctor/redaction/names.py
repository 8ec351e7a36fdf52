"""Names of people and machines: home folders, e-mail addresses, this machine's user and host."""

import contextlib
import getpass
import os
import re
import socket
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

_HOME = re.compile(r"(?i)(?:/home|/Users|[A-Z]:\\{1,4}Users)[/\\]{1,4}(?P<name>[^\s/\\'\":,;()<>|]{1,64})")
_EMAIL = re.compile(
    r"(?<![\w.+\-/:])(?P<user>[\w.+\-]{1,64})@(?P<host>[A-Za-z0-9\-]{1,63}(?:\.[A-Za-z0-9\-]{1,63}){1,5})\b"
)
_NOBODY = frozenset(
    {"root", "localhost", "user", "ubuntu", "runner", "app", "ray", "vllm", "jovyan", "public", "shared"}
)
"""Names of images and services, which tell nothing of a person."""


def name_spans(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and replacement of every name of a person or of this machine."""
    for pattern, shown in own_names():
        for match in pattern.finditer(text):
            yield match.start(), match.end(), shown
    if "home" in text or "sers" in text or "SERS" in text or "Home" in text:
        for match in _HOME.finditer(text):
            if match.group("name").lower() not in _NOBODY and not match.group("name").startswith("$"):
                yield *match.span("name"), "<user>"
    if "@" in text:
        for match in _EMAIL.finditer(text):
            if match.group("user") != "git" and not match.group("host").replace(".", "").isdigit():
                yield match.start(), match.end(), "<e-mail>"


@lru_cache(maxsize=1)
def own_names() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Return patterns of this machine's home folder, user and host, with what is shown instead."""
    replacements: list[tuple[str, str]] = [(os.fspath(Path.home()), "~")]
    with contextlib.suppress(KeyError, OSError):  # a container without a passwd entry has no name to hide
        replacements.append((getpass.getuser(), "<user>"))
    replacements.append((socket.gethostname(), "<host>"))
    return tuple(
        (re.compile(rf"(?<![A-Za-z0-9_]){re.escape(text)}(?![A-Za-z0-9_])"), shown)
        for text, shown in replacements
        if len(text) > 2 and text.lower() not in _NOBODY
    )
