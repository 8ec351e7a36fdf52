from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from dsa_doctor.probes import gpus
from dsa_doctor.probes import nvml as nvml_reader

UUIDS = [f"GPU-{digit * 8}-aaaa-bbbb-cccc-dddddddddddd" for digit in "01234567"]
CARDS = [("NVIDIA A100-SXM4-80GB", (8, 0), 80 << 30), ("NVIDIA H100 80GB HBM3", (9, 0), 80 << 30)]
SMI = "NVIDIA A100-SXM4-80GB, 8.0, 81920, 550.54.15, Disabled"


@pytest.fixture(autouse=True)
def _no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Answer NVML's calls as its library does on a machine with the given cards; labelled as written by hand."""

    def machine(cards: list[tuple[str, tuple[int, int], int]], *, mig: dict[int, list[str]] | None = None) -> None:
        def mig_mode(handle: int) -> list[int]:
            if mig is None:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return [int(handle in mig), int(handle in mig)]

        def mig_handle(handle: int, instance: int) -> tuple[int, int]:
            if instance >= len((mig or {}).get(handle, [])):
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
            return (handle, instance)

        def uuid(handle: Any) -> str:
            return (mig or {})[handle[0]][handle[1]] if isinstance(handle, tuple) else UUIDS[handle]

        answers: dict[str, Callable[..., Any]] = {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlDeviceGetCount": lambda: len(cards),
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda handle: cards[handle][0],
            "nvmlDeviceGetCudaComputeCapability": lambda handle: cards[handle][1],
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(
                total=cards[handle][2], free=cards[handle][2] // 4
            ),
            "nvmlDeviceGetMigMode": mig_mode,
            "nvmlDeviceGetMaxMigDeviceCount": lambda handle: 7,
            "nvmlDeviceGetMigDeviceHandleByIndex": mig_handle,
            "nvmlDeviceGetUUID": uuid,
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 12040,
            "nvmlSystemGetDriverVersion": lambda: "550.54.15",
        }
        for name, answer in answers.items():
            monkeypatch.setattr(pynvml, name, answer)

    return machine


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def raise_it() -> None:
        raise error

    monkeypatch.setattr(pynvml, "nvmlInit", raise_it)


def visible(observation: Any) -> list[int]:
    return [gpu.index for gpu in observation.value.gpus if gpu.visible]


def test_eight_mixed_gpus(nvml: Callable[..., None]) -> None:
    nvml(CARDS * 4)
    observation = gpus.probe()
    assert observation.value is not None
    inventory = observation.value
    assert (inventory.source, inventory.driver_version, inventory.cuda_driver_version) == ("nvml", "550.54.15", "12.4")
    assert [gpu.capability for gpu in inventory.gpus] == ["8.0", "9.0"] * 4
    assert inventory.gpus[0].memory_bytes == 80 << 30
    assert {gpu.mig_enabled for gpu in inventory.gpus} == {False}
    assert visible(observation) == list(range(8))


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("", []),
        ("-1", []),
        ("1,0", [0, 1]),
        (" 2 , 3", [2, 3]),
        ("0,9,1", [0]),
        ("0,-1,1", [0]),
        ("0,zero,1", [0]),
        (UUIDS[2], [2]),
        ("GPU-33333333", [3]),
        ("GPU-", []),
        (f"{UUIDS[1]},GPU-ffffffff,0", [1]),
        ("MIG-cafe", [3]),
        ("NoDevFiles", []),
        ("0,\u00b2,1", [0]),
        (f"0,{'9' * 5000},1", [0]),
    ],
)
def test_cuda_visible_devices(
    nvml: Callable[..., None], monkeypatch: pytest.MonkeyPatch, setting: str, expected: list[int]
) -> None:
    nvml(CARDS * 2, mig={3: ["MIG-cafe-0001"]})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    observation = gpus.probe()
    assert visible(observation) == expected
    assert observation.value is not None
    assert [gpu.mig_enabled for gpu in observation.value.gpus] == [False, False, False, True]
    text = observation.model_dump_json()
    assert not any(part in text for part in ("00000000", "11111111", "22222222", "33333333", "cafe", "ffffffff"))


def test_one_lost_gpu_does_not_hide_the_others(nvml: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    nvml(CARDS)

    def handle(index: int) -> int:
        if index == 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return index

    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", handle)
    observation = gpus.probe()
    assert visible(observation) == [1]
    assert observation.evidence == ("GPU 0: GPU is lost",)


def test_driver_without_a_gpu_is_absent(nvml: Callable[..., None]) -> None:
    nvml([])
    assert (gpus.probe().status, gpus.probe().cause) == ("absent", "the driver reports no GPU")


def test_no_driver_at_all_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    monkeypatch.setattr(gpus, "_DRIVER_TRACES", ("/nonexistent",))
    monkeypatch.setenv("PATH", "/nonexistent")
    assert (gpus.probe().status, gpus.probe().cause) == ("absent", "no NVIDIA driver on this machine")


@pytest.mark.parametrize(
    ("code", "trace"),
    [(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "/nonexistent"), (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "/dev/null")],
)
def test_a_driver_that_is_broken_is_unknown(monkeypatch: pytest.MonkeyPatch, code: int, trace: str) -> None:
    fail_with(monkeypatch, pynvml.NVMLError(code))
    monkeypatch.setattr(gpus, "_DRIVER_TRACES", (trace,))
    monkeypatch.setenv("PATH", "/nonexistent")
    observation = gpus.probe()
    assert observation.status == "unknown"
    assert str(pynvml.NVMLError(code)) in (observation.cause or "")


def test_nvidia_smi_answers_where_nvml_fails(
    monkeypatch: pytest.MonkeyPatch, fake_tool: Callable[[str, str], object]
) -> None:
    fail_with(monkeypatch, pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    fake_tool("nvidia-smi", f"echo '0, {SMI}, {UUIDS[0]}'; echo '1, {SMI.replace('Disabled', 'Enabled')}, {UUIDS[1]}'")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", UUIDS[1])
    observation = gpus.probe()
    assert observation.value is not None
    assert (observation.value.source, observation.value.driver_version) == ("nvidia-smi", "550.54.15")
    assert [(gpu.capability, gpu.memory_bytes, gpu.mig_enabled) for gpu in observation.value.gpus] == [
        ("8.0", 80 << 30, False),
        ("8.0", 80 << 30, True),
    ]
    assert visible(observation) == [1]
    assert "11111111" not in observation.model_dump_json()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("echo No devices were found", "absent"),
        ("echo Failed to initialize NVML: Driver/library version mismatch; exit 18", "unknown"),
        ("echo 0, garbage", "unknown"),
        ("true", "unknown"),
        (f"echo lost {UUIDS[0]}; exit 9", "unknown"),
        ("sleep 30", "unknown"),
    ],
)
def test_nvidia_smi_that_fails_too(
    monkeypatch: pytest.MonkeyPatch, fake_tool: Callable[[str, str], object], body: str, status: str
) -> None:
    monkeypatch.setattr(nvml_reader, "TIMEOUT_SECONDS", 1.0)
    fail_with(monkeypatch, OSError("libnvidia-ml.so.1: file too short"))
    fake_tool("nvidia-smi", body)
    observation = gpus.probe()
    assert observation.status == status
    assert "00000000" not in observation.model_dump_json()
    assert "file too short" in observation.evidence[0]


def test_nvml_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    release = threading.Event()
    monkeypatch.setattr(pynvml, "nvmlInit", release.wait)
    monkeypatch.setattr(nvml_reader, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setenv("PATH", "/nonexistent")
    observation = gpus.probe()
    release.set()
    assert observation.status == "unknown"
    assert "no answer within" in (observation.cause or "")
