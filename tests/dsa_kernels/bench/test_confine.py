import ctypes
from types import SimpleNamespace

import pytest
import torch
import triton

from dsa_kernels.bench import confine
from dsa_kernels.bench.confine import carveout_percent, confine_to_target

H100 = 228 * 1024


@pytest.mark.parametrize(("target", "kib"), [(80, 164), (86, 100), (89, 100), (120, 100)])
def test_the_driver_rounds_up_to_what_the_target_has(target, kib):
    """The driver takes the next of the sizes that it knows; an H100 knows these."""
    percent = carveout_percent(target, H100)
    assert percent is not None
    asked = percent * H100 / 100
    assert min(size for size in (0, 8, 16, 32, 64, 100, 132, 164, 196, 228) if size * 1024 >= asked) == kib


@pytest.mark.parametrize("target", [90, 100])
def test_nothing_is_confined_to_as_much_as_there_is(target):
    assert carveout_percent(target, H100) is None


@pytest.fixture
def hopper(monkeypatch):
    """A Hopper GPU, and what its driver is asked for: (function, attribute, value)."""
    asked = []
    properties = SimpleNamespace(major=9, minor=0, shared_memory_per_multiprocessor=H100)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    driver = SimpleNamespace(cuFuncSetAttribute=lambda function, *rest: asked.append((function.value, *rest)))
    monkeypatch.setattr(confine.ctypes, "CDLL", lambda name: driver)
    hooks = triton.knobs.runtime.kernel_load_end_hook
    monkeypatch.setattr(hooks, "calls", [])
    return asked


def test_kernels_of_another_target_are_confined_when_they_are_loaded(hopper, monkeypatch):
    monkeypatch.setenv("TRITON_OVERRIDE_ARCH", "sm80")
    assert confine_to_target() == 164 * 1024
    assert hopper == []
    triton.knobs.runtime.kernel_load_end_hook(None, 1234, "kernel", {}, "hash")
    assert hopper == [(1234, 9, 71)]


def test_native_kernels_are_left_alone(hopper, monkeypatch):
    monkeypatch.delenv("TRITON_OVERRIDE_ARCH", raising=False)
    assert confine_to_target() == 0
    assert triton.knobs.runtime.kernel_load_end_hook.calls == []


def test_without_a_driver_nothing_is_confined_and_that_is_said(hopper, monkeypatch):
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setenv("TRITON_OVERRIDE_ARCH", "sm80")
    monkeypatch.setattr(confine.ctypes, "CDLL", missing)
    assert confine_to_target() == 0
