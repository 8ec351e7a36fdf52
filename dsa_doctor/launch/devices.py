"""Free memory of the GPUs that a launch would take, and the processes that hold the rest."""

from dataclasses import dataclass

from dsa_doctor.probes import nvml


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
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves, in its order, or None where NVML cannot say what is free."""
    try:
        cards = nvml.visible_cards(holders=True)
    except nvml.NvmlError:
        return None
    devices = []
    for card in cards:
        if card.total_bytes is None or card.free_bytes is None:  # unified memory: NVML has no figures of its own
            return None
        devices.append(Device(card.index, card.name, card.total_bytes, card.free_bytes, card.holders))
    return devices


def memory_of(pids: set[int]) -> dict[int, int] | None:
    """Return the GPU memory that the given processes hold, by pid; None where NVML cannot be asked."""
    try:
        cards = nvml.read(holders=True).cards
    except nvml.NvmlError:
        return None
    held: dict[int, int] = {}
    for card in cards:
        for pid, _, size in card.holders:
            if pid in pids:
                held[pid] = held.get(pid, 0) + size
    return held
