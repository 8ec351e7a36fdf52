"""The GPUs of this machine: through NVML, which needs no CUDA context, or through nvidia-smi where NVML fails."""

import csv
import os
import re
import shutil
from pathlib import Path

from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Gpu, GpuInventory
from dsa_doctor.probes import nvml
from dsa_doctor.processes.child import run
from dsa_doctor.redaction import last_lines, redact

_DRIVER_TRACES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
_QUERY = ("index", "name", "compute_cap", "memory.total", "driver_version", "mig.mode.current", "uuid")
_UUID = re.compile(r"\b(GPU|MIG)-[0-9A-Za-z/-]+")


def probe() -> Observation[GpuInventory]:
    """Return the GPUs, hidden ones marked; absent where there is no driver or no GPU, unknown where a driver is broken.

    An index in CUDA_VISIBLE_DEVICES is taken as NVML's, in PCI order, as vLLM takes it.
    """
    try:
        return _observed(nvml.read())
    except nvml.NvmlError as error:
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
    answer = run(
        [smi, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"], timeout=nvml.TIMEOUT_SECONDS
    )
    if answer.status != "ended":
        reason = f"it {answer.problem}" if answer.status == "timeout" else f"cannot be started: {answer.problem}"
        return Observation[GpuInventory].unknown(
            f"NVML fails ({nvml_cause}), and nvidia-smi too: {reason}", evidence=evidence
        )
    stdout, stderr = answer.stdout.decode("utf-8", "replace"), answer.stderr.decode("utf-8", "replace")
    output = without_identifiers(f"{stdout}\n{stderr}")
    evidence += last_lines(output, count=4)
    if answer.code == 0 and re.search(r"No devices were found", output):
        return Observation[GpuInventory].absent("the driver reports no GPU", evidence=evidence)
    inventory = _parse_smi(stdout) if answer.code == 0 else None
    if inventory is None:
        cause = (
            f"NVML fails ({nvml_cause}), and nvidia-smi gives no readable answer ({answer.problem or 'exit status 0'})"
        )
        return Observation[GpuInventory].unknown(cause, evidence=evidence)
    return Observation[GpuInventory].ok(inventory, evidence=evidence[:1])


def without_identifiers(text: str) -> str:
    """Return text in which no GPU and no part of one can be told from another machine's."""
    return _UUID.sub(r"\1-<uuid>", text)


def _observed(reading: nvml.Reading) -> Observation[GpuInventory]:
    if not reading.cards:
        return Observation[GpuInventory].absent("the driver reports no GPU")
    found = [
        (
            Gpu(
                index=card.index,
                name=card.name,
                capability=card.capability,
                memory_bytes=card.total_bytes,
                mig_enabled=card.mig_enabled,
            ),
            card.identifiers,
        )
        for card in reading.cards
    ]
    inventory = _inventory("nvml", found, driver=reading.driver, cuda=reading.cuda)
    return Observation[GpuInventory].ok(inventory, evidence=reading.failures)


def _parse_smi(text: str) -> GpuInventory | None:
    """Return the inventory in nvidia-smi's CSV answer, or None where a line is not as asked."""
    found: list[tuple[Gpu, tuple[str, ...]]] = []
    driver: str | None = None
    for row in csv.reader(line for line in text.splitlines() if line.strip()):
        cells = [cell.strip() for cell in row]
        if len(cells) != len(_QUERY) or not cells[0].isdecimal() or not re.fullmatch(r"\d+\.\d", cells[2]):
            return None
        index, name, capability, memory, driver, mig, uuid = cells
        gpu = Gpu(
            index=int(index),
            name=name,
            capability=capability,
            memory_bytes=int(memory) << 20 if memory.isdecimal() else None,
            mig_enabled={"Enabled": True}.get(mig, False),
        )
        found.append((gpu, (uuid,)))
    return _inventory("nvidia-smi", found, driver=driver, cuda=None) if found else None


def _inventory(
    source: str, found: list[tuple[Gpu, tuple[str, ...]]], *, driver: str | None, cuda: str | None
) -> GpuInventory:
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = nvml.visible_order(setting, [(gpu.index, identifiers) for gpu, identifiers in found])
    return GpuInventory(
        source="nvml" if source == "nvml" else "nvidia-smi",
        driver_version=driver,
        cuda_driver_version=cuda,
        cuda_visible_devices=None if setting is None else redact(without_identifiers(setting)),
        gpus=tuple(gpu.model_copy(update={"visible": gpu.index in visible}) for gpu, _ in found),
    )
