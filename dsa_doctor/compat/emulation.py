"""Puts a CUDA compute capability in force in this process, with or without GPU, driver or CUDA build of torch.

vLLM's own code then decides as it would on that GPU: its real selector, configuration classes and models run. Only
the following is replaced: the platform's answers about the device, torch's (which would initialise CUDA), and those of
vLLM's compiled modules whose files are present but cannot be loaded for a reason of this host. A module whose file is
missing stays missing.

Stand-alone on purpose: standard library only, loadable by path in any interpreter of 3.10 or newer, since the examined
environment need not have dsa-doctor.
"""

import contextlib
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

_MISSING_LIBRARY = re.compile(r"^(?:.*/)?([^/\s:]+): cannot open shared object file")
_UNDEFINED_SYMBOL = re.compile(r"undefined symbol: (\S+)")
_DRIVER_LIBRARIES = ("libcuda.so", "libnvidia-")
_CUDA_LIBRARIES = ("libc10_cuda", "libtorch_cuda", "libcu", "libnccl", "libnv")
_SIDE_PACKAGES = ("torchvision", "torchaudio", "torchcodec")
_OPS_SUPPORT_FROM = {
    "cutlass_scaled_mm_supports_fp8": 89,
    "cutlass_scaled_mm_supports_block_fp8": 90,
    "cutlass_group_gemm_supported": 90,
    "cutlass_scaled_mm_supports_fp4": 100,
}
"""The least capability for which these ops of vLLM's csrc answer yes; others of their kind answer no."""

_MEMORY_BYTES = 80 << 30
_MULTIPROCESSORS = 108

SCHEMAS_SUFFIX = ".schemas.json"
"""A list of op schemas beside a compiled module that cannot be loaded: they are defined, so that vLLM finds its ops."""


class UnknownShape(RuntimeError):  # noqa: N818 - it names what was met, and a caller shows its text
    """This vLLM is not built in a way that the emulation knows; the message says what differs."""


class Emulation:
    """A capability in force in this process. Made by `install`, once.

    Attributes:
        capability: the capability in force, e.g. "8.0".
        assumed: names of what this host could not load and was taken as loadable on the target, in order of use.
    """

    def __init__(self, capability: str, unloadable: Literal["host", "any"]) -> None:
        self.capability = capability
        self.assumed: list[str] = []
        self._unloadable = unloadable
        self._libraries: list[Any] = []
        self._platform_class: type | None = None

    @property
    def numbers(self) -> tuple[int, int]:
        """Return the capability as (major, minor)."""
        major, _, minor = self.capability.partition(".")
        return int(major), int(minor)

    def set_capability(self, capability: str) -> None:
        """Put another capability in force, and forget every decision that vLLM cached under the last one."""
        if capability != self.capability:
            self.capability = capability
            for wrapper in _cached_functions():
                wrapper.cache_clear()

    def platform(self) -> Any:
        """Return vLLM's current platform: its own CUDA platform with this capability.

        Raises:
            UnknownShape: this vLLM chooses its platform in a way that the emulation does not know.
            ImportError: the module of vLLM's CUDA platform cannot be imported.
        """
        platforms = importlib.import_module("vllm.platforms")
        current = platforms.current_platform
        if not isinstance(current, self._platform_class or ()):
            raise UnknownShape(f"vllm.platforms.current_platform is {type(current).__name__}, not the emulated one")
        return current

    def inspect_models_here(self) -> None:
        """Let vLLM inspect model classes in this process: the one it would spawn knows nothing of the emulation."""
        registry = importlib.import_module("vllm.model_executor.models.registry")
        registry._run_in_subprocess = lambda function: function()  # type: ignore[attr-defined]

    def assume_deep_gemm(self) -> None:
        """Let DeepGEMM count as installed: its import asserts a CUDA toolkit, which this host may lack.

        Its functions are not there, so vLLM finds it present and every call of it unavailable.
        """
        if importlib.util.find_spec("deep_gemm") is None:
            module = ModuleType("deep_gemm")
            module.__spec__ = importlib.machinery.ModuleSpec("deep_gemm", None)
            sys.modules["deep_gemm"] = module
            self.assume("deep_gemm")

    def take_over(self, platforms: ModuleType) -> None:
        """Let vllm.platforms, just loaded, resolve to the emulated platform whenever it is first asked."""
        if not callable(getattr(platforms, "resolve_current_platform_cls_qualname", None)):
            return  # `platform` reports it

        def resolve() -> str:
            holder = ModuleType("dsa_doctor_emulated_platform")
            cuda = importlib.import_module("vllm.platforms.cuda")
            holder.EmulatedCudaPlatform = self._platform_class = _platform_class(cuda, self)  # type: ignore[attr-defined]
            sys.modules[holder.__name__] = holder
            return f"{holder.__name__}.EmulatedCudaPlatform"

        platforms.resolve_current_platform_cls_qualname = resolve  # type: ignore[attr-defined]

    def may_assume(self, error: ImportError) -> bool:
        """Whether a compiled module that is present failed to load for a reason of this host alone."""
        return self._unloadable == "any" or is_host_reason(str(error), torch_has_cuda=_torch_has_cuda())

    def assume(self, module: str) -> None:
        """Record that `module` is taken as loadable."""
        if module not in self.assumed:
            self.assumed.append(module)

    @contextlib.contextmanager
    def tensors_on(self, device: str = "meta") -> Iterator[None]:
        """While entered, tensors that are asked for on a CUDA device are made on `device` instead."""
        from torch.overrides import TorchFunctionMode

        class Redirect(TorchFunctionMode):  # type: ignore[misc]
            def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
                options = dict(options or {})
                if str(options.get("device", "")).startswith("cuda"):
                    options["device"] = device
                return function(*arguments, **options)

        with Redirect():
            yield

    def define_ops(self, schemas_file: Path) -> None:
        """Define the ops whose schemas are listed in a file, without implementation; known ones are left alone."""
        import torch

        for schema in json.loads(schemas_file.read_text(encoding="utf-8")):
            namespace, _, definition = schema.partition("::")
            library = torch.library.Library(namespace, "FRAGMENT")
            self._libraries.append(library)  # a library's definitions go away with it
            with contextlib.suppress(RuntimeError):  # defined already, or a type that this torch does not know
                library.define(definition)
                if definition.endswith("-> bool"):
                    name = definition.partition("(")[0]
                    library.impl(name, _answer_for_op(name), "CompositeExplicitAutograd")


def install(capability: str, *, unloadable: Literal["host", "any"] = "host") -> Emulation:
    """Put `capability` in force. Call it in a fresh process, before vllm is imported; `Emulation.platform` afterwards.

    Args:
        capability: e.g. "8.0".
        unloadable: which compiled modules that are present but cannot be loaded are taken as loadable: those that fail
            for a reason of this host (no driver, a torch without CUDA), or any (unpacked wheels with placeholders).

    Returns:
        the emulation, whose `assumed` grows as modules are imported.

    Raises:
        ImportError: torch cannot be imported.
        RuntimeError: vllm is imported already, and may have decided for this host.
    """
    if "vllm" in sys.modules:
        raise RuntimeError("the emulation comes too late: vllm is imported already")
    import torch

    emulation = Emulation(capability, unloadable)
    sys.meta_path.insert(0, _VllmModules(emulation))
    if not _torch_has_cuda():
        _hide_side_packages()
    _answer_for_torch(torch, emulation)
    return emulation


def _answer_for_op(name: str) -> Callable[..., bool]:
    """Answer an op that tells whether kernels of a kind exist for a capability (an int, e.g. 90)."""
    least = _OPS_SUPPORT_FROM.get(name)
    return lambda capability, *_: least is not None and capability >= least


def is_host_reason(message: str, *, torch_has_cuda: bool) -> bool:
    """Whether a loader's message speaks of this host (no driver; no CUDA build of torch), not of the file's build.

    >>> is_host_reason("libcuda.so.1: cannot open shared object file: No such file", torch_has_cuda=True)
    True
    >>> is_host_reason("/x/_C.so: undefined symbol: dsv3_fused_a_gemm", torch_has_cuda=False)
    False
    """
    if missing := _MISSING_LIBRARY.search(message):
        library = missing.group(1)
        return library.startswith(_DRIVER_LIBRARIES) or (not torch_has_cuda and library.startswith(_CUDA_LIBRARIES))
    if undefined := _UNDEFINED_SYMBOL.search(message):
        # With a CPU build of torch the symbols of its CUDA side are lacking: c10::cuda, at::cuda, aoti_torch_..._cuda.
        return not torch_has_cuda and "cuda" in undefined.group(1).lower()
    return False


def _torch_has_cuda() -> bool:
    import torch

    return torch.version.cuda is not None


def _hide_side_packages() -> None:
    """Hide torch's sister packages: the CUDA builds that vLLM requires raise beside a CPU build of torch.

    No decision about attention depends on them.
    """
    for package in _SIDE_PACKAGES:
        if package not in sys.modules and importlib.util.find_spec(package) is not None:
            sys.modules[package] = None  # type: ignore[assignment]  # Python's way to say: not importable


def _answer_for_torch(torch: ModuleType, emulation: Emulation) -> None:
    """Let torch's device queries answer for the emulated GPU, and refuse to initialise CUDA."""

    class Properties:
        """What torch.cuda.get_device_properties returns, as far as libraries read it while they are imported."""

        total_memory = _MEMORY_BYTES
        multi_processor_count = _MULTIPROCESSORS
        is_integrated = False

        @property
        def name(self) -> str:
            return _device_name(emulation)

        @property
        def major(self) -> int:
            return emulation.numbers[0]

        @property
        def minor(self) -> int:
            return emulation.numbers[1]

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA must not be initialised while a capability is emulated")

    class Inert:
        """A stream or an event on a device that is not there."""

        def __init__(self, *_: object, **__: object) -> None:
            pass

    cuda = torch.cuda
    cuda.Stream = cuda.Event = Inert
    cuda.current_stream = cuda.default_stream = lambda *_, **__: Inert()
    cuda._lazy_init = refuse
    cuda.get_device_properties = lambda *_, **__: Properties()
    cuda.get_device_capability = lambda *_, **__: emulation.numbers
    cuda.get_device_name = lambda *_, **__: _device_name(emulation)
    cuda.current_device = lambda: 0


def _device_name(emulation: Emulation) -> str:
    return f"NVIDIA GPU of compute capability {emulation.capability}"


def _platform_class(cuda: ModuleType, emulation: Emulation) -> type:
    """Derive the emulated platform from the one that vLLM would take on this machine (with NVML or without)."""
    base = getattr(cuda, "CudaPlatform", None)
    for name in ("get_device_capability", "get_attn_backend_cls", "get_valid_backends"):
        if not hasattr(base, name):
            raise UnknownShape(f"vllm.platforms.cuda.CudaPlatform has no {name}")
    from vllm.platforms.interface import DeviceCapability, Platform

    class EmulatedCudaPlatform(base):  # type: ignore[misc, valid-type]
        """vLLM's CUDA platform with the device's answers replaced."""

        @classmethod
        def get_device_capability(cls, *_: object, **__: object) -> Any:
            return DeviceCapability(*emulation.numbers)

        @classmethod
        def has_device_capability(cls, capability: Any, device_id: int = 0) -> bool:
            # NVML's variant opens NVML around this; the base of all platforms only compares.
            return bool(Platform.has_device_capability.__func__(cls, capability, device_id))

        @classmethod
        def get_device_name(cls, *_: object, **__: object) -> str:
            return _device_name(emulation)

        @classmethod
        def get_device_uuid(cls, *_: object, **__: object) -> str:
            return "GPU-emulated"

        @classmethod
        def get_device_total_memory(cls, *_: object, **__: object) -> int:
            return _MEMORY_BYTES

        @classmethod
        def num_compute_units(cls, *_: object, **__: object) -> int:
            return _MULTIPROCESSORS

        @classmethod
        def is_integrated_gpu(cls, *_: object, **__: object) -> bool:
            return False

        @classmethod
        def is_arch_support_pdl(cls) -> bool:
            return emulation.numbers[0] >= 9

        @classmethod
        def device_count(cls) -> int:
            return 8

    return EmulatedCudaPlatform


class _VllmModules(importlib.abc.MetaPathFinder):
    """Takes over vllm.platforms, and stands in for compiled modules that are present but cannot be loaded here."""

    def __init__(self, emulation: Emulation) -> None:
        self._emulation = emulation

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("vllm.") or path is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None:
            return None
        if isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
            spec.loader = _LenientLoader(spec.loader, self._emulation)
            return spec
        if fullname == "vllm.platforms" and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _PlatformsLoader(spec.loader, self._emulation)
            return spec
        return None


class _PlatformsLoader(importlib.abc.Loader):
    """Loads vllm.platforms, then takes it over."""

    def __init__(self, loader: importlib.machinery.SourceFileLoader, emulation: Emulation) -> None:
        self._loader = loader
        self._emulation = emulation

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._emulation.take_over(module)


class _LenientLoader(importlib.abc.Loader):
    """Loads a compiled module, or makes an empty one where the emulation may assume that it loads on the target."""

    def __init__(self, loader: importlib.machinery.ExtensionFileLoader, emulation: Emulation) -> None:
        self._loader = loader
        self._emulation = emulation
        self._stands_in = False

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        try:
            return self._loader.create_module(spec)
        except ImportError as error:
            if not self._emulation.may_assume(error):
                raise
        self._stands_in = True
        self._emulation.assume(spec.name)
        schemas = Path(str(spec.origin) + SCHEMAS_SUFFIX)
        if schemas.is_file():
            self._emulation.define_ops(schemas)
        return None

    def exec_module(self, module: ModuleType) -> None:
        if not self._stands_in:
            self._loader.exec_module(module)


def _cached_functions() -> Iterator[Any]:
    """Yield every function of vLLM and FlashInfer that caches its results, methods included."""
    wrapper_type = type(functools.lru_cache(maxsize=1)(lambda: None))
    for name, module in list(sys.modules.items()):
        if module is None or name.partition(".")[0] not in ("vllm", "flashinfer"):
            continue
        for value in list(vars(module).values()):
            if isinstance(value, wrapper_type):
                yield value
            elif isinstance(value, type) and value.__module__ == name:
                for member in list(vars(value).values()):
                    function = getattr(member, "__func__", member)
                    if isinstance(function, wrapper_type):
                        yield function


__all__ = ["SCHEMAS_SUFFIX", "Emulation", "UnknownShape", "install", "is_host_reason"]
