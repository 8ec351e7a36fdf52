"""Free memory of the GPUs and the processes that hold the rest, through NVML: no CUDA context is made."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Device:
    """One visible GPU.

    Attributes:
        index: NVML's index.
        name: as the driver prints it.
        total_bytes: all memory.
        free_bytes: free memory.
        holders: (pid, process name, bytes) of each compute process on it.
    """

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    holders: tuple[tuple[int, str, int], ...]


def visible_devices() -> list[Device] | None:
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves, or None where NVML cannot be asked."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, no library, or a stray module of that name: all mean that nothing can be read
        return None
    try:
        devices = [_read(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return None
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None or not all(one.strip().isdigit() for one in setting.split(",") if one.strip()):
        return devices
    chosen = [int(one) for one in setting.split(",") if one.strip()]
    return [devices[index] for index in chosen if index < len(devices)]


def memory_of(pids: set[int]) -> dict[int, int] | None:
    """Return the GPU memory that the given processes hold, by pid; None where NVML cannot be asked."""
    devices = visible_devices()
    if devices is None:
        return None
    held: dict[int, int] = {}
    for device in devices:
        for pid, _, size in device.holders:
            if pid in pids:
                held[pid] = held.get(pid, 0) + size
    return held


def _read(nvml: Any, index: int) -> Device:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except nvml.NVMLError:
        running = []
    name = nvml.nvmlDeviceGetName(handle)
    return Device(
        index=index,
        name=name.decode() if isinstance(name, bytes) else str(name),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        holders=tuple((one.pid, _process_name(one.pid), int(one.usedGpuMemory or 0)) for one in running),
    )


def _process_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "in another container"
