"""NVML, the driver's own library: the one reader of GPUs for `check` and for launches. No CUDA context is made."""

import os
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

TIMEOUT_SECONDS = 20.0

T = TypeVar("T")


class NvmlError(Exception):
    """NVML could not be asked. `missing` says that its library is not there at all."""

    def __init__(self, cause: str, *, missing: bool = False) -> None:
        super().__init__(cause)
        self.missing = missing


@dataclass(frozen=True)
class Card:
    """One GPU.

    Attributes:
        index: NVML's, in PCI order.
        name: as the driver prints it.
        capability: compute capability, e.g. "8.0".
        total_bytes: all memory; None where the driver does not say.
        free_bytes: free memory; None likewise.
        mig_enabled: whether it is divided.
        identifiers: UUIDs by which CUDA_VISIBLE_DEVICES may name it or its MIG instances.
        holders: (pid, process name, bytes) of each compute process on it.
    """

    index: int
    name: str
    capability: str
    total_bytes: int | None
    free_bytes: int | None
    mig_enabled: bool
    identifiers: tuple[str, ...]
    holders: tuple[tuple[int, str, int], ...]


@dataclass(frozen=True)
class Reading:
    """All GPUs, and what could not be read.

    Attributes:
        cards: the GPUs that answer; empty where the driver reports none.
        failures: one line for each GPU that does not.
        driver: version of the driver.
        cuda: CUDA version of the driver, e.g. "12.4".
    """

    cards: tuple[Card, ...]
    failures: tuple[str, ...]
    driver: str | None
    cuda: str | None


def read(*, holders: bool = False) -> Reading:
    """Return every GPU of the machine, hidden ones included.

    Args:
        holders: also list the compute processes on each.

    Raises:
        NvmlError: the library is missing, fails, no GPU answers, or nothing came within `TIMEOUT_SECONDS`.
    """
    return _with_timeout(lambda: _read(holders))


def visible_order(setting: str | None, gpus: Iterable[tuple[int, tuple[str, ...]]]) -> list[int]:
    """Return the indices that CUDA_VISIBLE_DEVICES leaves visible, in its order, as CUDA reads it.

    Entries are indices or beginnings of UUIDs that fit one GPU; the first that names no GPU ends the list. An index is
    taken as NVML's, in PCI order, as vLLM takes it.

    Args:
        setting: the variable's value; None where it is unset.
        gpus: index and identifiers of each GPU.
    """
    known = list(gpus)
    if setting is None:
        return [index for index, _ in known]
    visible: list[int] = []
    for entry in (part.strip() for part in setting.split(",")):
        if re.fullmatch(r"\d{1,9}", entry):
            matches = [index for index, _ in known if index == int(entry)]
        elif entry.startswith(("GPU-", "MIG-")):
            matches = [index for index, names in known if any(name.startswith(entry) for name in names)]
        else:
            matches = []
        if len(matches) != 1:
            break
        if matches[0] not in visible:  # two MIG instances of one GPU
            visible += matches
    return visible


def visible_cards(*, holders: bool = False) -> list[Card]:
    """Return the GPUs that this process's CUDA_VISIBLE_DEVICES leaves, in its order.

    Raises:
        NvmlError: as `read`.
    """
    cards = {card.index: card for card in read(holders=holders).cards}
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [cards[index] for index in visible_order(setting, [(one.index, one.identifiers) for one in cards.values()])]


def _with_timeout(ask: Callable[[], T]) -> T:
    """Call `ask` in a thread that may be left behind: NVML hangs on a GPU that has fallen off the bus."""
    outcome: list[tuple[T | None, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((ask(), None))
        except BaseException as error:  # handed to the caller's thread
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    if not outcome:
        raise NvmlError(f"no answer within {TIMEOUT_SECONDS:.0f} s")
    value, error = outcome[0]
    if error is not None:
        raise error
    assert value is not None
    return value


def _read(holders: bool) -> Reading:
    try:
        import pynvml
    except Exception as error:  # not installed, or a stray module of that name
        raise NvmlError(f"pynvml cannot be imported: {error}") from error
    try:
        pynvml.nvmlInit()
    except Exception as error:  # NVMLError, or OSError from a broken library
        missing = isinstance(error, pynvml.NVMLError_LibraryNotFound)
        raise NvmlError(str(error), missing=missing) from error
    cards: list[Card] = []
    failures: list[str] = []
    try:
        count = pynvml.nvmlDeviceGetCount()
        for index in range(count):
            try:
                cards.append(_card(pynvml, index, holders))
            except pynvml.NVMLError as error:
                failures.append(f"GPU {index}: {error}")
        if count and not cards:
            raise NvmlError("; ".join(failures))
        cuda = _optional(pynvml, pynvml.nvmlSystemGetCudaDriverVersion_v2) if cards else None
        driver = _optional(pynvml, pynvml.nvmlSystemGetDriverVersion) if cards else None
    except pynvml.NVMLError as error:
        raise NvmlError(str(error)) from error
    finally:
        _optional(pynvml, pynvml.nvmlShutdown)
    return Reading(
        tuple(cards),
        tuple(failures),
        driver=_text(driver),
        cuda=f"{cuda // 1000}.{cuda % 1000 // 10}" if isinstance(cuda, int) else None,
    )


def _card(pynvml: Any, index: int, holders: bool) -> Card:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = _optional(pynvml, pynvml.nvmlDeviceGetMemoryInfo, handle)
    mig = _optional(pynvml, pynvml.nvmlDeviceGetMigMode, handle)
    identifiers = [_text(_optional(pynvml, pynvml.nvmlDeviceGetUUID, handle))]
    if mig and mig[0]:
        for instance in range(_optional(pynvml, pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            part = _optional(pynvml, pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, instance)
            if part is not None:
                identifiers.append(_text(_optional(pynvml, pynvml.nvmlDeviceGetUUID, part)))
    running = _optional(pynvml, pynvml.nvmlDeviceGetComputeRunningProcesses, handle) if holders else None
    return Card(
        index=index,
        name=_text(pynvml.nvmlDeviceGetName(handle)) or "unknown",
        capability=f"{major}.{minor}",
        total_bytes=int(memory.total) if memory is not None else None,
        free_bytes=int(memory.free) if memory is not None else None,
        mig_enabled=bool(mig and mig[0]),
        identifiers=tuple(one for one in identifiers if one),
        holders=tuple((one.pid, _process_name(one.pid), int(one.usedGpuMemory or 0)) for one in running or ()),
    )


def _optional(pynvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what an NVML function says, or None where this GPU or driver does not support it."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def _text(value: "str | bytes | None") -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _process_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "in another container"
