"""What must hold on this machine before a server is started: port, GPUs, shared memory, limits, disk, host memory."""

import errno
import os
import resource
import shutil
import socket
from pathlib import Path
from typing import Literal

import psutil

from dsa_doctor.facts.observation import Fact
from dsa_doctor.launch.devices import Device
from dsa_doctor.launch.endpoint import Endpoint, listeners_on
from dsa_doctor.planner.estimates import GIB
from dsa_doctor.planner.parallel import HUGE_PAGES

Status = Literal["pass", "warn", "fail", "unknown"]

_SHM_LEAST = 256 * 2**20
"""vLLM's worker processes exchange messages and NCCL buffers there; a container's default of 64 MiB is too small."""
_SHM_ADVISED = 8 * GIB
_FILES_ADVISED = 65536
_ENGINE_TITLES = ("VLLM::", "VllmWorker")
_ADOPTERS = frozenset({"systemd", "init", "tini", "dumb-init", "docker-init", "catatonit", "containerd-shim", "conmon"})
"""Processes that take in orphans: the first process of a machine or container, a user's systemd, a container's shim."""


class Condition(Fact):
    """One thing looked at before the start."""

    name: str
    status: Status
    summary: str
    remedy: str = ""


def check_port(host: str | None, port: int) -> Condition:
    """Try to bind the address that the server will bind."""
    host = host.strip("[]") if host else None
    family = socket.AF_INET6 if host and ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host or "", port))
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holders = ", ".join(map(str, listeners_on(port) or ()))
            by = f" by {holders}" if holders else ""
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


def check_socket(endpoint: Endpoint) -> Condition:
    """Look whether the Unix domain socket that the server will bind is there already."""
    path = Path(str(endpoint.socket_path))
    if not os.path.lexists(path):
        return Condition(name="socket", status="pass", summary=f"{path} is free")
    holders = ", ".join(map(str, endpoint.listeners() or ()))
    return Condition(
        name="socket",
        status="fail",
        summary=f"{path} is there already" + (f", and {holders} listens on it" if holders else ""),
        remedy="Stop that server, or choose another --uds." if holders else "Remove it if nothing uses it.",
    )


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


def check_host_memory(needed: int, tables: int = 0) -> Condition:
    """Compare the pinned host memory of CPU offload and of n-gram tables with what is available.

    Args:
        needed: bytes in all.
        tables: bytes of them that are n-gram tables.
    """
    try:
        available = int(psutil.virtual_memory().available)
    except (psutil.Error, OSError, ValueError):
        return Condition(name="host memory", status="unknown", summary="the host's memory could not be read")
    summary = f"{available / GIB:.0f} GiB available"
    if needed > available:
        who = "CPU offload" if not tables else "n-gram tables and CPU offload" if needed > tables else "n-gram tables"
        verb = "pin" if tables else "pins"
        summary = f"{who} {verb} {needed / GIB:.0f} GiB of host memory; {summary}"
        remedy = "Lower --cpu-offload-gb, or use more nodes."
        if needed <= tables:
            remedy = f"Take a host with more memory, give -- {HUGE_PAGES}, which wastes none where this vLLM has it, "
            remedy += "or put the tables on the GPUs: -- --engram-config '{\"cpu_offload\": false}'."
        return Condition(name="host memory", status="fail", summary=summary, remedy=remedy)
    return Condition(name="host memory", status="pass", summary=summary)


def host_memory() -> int | None:
    """Return the host's memory in bytes, or None."""
    try:
        return int(psutil.virtual_memory().total)
    except (psutil.Error, OSError, ValueError):
        return None


def check_orphans() -> Condition:
    """Look for engine processes of vLLM whose server is gone; they are named, never killed."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        title = " ".join(process.info["cmdline"] or ()).strip()
        if title.startswith(_ENGINE_TITLES) and _is_adopted(process):
            found.append(f"pid {process.pid} ({title[:40]})")
    if found:
        return Condition(
            name="orphans",
            status="warn",
            summary=f"vLLM processes whose server is gone: {', '.join(sorted(found))}",
            remedy="They may hold GPU memory. End them if they are yours: kill PID. dsa-doctor never does.",
        )
    return Condition(name="orphans", status="pass", summary="no engine process without its server")


def _is_adopted(process: psutil.Process) -> bool:
    """Whether a process lost its parent: those of its own kind aside, it lies below one that takes in orphans."""
    try:
        parent = process.parent()
        while parent is not None and " ".join(parent.cmdline()).startswith(_ENGINE_TITLES):
            parent = parent.parent()
        return parent is None or parent.pid == 1 or parent.name() in _ADOPTERS
    except psutil.Error:  # gone meanwhile, or not to be looked at
        return False


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
