"""Precision and recall of `dsa-doctor explain` on the corpus, and its speed on kinds of logs.

Run: python benchmarks/explain.py [--megabytes 64]
"""

import argparse
import io
import json
import platform
import random
import time
from pathlib import Path

from dsa_doctor.catalog.findings import FINDINGS_BY_ID
from dsa_doctor.explain import explain
from dsa_doctor.explain.background import NEEDLES
from dsa_doctor.explain.signs import SIGNS
from dsa_doctor.explain.source import Source
from dsa_doctor.redaction.stream import Redactor

CORPUS = Path(__file__).resolve().parent.parent / "tests" / "dsa_doctor" / "explain" / "corpus"

SERVING = (
    "(APIServer pid=1) INFO 07-13 09:49:{second:02d} [loggers.py:273] Engine 000: Avg prompt throughput: "
    "{number}.3 tokens/s, Avg generation throughput: 14.7 tokens/s, Running: 3 reqs, GPU KV cache usage: 1.2%\n"
    '(APIServer pid=1) INFO:     10.0.0.{second}:{number} - "POST /v1/chat/completions HTTP/1.1" 200 OK\n'
)
TRACEBACK = (
    "(Worker_TP{rank} pid={number}) ERROR 06-29 03:35:32 [multiproc_executor.py:1000]   File "
    '"/usr/local/lib/python3.12/dist-packages/vllm/v1/worker/gpu_model_runner.py", line {number}, in _dummy_run\n'
    "(Worker_TP{rank} pid={number}) ERROR 06-29 03:35:32 [multiproc_executor.py:1000] RuntimeError: Assertion error "
    "(/workspace/.deps/deepgemm-src/csrc/apis/attention.hpp:{number}): Unsupported architecture\n"
)


class Repeated(io.RawIOBase):
    """A stream that repeats a block until `total` bytes were read."""

    def __init__(self, block: bytes, total: int) -> None:
        self._block, self._left, self._at = block, total, 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        """Fill as much of `target` as the block goes on."""
        size = min(len(target), self._left, len(self._block) - self._at)
        target[:size] = self._block[self._at : self._at + size]
        self._at = (self._at + size) % len(self._block)
        self._left -= size
        return size


def kinds() -> dict[str, bytes]:
    """Return a block of 4 MiB of each kind of input."""
    generator = random.Random(7)

    def text(template: str) -> bytes:
        lines, size = [], 0
        while size < 4 << 20:
            number, rank = generator.randrange(10000, 60000), generator.randrange(8)
            line = template.format(second=generator.randrange(60), number=number, rank=rank).encode()
            lines.append(line)
            size += len(line)
        return b"".join(lines)

    needles = [needle.encode() for needle in (*(sign for sign, _ in SIGNS), *NEEDLES)]
    dense = b" ".join(generator.choice(needles) for _ in range(300_000))
    return {
        "serving log": text(SERVING),
        "errors of 8 ranks, every line": text(TRACEBACK),
        "progress bars, carriage returns": b"Capturing CUDA graphs: 46%|####    | 16/35 [00:02<00:02, 8.8it/s]\r"
        * 60_000,
        "one endless line": b"x" * (4 << 20),
        "another alphabet": bytes(generator.choices(range(0xA0, 0x100), k=4 << 20)),
        "signs alone, one endless line": dense,
        "signs alone, a line each": dense.replace(b" ", b"\n"),
    }


def score() -> None:
    """Print precision and recall per layer and per part of the corpus."""
    index = json.loads((CORPUS / "index.json").read_text(encoding="utf-8"))
    for part in ("development", "held-out"):
        counts = {layer: [0, 0, 0] for layer in ("csrc", "attention", "indexer", "runtime")}
        ids = [0, 0, 0]
        entries = [entry for entry in index if entry["part"] == part]
        for entry in entries:
            with (CORPUS / entry["log"]).open("rb") as stream:
                found = {one.id for one in explain(stream).findings}
            wanted = set(entry["ids"])
            _add(ids, found, wanted)
            for layer, where in counts.items():
                of_layer = [{one for one in which if FINDINGS_BY_ID[one].layer == layer} for which in (found, wanted)]
                _add(where, {layer} if of_layer[0] else set(), {layer} if of_layer[1] else set())
        print(f"{part}: {len(entries)} logs")
        total = [sum(column) for column in zip(*counts.values(), strict=True)]
        for name, where in (*counts.items(), ("all layers", total), ("finding ids", ids)):
            print(f"  {name:12} precision {_ratio(where[0], where[1])}, recall {_ratio(where[0], where[2])}")


def _add(counts: list[int], found: set[str], wanted: set[str]) -> None:
    counts[0] += len(found & wanted)
    counts[1] += len(found - wanted)
    counts[2] += len(wanted - found)


def _ratio(hits: int, others: int) -> str:
    return f"{hits / (hits + others):.3f} ({hits}/{hits + others})" if hits + others else "none"


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=64)
    options = parser.parse_args()
    score()
    print(f"speed, {options.megabytes} MB each, Python {platform.python_version()}, one thread")
    for name, block in kinds().items():
        stream = io.BufferedReader(Repeated(block, options.megabytes * 1_000_000), 1 << 20)
        start = time.process_time()
        explanation = explain(stream)
        seconds = time.process_time() - start  # other load on the machine does not count
        print(f"  {name:32} {explanation.context.bytes / seconds / 1e6:7.0f} MB/s")
    for name in ("serving log", "errors of 8 ranks, every line"):
        stream = io.BufferedReader(Repeated(kinds()[name], options.megabytes * 1_000_000), 1 << 20)
        start = time.process_time()
        size = sum(len(piece) for piece in Redactor().stream(Source(stream).blocks()))
        seconds = time.process_time() - start
        print(f"  --redact, {name:32} {size / seconds / 1e6:7.0f} MB/s")


if __name__ == "__main__":
    main()
