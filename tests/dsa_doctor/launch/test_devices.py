"""The launch looks at the GPUs that CUDA_VISIBLE_DEVICES leaves, read as `check` reads it."""

from types import SimpleNamespace

import pynvml
import pytest

from dsa_doctor.launch.devices import memory_of, visible_devices
from dsa_doctor.probes import gpus

UUIDS = ("GPU-aaaa0000-1", "GPU-aaaa1111-2")
FREE = (1 << 30, 70 << 30)


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch):
    """Two GPUs, of which the first is busy; NVML answers as its library does."""
    running = ([SimpleNamespace(pid=4194304, usedGpuMemory=79 << 30)], [])
    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: "NVIDIA A100-SXM4-80GB",
        "nvmlDeviceGetCudaComputeCapability": lambda handle: (8, 0),
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=80 << 30, free=FREE[handle]),
        "nvmlDeviceGetMigMode": lambda handle: [0, 0],
        "nvmlDeviceGetUUID": lambda handle: UUIDS[handle],
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: running[handle],
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 13000,
        "nvmlSystemGetDriverVersion": lambda: "580.1",
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, [0, 1]),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("GPU-aaaa1", [1]),
        ("GPU-aaaa", []),  # fits two GPUs
        ("0,99,1", [0]),
        ("1,-1,0", [1]),
        ("", []),
    ],
)
def test_the_setting_is_read_as_check_reads_it(monkeypatch, setting, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    devices = visible_devices()
    assert [one.index for one in devices] == expected
    assert [one.free_bytes for one in devices] == [FREE[index] for index in expected]
    assert sorted(expected) == [gpu.index for gpu in gpus.probe().value.gpus if gpu.visible]


def test_holders_are_named_and_their_memory_is_found(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices()[0].holders == ((4194304, "in another container", 79 << 30),)
    assert memory_of({4194304, 1}) == {4194304: 79 << 30}


def test_without_nvml_nothing_is_claimed(monkeypatch):
    def fail():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    assert visible_devices() is None
    assert memory_of({1}) is None
