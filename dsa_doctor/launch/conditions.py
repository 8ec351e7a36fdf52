"""What must hold on this machine before a server is started: port, GPUs, shared memory, limits, disk, host memory."""

import errno
import os
import re
import resource
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import Literal

from dsa_doctor.facts.observation import Fact
from dsa_doctor.launch.devices import Device
from dsa_doctor.planner.estimates import GIB

Status = Literal["pass", "warn", "fail", "unknown"]

_SHM_LEAST = 256 * 2**20
"""vLLM's worker processes exchange messages and NCCL buffers there; a container's default of 64 MiB is too small."""
_SHM_ADVISED = 8 * GIB
_FILES_ADVISED = 65536
_LISTENING = "0A"


class Condition(Fact):
    """One thing looked at before the start."""

    name: str
    status: Status
    summary: str
    remedy: str = ""


def check_port(host: str | None, port: int) -> Condition:
    """Try to bind the address that the server will bind."""
    family = socket.AF_INET6 if host and ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host or "", port))
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holder = _listener(port)
            by = f" by {holder}" if holder else ""
            return Condition(
                name="port",
                status="fail",
                summary=f"port {port} is taken{by}",
                remedy="Stop it, or choose another --port.",
            )
        return Condition(
            name="port",
            status="fail",
            summary=f"{host or 'any address'}:{port} cannot be bound: {error.strerror or error}",
            remedy="Choose another --host or --port.",
        )
    return Condition(name="port", status="pass", summary=f"port {port} is free")


def check_gpus(devices: list[Device] | None, wanted: int, utilization: float) -> Condition:
    """Compare what vLLM will claim on each of the first `wanted` visible GPUs with what is free there."""
    if devices is None:
        return Condition(name="GPU memory", status="unknown", summary="the free memory of the GPUs could not be read")
    if len(devices) < wanted:
        return Condition(
            name="GPU memory",
            status="fail",
            summary=f"{len(devices)} GPUs are visible, {wanted} are needed",
            remedy="Use --tensor-parallel-size, --nodes with --emit, or make more GPUs visible (CUDA_VISIBLE_DEVICES).",
        )
    short = [one for one in devices[:wanted] if one.free_bytes < one.total_bytes * utilization]
    if not short:
        least = min((one.free_bytes for one in devices[:wanted]), default=0)
        return Condition(name="GPU memory", status="pass", summary=f"at least {least / GIB:.1f} GiB free on each GPU")
    parts = []
    for one in short:
        held = ", ".join(f"pid {pid} ({name}) {size / GIB:.1f} GiB" for pid, name, size in one.holders) or "unknown"
        need = one.total_bytes * utilization / GIB
        parts.append(f"GPU {one.index}: {one.free_bytes / GIB:.1f} GiB free of {need:.1f} GiB needed; held by {held}")
    return Condition(
        name="GPU memory",
        status="fail",
        summary="; ".join(parts),
        remedy="End those processes if they are yours, or lower --gpu-memory-utilization. dsa-doctor never kills them.",
    )


def check_shared_memory(gpus: int, folder: Path = Path("/dev/shm")) -> Condition:  # noqa: S108 - the one place it is
    """Look at the size of /dev/shm, which containers make small."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return Condition(name="shared memory", status="unknown", summary=f"{folder} cannot be read")
    size = f"{folder} has {usage.free / GIB:.2f} GiB free of {usage.total / GIB:.2f} GiB"
    remedy = "In a container: --shm-size=16g or --ipc=host; in Kubernetes a memory-backed emptyDir at /dev/shm."
    if usage.free < _SHM_LEAST and gpus > 1:
        return Condition(name="shared memory", status="fail", summary=size, remedy=remedy)
    if usage.free < (_SHM_ADVISED if gpus > 1 else _SHM_LEAST):
        return Condition(name="shared memory", status="warn", summary=size, remedy=remedy)
    return Condition(name="shared memory", status="pass", summary=size)


def check_limits(*, offloads: bool) -> Condition:
    """Look at the limits on open files and, where weights are offloaded, on locked memory."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    low = []
    if files != resource.RLIM_INFINITY and files < _FILES_ADVISED:
        low.append(f"open files {files} (ulimit -n {_FILES_ADVISED})")
    if offloads and locked != resource.RLIM_INFINITY:
        low.append(f"locked memory {locked // 1024} KiB (ulimit -l unlimited)")
    if low:
        return Condition(
            name="limits", status="warn", summary=f"low: {'; '.join(low)}", remedy="Raise them before the start."
        )
    return Condition(name="limits", status="pass", summary="open files and locked memory are high enough")


def check_disk(hub_id: str | None, local: Path | None, needed: int) -> Condition:
    """Compare what is still to be downloaded with what is free; a local folder must hold weights."""
    if local is not None:
        return _check_local(local)
    if hub_id is None:
        return Condition(name="disk", status="unknown", summary="it is not known where the weights come from")
    cache = hub_cache()
    have = _cached_bytes(cache, hub_id)
    missing = max(0, needed - have)
    try:
        free = shutil.disk_usage(_existing(cache)).free
    except OSError as error:
        return Condition(name="disk", status="unknown", summary=f"free space of the Hub cache: {error.strerror}")
    summary = (
        f"the checkpoint takes {needed / 1e9:.0f} GB, {have / 1e9:.0f} GB are there already; the Hub cache has "
        f"{free / 1e9:.0f} GB free"
    )
    if missing > free:
        remedy = "Free some space, or set HF_HUB_CACHE to a larger disk."
        return Condition(name="disk", status="fail", summary=summary, remedy=remedy)
    return Condition(name="disk", status="pass", summary=summary)


def check_host_memory(needed: int, meminfo: Path = Path("/proc/meminfo")) -> Condition:
    """Compare the pinned host memory that CPU offload takes with what is available."""
    available = host_memory(meminfo, "MemAvailable")
    if available is None:
        return Condition(name="host memory", status="unknown", summary="the host's memory could not be read")
    summary = f"{available / GIB:.0f} GiB available"
    if needed > available:
        summary = f"CPU offload pins {needed / GIB:.0f} GiB of host memory; {summary}"
        remedy = "Lower --cpu-offload-gb, or use more nodes."
        return Condition(name="host memory", status="fail", summary=summary, remedy=remedy)
    return Condition(name="host memory", status="pass", summary=summary)


def host_memory(meminfo: Path = Path("/proc/meminfo"), field: str = "MemTotal") -> int | None:
    """Return a field of /proc/meminfo in bytes, or None."""
    try:
        match = re.search(rf"^{field}:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match.group(1)) * 1024 if match else None


def check_orphans(proc: Path = Path("/proc")) -> Condition:
    """Look for engine processes of vLLM whose server is gone; they are named, never killed."""
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if title.startswith(("VLLM::", "VllmWorker")) and parent == 1:
            found.append(f"pid {entry.name} ({title[:40]})")
    if found:
        return Condition(
            name="orphans",
            status="warn",
            summary=f"vLLM processes whose server is gone: {', '.join(sorted(found))}",
            remedy="They may hold GPU memory. End them if they are yours: kill PID. dsa-doctor never does.",
        )
    return Condition(name="orphans", status="pass", summary="no engine process without its server")


def hub_cache() -> Path:
    """Return where huggingface_hub keeps downloaded models."""
    for variable, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if value := os.environ.get(variable):
            return Path(value).expanduser() / below
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface" / "hub"


def _check_local(folder: Path) -> Condition:
    weights = [one for pattern in ("*.safetensors", "*.bin", "*.pt") for one in folder.glob(pattern)]
    if not weights:
        return Condition(
            name="disk",
            status="fail",
            summary=f"{folder} holds no weights (*.safetensors, *.bin or *.pt)",
            remedy="Give the folder of a whole checkpoint, or a Hub id. For random weights: -- --load-format dummy",
        )
    return Condition(name="disk", status="pass", summary=f"{len(weights)} weight files are there")


def _cached_bytes(cache: Path, hub_id: str) -> int:
    blobs = cache / f"models--{hub_id.replace('/', '--')}" / "blobs"
    try:
        return sum(one.stat().st_size for one in blobs.iterdir() if one.is_file())
    except OSError:
        return 0


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _listener(port: int) -> str | None:
    """Return "pid N (name)" of the process that listens on a port, as far as /proc may be read."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            cells = row.split()
            if cells[3] == _LISTENING and int(cells[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{cells[9]}]")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        if inodes & _open_files(entry):
            with suppress(OSError):
                return f"pid {entry.name} ({(entry / 'comm').read_text().strip()})"
    return None


def _open_files(process: Path) -> set[str]:
    """Return what a process's file descriptors point to, as far as it may be read."""
    found = set()
    with suppress(OSError):
        for link in (process / "fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                found.add(os.fspath(link.readlink()))
    return found
