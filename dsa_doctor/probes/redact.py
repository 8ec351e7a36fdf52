"""Keeps secrets, user names and host names out of what a report repeats from error text."""

import contextlib
import getpass
import os
import re
import socket
from functools import lru_cache
from pathlib import Path

_SECRET = re.compile(
    r"(?i)\b((?:[a-z0-9_]*(?:token|secret|passw(?:or)?d|api_?key|credential)[a-z0-9_]*)\s*[=:]\s*)(\S+)"
    r"|\b(hf_[A-Za-z0-9]{8,}|sk-[A-Za-z0-9_-]{8,}|gh[pousr]_[A-Za-z0-9]{8,})"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)


@lru_cache(maxsize=1)
def _names() -> tuple[tuple[re.Pattern[str], str], ...]:
    replacements: list[tuple[str, str]] = [(os.fspath(Path.home()), "~")]
    with contextlib.suppress(KeyError, OSError):  # a container without a passwd entry has no name to hide
        replacements.append((getpass.getuser(), "<user>"))
    replacements.append((socket.gethostname(), "<host>"))
    return tuple(
        (re.compile(rf"(?<![A-Za-z0-9_]){re.escape(text)}(?![A-Za-z0-9_])"), shown)
        for text, shown in replacements
        if len(text) > 2 and text not in {"root", "localhost", "user"}
    )


def redact(text: str) -> str:
    """Return `text` with secrets, the home folder, the user name and the host name replaced."""
    text = _SECRET.sub(lambda match: f"{match.group(1)}<secret>" if match.group(1) else "<secret>", text)
    for pattern, shown in _names():
        text = pattern.sub(shown, text)
    return text


def last_lines(text: str, count: int = 6, width: int = 300) -> tuple[str, ...]:
    """Return the last `count` non-empty lines of `text`, redacted and clipped to `width` characters."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return tuple(redact(line)[:width] for line in lines[-count:])
