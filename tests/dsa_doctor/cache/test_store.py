"""The files of kept answers: private, bounded, replaced atomically, and never believed when something is odd."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dsa_doctor.cache import store as module
from dsa_doctor.cache.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache" / "answers")


def entry(store: Store, key: str = "key") -> Path:
    return store.folder / f"{key}.answer"


def test_what_is_put_is_given_back_and_private(store: Store) -> None:
    old = os.umask(0)
    try:
        assert store.put("key", b"content")
    finally:
        os.umask(old)
    assert store.get("key") == b"content"
    assert store.get("other") is None
    assert entry(store).stat().st_mode & 0o777 == 0o600
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert store.put("key", b"newer")
    assert store.get("key") == b"newer"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_format(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"answer 1", b"answer 0"))


def link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def writable_by_others(path: Path) -> None:
    path.chmod(0o602)


def writable_by_the_group(path: Path) -> None:
    path.chmod(0o620)


def old(path: Path) -> None:
    then = time.time() - module.LONGEST_AGE_SECONDS - 1
    os.utime(path, (then, then))


def from_the_future(path: Path) -> None:
    then = time.time() + 3600
    os.utime(path, (then, then))


def open_folder(path: Path) -> None:
    path.parent.chmod(0o777)


@pytest.mark.parametrize(
    "damage",
    [
        *(flip, truncate, empty, other_format, link, folder, pipe, old, from_the_future),
        *(writable_by_others, writable_by_the_group, open_folder),
    ],
    ids=lambda one: one.__name__,
)
def test_an_odd_entry_is_as_good_as_none(store: Store, damage: Callable[[Path], None]) -> None:
    store.put("key", b"a content that is long enough")
    assert store.get("key") is not None
    damage(entry(store))
    assert store.get("key") is None


def test_an_entry_of_somebody_else_is_not_believed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("key", b"content")
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert store.get("key") is None
    assert store.put("key", b"content") is False


def test_a_huge_entry_is_neither_kept_nor_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("key", b"x" * 1000)
    monkeypatch.setattr(module, "LARGEST_ENTRY_BYTES", 900)
    assert store.get("key") is None
    assert store.put("other", b"x" * 1000) is False
    assert not entry(store, "other").exists()


def test_bounds_hold_and_what_was_used_last_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENTRIES", 4)
    for number in range(4):
        store.put(f"key{number}", b"x")
        os.utime(entry(store, f"key{number}"), (1000 + number, time.time()))
    assert store.get("key0") == b"x"  # now the one used last
    store.put("key4", b"x")
    assert [store.get(f"key{number}") is not None for number in range(5)] == [True, False, True, True, True]
    monkeypatch.setattr(module, "LARGEST_TOTAL_BYTES", entry(store, "key4").stat().st_size + 5000)
    store.put("large", b"x" * 5000)
    assert store.get("large") is not None
    assert store.content().entries == 1


def test_half_written_entries_of_killed_runs_go(store: Store) -> None:
    store.put("key", b"x")
    left = store.folder / ".partial-0123"
    left.write_bytes(b"x")
    os.utime(left, (1, 1))
    fresh = store.folder / ".partial-4567"
    fresh.write_bytes(b"x")
    store.put("key", b"x")
    assert not left.exists()
    assert fresh.exists()  # another run is writing it
    assert store.clear() == 2
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("place", ["/proc/nowhere/answers", "/dev/null/answers", "/dev/full"])
def test_a_folder_that_cannot_be_written_costs_nothing_but_time(place: str) -> None:
    store = Store(Path(place))
    assert store.put("key", b"x") is False
    assert store.get("key") is None
    assert store.clear() == 0
    assert store.content().entries == 0


def test_a_disk_that_fills_up_leaves_nothing_behind(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("key", b"before")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert store.put("key", b"after") is False
    monkeypatch.undo()
    assert store.get("key") == b"before"
    assert [path.name for path in store.folder.iterdir()] == ["key.answer"]


def test_concurrent_runs_see_whole_entries_only(store: Store) -> None:
    contents = [bytes([number]) * 200_000 for number in range(1, 5)]
    store.put("key", contents[0])
    stop, wrong = threading.Event(), []

    def write(content: bytes) -> None:
        while not stop.is_set():
            store.put("key", content)

    def read() -> None:
        for _ in range(200):
            found = store.get("key")
            if found not in contents:
                wrong.append(found)

    writers = [threading.Thread(target=write, args=(one,)) for one in contents]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in (*writers, *readers):
        thread.start()
    for thread in readers:
        thread.join()
    stop.set()
    for thread in writers:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("given", "expected"), [("/somewhere", "/somewhere"), ("relative", "HOME/.cache"), ("", "HOME/.cache")]
)
def test_the_users_folder(given: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    found = Store.of_user()
    assert found is not None
    assert str(found.folder) == f"{expected.replace('HOME', str(tmp_path))}/dsa-doctor/answers"
