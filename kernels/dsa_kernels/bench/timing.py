"""Time work on a GPU: CUDA graph replays over rotating inputs, median and spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

#: Samples that a time rests on at least, however long each takes.
FEWEST_SAMPLES = 8


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: median, and the 10th and 90th percentile of that many samples."""

    median_us: float
    low_us: float
    high_us: float
    samples: int

    def __str__(self) -> str:
        return f"{self.median_us:9.1f} [{self.low_us:.1f}, {self.high_us:.1f}]"


def summarise(samples: Sequence[float]) -> Timing:
    """The median and the outer deciles of microseconds; at least two samples."""
    deciles = statistics.quantiles(samples, n=10, method="inclusive")
    return Timing(statistics.median(samples), deciles[0], deciles[-1], len(samples))


def time_calls(calls: Sequence[Callable[[], object]], milliseconds: float = 60.0) -> Timing:
    """Time the mean of `calls` (the same work on different inputs), captured as one CUDA graph.

    Args:
        calls: each is called twice before capture, which compiles whatever is to be compiled.
        milliseconds: about how long to sample.
    """
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            for call in calls:
                call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    graph.replay()
    samples: list[float] = []
    spent = 0.0
    while spent < milliseconds or len(samples) < FEWEST_SAMPLES:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        elapsed = start.elapsed_time(end)
        spent += elapsed
        samples.append(1000.0 * elapsed / len(calls))
    return summarise(samples)
