"""The GPUs of this machine: through NVML, which needs no CUDA context, or through nvidia-smi where NVML fails."""

import csv
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Gpu, GpuInventory
from dsa_doctor.probes.redact import last_lines, redact

_TIMEOUT = 20.0
_DRIVER_TRACES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
_QUERY = ("index", "name", "compute_cap", "memory.total", "driver_version", "mig.mode.current", "uuid")
_UUID = re.compile(r"\b(GPU|MIG)-[0-9A-Za-z/-]+")


class _NvmlFailedError(Exception):
    """NVML could not be asked. `missing` says that its library is not there at all."""

    def __init__(self, cause: str, *, missing: bool = False) -> None:
        super().__init__(cause)
        self.missing = missing


def probe() -> Observation[GpuInventory]:
    """Return the GPUs, hidden ones marked; absent where there is no driver or no GPU, unknown where a driver is broken.

    An index in CUDA_VISIBLE_DEVICES is taken as NVML's, in PCI order, as vLLM takes it.
    """
    try:
        return _with_timeout(_ask_nvml)
    except _NvmlFailedError as error:
        nvml_cause, nvml_missing = redact(str(error)), error.missing
    smi = shutil.which("nvidia-smi")
    evidence: tuple[str, ...] = (f"NVML: {nvml_cause}",)
    if smi is None:
        if nvml_missing and not any(Path(trace).exists() for trace in _DRIVER_TRACES):
            return Observation[GpuInventory].absent("no NVIDIA driver on this machine", evidence=evidence)
        return Observation[GpuInventory].unknown(
            f"an NVIDIA driver seems to be there, but NVML fails ({nvml_cause}) and nvidia-smi is not in PATH",
            evidence=evidence,
        )
    try:
        answer = subprocess.run(
            [smi, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = (
            f"no answer within {_TIMEOUT:.0f} s" if isinstance(error, subprocess.TimeoutExpired) else "cannot start"
        )
        return Observation[GpuInventory].unknown(
            f"NVML fails ({nvml_cause}), and nvidia-smi too: {reason}", evidence=evidence
        )
    output = _UUID.sub(r"\1-<uuid>", f"{answer.stdout}\n{answer.stderr}")
    evidence += last_lines(output, count=4)
    if answer.returncode == 0 and re.search(r"No devices were found", output):
        return Observation[GpuInventory].absent("the driver reports no GPU", evidence=evidence)
    inventory = _parse_smi(answer.stdout) if answer.returncode == 0 else None
    if inventory is None:
        cause = f"NVML fails ({nvml_cause}), and nvidia-smi gives no readable answer (exit status {answer.returncode})"
        return Observation[GpuInventory].unknown(cause, evidence=evidence)
    return Observation[GpuInventory].ok(inventory, evidence=evidence[:1])


def _with_timeout(ask: Callable[[], Observation[GpuInventory]]) -> Observation[GpuInventory]:
    """Call `ask` in a thread that may be left behind: NVML hangs on a GPU that has fallen off the bus."""
    outcome: list[Observation[GpuInventory] | BaseException] = []

    def run() -> None:
        try:
            outcome.append(ask())
        except BaseException as error:  # handed to the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    if not outcome:
        raise _NvmlFailedError(f"no answer within {_TIMEOUT:.0f} s")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _ask_nvml() -> Observation[GpuInventory]:
    try:
        import pynvml
    except Exception as error:  # not installed, or a stray module of that name
        raise _NvmlFailedError(f"pynvml cannot be imported: {error}") from error
    try:
        pynvml.nvmlInit()
    except Exception as error:  # NVMLError, or OSError from a broken library
        missing = isinstance(error, pynvml.NVMLError_LibraryNotFound)
        raise _NvmlFailedError(str(error), missing=missing) from error
    try:
        count = pynvml.nvmlDeviceGetCount()
        if count == 0:
            return Observation[GpuInventory].absent("the driver reports no GPU")
        found: list[tuple[Gpu, tuple[str, ...]]] = []
        failures: list[str] = []
        for index in range(count):
            try:
                found.append(_read_device(pynvml, index))
            except pynvml.NVMLError as error:
                failures.append(f"GPU {index}: {error}")
        if not found:
            raise _NvmlFailedError("; ".join(failures))
        cuda = _optional(pynvml, pynvml.nvmlSystemGetCudaDriverVersion_v2)
        driver = _optional(pynvml, pynvml.nvmlSystemGetDriverVersion)
    except pynvml.NVMLError as error:
        raise _NvmlFailedError(str(error)) from error
    finally:
        _optional(pynvml, pynvml.nvmlShutdown)
    inventory = _inventory(
        "nvml",
        found,
        driver=_text(driver),
        cuda=f"{cuda // 1000}.{cuda % 1000 // 10}" if isinstance(cuda, int) else None,
    )
    return Observation[GpuInventory].ok(inventory, evidence=tuple(failures))


def _read_device(pynvml: Any, index: int) -> tuple[Gpu, tuple[str, ...]]:
    """Return one GPU and the identifiers by which CUDA_VISIBLE_DEVICES may name it or its MIG instances."""
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
    gpu = Gpu(
        index=index,
        name=_text(pynvml.nvmlDeviceGetName(handle)) or "unknown",
        capability=f"{major}.{minor}",
        memory_bytes=memory.total if memory is not None else None,
        mig_enabled=bool(mig[0]) if mig else False,
    )
    return gpu, tuple(identifier for identifier in identifiers if identifier)


def _optional(pynvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what an NVML function says, or None where this GPU or driver does not support it."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def _text(value: "str | bytes | None") -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _parse_smi(text: str) -> GpuInventory | None:
    """Return the inventory in nvidia-smi's CSV answer, or None where a line is not as asked."""
    found: list[tuple[Gpu, tuple[str, ...]]] = []
    driver: str | None = None
    for row in csv.reader(line for line in text.splitlines() if line.strip()):
        cells = [cell.strip() for cell in row]
        if len(cells) != len(_QUERY) or not cells[0].isdigit() or not re.fullmatch(r"\d+\.\d", cells[2]):
            return None
        index, name, capability, memory, driver, mig, uuid = cells
        gpu = Gpu(
            index=int(index),
            name=name,
            capability=capability,
            memory_bytes=int(memory) << 20 if memory.isdigit() else None,
            mig_enabled={"Enabled": True}.get(mig, False),
        )
        found.append((gpu, (uuid,)))
    return _inventory("nvidia-smi", found, driver=driver, cuda=None) if found else None


def _inventory(
    source: str, found: list[tuple[Gpu, tuple[str, ...]]], *, driver: str | None, cuda: str | None
) -> GpuInventory:
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = _visible_indices(setting, [(gpu.index, identifiers) for gpu, identifiers in found])
    return GpuInventory(
        source="nvml" if source == "nvml" else "nvidia-smi",
        driver_version=driver,
        cuda_driver_version=cuda,
        cuda_visible_devices=None if setting is None else redact(_UUID.sub(r"\1-<uuid>", setting)),
        gpus=tuple(gpu.model_copy(update={"visible": gpu.index in visible}) for gpu, _ in found),
    )


def _visible_indices(setting: str | None, gpus: list[tuple[int, tuple[str, ...]]]) -> set[int]:
    """Return the indices that CUDA_VISIBLE_DEVICES leaves visible, as CUDA reads it.

    Entries are indices or beginnings of UUIDs that fit one GPU; the first that names no GPU ends the list.
    """
    if setting is None:
        return {index for index, _ in gpus}
    visible: set[int] = set()
    for entry in (part.strip() for part in setting.split(",")):
        if entry.isdigit():
            matches = {index for index, _ in gpus if index == int(entry)}
        elif entry.startswith(("GPU-", "MIG-")):
            matches = {index for index, names in gpus if any(name.startswith(entry) for name in names)}
        else:
            matches = set()
        if len(matches) != 1:
            break
        visible |= matches
    return visible
