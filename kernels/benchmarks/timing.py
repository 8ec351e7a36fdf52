"""Time work on a GPU: CUDA graph replays over rotating inputs, median and spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: median, and the 10th and 90th percentile of the samples."""

    median_us: float
    low_us: float
    high_us: float

    def __str__(self) -> str:
        return f"{self.median_us:9.1f} [{self.low_us:.1f}, {self.high_us:.1f}]"


def time_calls(calls: Sequence[Callable[[], object]], milliseconds: float = 120.0) -> Timing:
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
    while spent < milliseconds or len(samples) < 8:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        elapsed = start.elapsed_time(end)
        spent += elapsed
        samples.append(1000.0 * elapsed / len(calls))
    deciles = statistics.quantiles(samples, n=10)
    return Timing(statistics.median(samples), deciles[0], deciles[-1])
