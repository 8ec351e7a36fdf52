"""Files of kept answers in the user's cache folder: private, bounded, replaced atomically, and never trusted.

An entry that is damaged, too large, a link, or owned or writable by somebody else is as good as none. Whatever keeps
an entry from being written (a read-only home, a full disk) costs the next run its time, and nothing else.
"""

import contextlib
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

LARGEST_ENTRY_BYTES = 16 << 20
LARGEST_TOTAL_BYTES = 128 << 20
MOST_ENTRIES = 256
LONGEST_AGE_SECONDS = 30 * 86400.0
"""An entry is not believed for longer, whatever its key says: some things that matter cannot be seen from outside."""

_SUFFIX = ".answer"
_PARTIAL = ".partial-"
_PARTIAL_AGE_SECONDS = 3600.0
_MAGIC = b"dsa-doctor kept answer 1\n"


@dataclass(frozen=True)
class Content:
    """What the folder holds.

    Attributes:
        entries: number of entries.
        size_bytes: their size.
        oldest: time of the oldest, in seconds since the epoch; None where there is none.
    """

    entries: int
    size_bytes: int
    oldest: float | None


class Store:
    """Entries by key in one folder. No method but `clear` raises for what the file system does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of_user(cls) -> "Store | None":
        """Return the store in the user's cache folder (XDG_CACHE_HOME, else ~/.cache); None where there is no home."""
        given = os.environ.get("XDG_CACHE_HOME", "")
        try:
            # The specification has relative paths ignored.
            base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
        except RuntimeError:
            return None
        return cls(base / "dsa-doctor" / "answers")

    def get(self, key: str) -> bytes | None:
        """Return the content of an entry, or None where there is none that can be believed."""
        with contextlib.suppress(OSError):
            if not _is_private(self.folder.lstat(), stat.S_ISDIR):
                return None
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor, opened without following a link
                found = os.fstat(descriptor)
                young = 0 <= time.time() - found.st_mtime < LONGEST_AGE_SECONDS
                if not young or not _is_private(found, stat.S_ISREG) or found.st_size > LARGEST_ENTRY_BYTES:
                    return None
                content = _unsealed(stream.read(LARGEST_ENTRY_BYTES + 1))
                if content is not None:
                    # The access time is set by hand, since file systems mounted with noatime do not.
                    os.utime(descriptor, ns=(time.time_ns(), found.st_mtime_ns))
                return content
        return None

    def put(self, key: str, content: bytes) -> bool:
        """Keep an entry in place of the one before it; returns whether it is kept."""
        if len(content) + len(_MAGIC) + 65 > LARGEST_ENTRY_BYTES:
            return False
        partial = self.folder / f"{_PARTIAL}{secrets.token_hex(8)}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not _is_private(self.folder.lstat(), stat.S_ISDIR):
                return False
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as stream:  # noqa: PTH123
                stream.write(_sealed(content))
            partial.replace(self._path(key))
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()
            return False
        self._evict(keep=key)
        return True

    def clear(self) -> int:
        """Remove every entry and every half-written one; returns how many.

        Raises:
            OSError: one cannot be removed.
        """
        removed = 0
        for path in [*self._named(_SUFFIX), *self._named(_PARTIAL)]:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                removed += 1
        return removed

    def content(self) -> Content:
        """Return what the folder holds."""
        found = [status for _, status in self._statuses()]
        return Content(
            len(found), sum(one.st_size for one in found), min((one.st_mtime for one in found), default=None)
        )

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _named(self, part: str) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            for path in sorted(self.folder.iterdir()):
                if path.name.startswith(part) or (path.name.endswith(part) and not path.name.startswith(".")):
                    yield path

    def _statuses(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self._named(_SUFFIX):
            with contextlib.suppress(OSError):
                found.append((path, path.lstat()))
        return found

    def _evict(self, *, keep: str) -> None:
        """Remove what was used longest ago until the bounds hold, what is too old, and what a killed run left."""
        now = time.time()
        kept = self._path(keep)
        found = sorted(self._statuses(), key=lambda one: (one[0] == kept, one[1].st_atime_ns))
        total, count = sum(status.st_size for _, status in found), len(found)
        for path, status in found:
            old = now - status.st_mtime > LONGEST_AGE_SECONDS
            if path == kept or not (old or total > LARGEST_TOTAL_BYTES or count > MOST_ENTRIES):
                continue
            with contextlib.suppress(OSError):
                path.unlink()
            total, count = total - status.st_size, count - 1
        for path in self._named(_PARTIAL):
            with contextlib.suppress(OSError):
                if now - path.lstat().st_mtime > _PARTIAL_AGE_SECONDS:
                    path.unlink()


def _is_private(found: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    """Whether a file or folder is of its kind, this user's, and writable by nobody else."""
    return is_kind(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _sealed(content: bytes) -> bytes:
    """Put a checksum before the content: a flipped bit must not flip an answer."""
    return _MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def _unsealed(data: bytes) -> bytes | None:
    head, checksum, content = data[: len(_MAGIC)], data[len(_MAGIC) :][:64], data[len(_MAGIC) + 65 :]
    if head != _MAGIC or hashlib.sha256(content).hexdigest().encode() != checksum:
        return None
    return content
