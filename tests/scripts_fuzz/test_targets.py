"""The fuzz targets: each reads its seeds, survives what was once found and a thousand mutations, and can fail."""

import contextlib
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.fuzz.targets import TARGETS, Target, TooSlowError, execute

FOUND = Path(__file__).parents[1] / "data" / "fuzz"


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_read(name):
    """Else the fuzzer would never come past the first check."""
    target = TARGETS[name]
    seeds = list(target.seeds())
    assert seeds
    for seed in seeds:
        target.run(seed)
        assert len(seed) <= target.longest


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_is_mended(name):
    for file in sorted((FOUND / name).glob("*")):
        execute(TARGETS[name], file.read_bytes(), seconds=5)


def mutated(data: bytes, words: tuple[bytes, ...], chance: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        place = chance.randint(0, len(content))
        kind = chance.randint(0, 4)
        if kind == 0 and content:
            content[min(place, len(content) - 1)] = chance.randint(0, 255)
        elif kind == 1 and words:
            content[place:place] = chance.choice(words)
        elif kind == 2:
            del content[place : place + chance.randint(1, 32)]
        elif kind == 3:
            content[place:place] = content[place : place + chance.randint(1, 64)] * chance.randint(1, 8)
        else:
            content[place:place] = chance.randbytes(chance.randint(1, 8))
    return bytes(content)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_end_in_a_value_or_in_the_readers_own_error(name):
    target, chance = TARGETS[name], random.Random(20_241)
    seeds = list(target.seeds())
    for _ in range(500):
        execute(target, mutated(chance.choice(seeds), target.words, chance)[: target.longest], seconds=5)


def test_a_reader_that_breaks_or_dawdles_is_found():
    def break_at_seven(data):
        if data == b"7":
            raise ValueError("not a reader's own error")

    def dawdle(_):
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass

    target = Target(break_at_seven, (KeyError,), lambda: iter([b"1"]))
    execute(target, b"1")
    with pytest.raises(ValueError, match="own error"):
        execute(target, b"7")
    with pytest.raises(TooSlowError):
        execute(replace(target, run=dawdle), b"", seconds=0.1)
    with contextlib.suppress(KeyError):
        execute(replace(target, run={}.__getitem__), b"")
