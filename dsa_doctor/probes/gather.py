"""Runs every probe side by side and returns the facts of one environment."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

from dsa_doctor import __version__
from dsa_doctor.cache import Keeper
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Facts, Fingerprint, GpuInventory, Selector
from dsa_doctor.probes import cuda_toolkit, flashinfer, gpus, settings, software
from dsa_doctor.probes.environment import Environment
from dsa_doctor.probes.kept import kept_csrc, kept_deep_gemm
from dsa_doctor.probes.progress import doing
from dsa_doctor.processes.child import ChildPool
from dsa_doctor.redaction import redact

T = TypeVar("T")

SelectorProbe = Callable[[Environment], tuple[Observation[Selector], Observation[str]]]
"""Asks vLLM's own selector; the second observation says whether vLLM can be imported."""

FingerprintProbe = Callable[[Environment], Observation[Fingerprint]]


def gather(
    environment: Environment,
    *,
    selector: SelectorProbe | None,
    fingerprint: FingerprintProbe | None,
    keeper: Keeper | None = None,
    inventory: Observation[GpuInventory] | None = None,
) -> Facts:
    """Return the facts of `environment`; never raises.

    Args:
        environment: where packages are looked for, and the interpreter that runs the subprocess probes.
        selector: the probe that imports vLLM, by far the slowest; None leaves its two facts unknown.
        fingerprint: the probe that reads vLLM's sources; None leaves its fact unknown.
        keeper: gives and takes answers of the slow probes that run here; None asks each anew.
        inventory: what `visible_gpus` observed already; None looks now.
    """
    with ChildPool(max_workers=1) as first, ChildPool(max_workers=_processors_left()) as pool:
        # The selector takes longer than all others together, so it has a processor to itself. NVML is asked before any
        # child can touch CUDA only in the sense that matters: no probe initialises CUDA in this process.
        selected = first.submit(_ask_selector, selector, environment)
        gpu = pool.submit(lambda: inventory or visible_gpus())
        installed = pool.submit(_guarded, "software", lambda: software.probe(environment))
        sm120 = pool.submit(_guarded, "FlashInfer", lambda: flashinfer.probe(environment))
        chosen = pool.submit(_guarded, "settings", lambda: settings.probe(environment))
        toolkit = pool.submit(_guarded, "CUDA toolkit", lambda: cuda_toolkit.probe(environment))
        compiled = pool.submit(_guarded, "csrc", lambda: kept_csrc(keeper, environment))
        deep = pool.submit(_guarded, "DeepGEMM", lambda: kept_deep_gemm(keeper, environment))
        sources = pool.submit(_ask_fingerprint, fingerprint, environment)
        answers, vllm_import = selected.result()
        return Facts(
            dsa_doctor_version=__version__,
            gpus=gpu.result(),
            software=installed.result(),
            cuda_toolkit=toolkit.result(),
            deep_gemm=deep.result(),
            csrc=compiled.result(),
            selector=answers,
            fingerprint=sources.result(),
            vllm_import=vllm_import,
            flashinfer_sm120=sm120.result(),
            settings=chosen.result(),
        )


def visible_gpus() -> Observation[GpuInventory]:
    """Return the GPUs of this machine; never raises."""
    return _guarded("GPU", gpus.probe)


def _processors_left() -> int:
    """Return how many probes run beside the selector: as many as there are processors for them, and at least one."""
    return min(7, max(1, len(os.sched_getaffinity(0)) - 1))


def _guarded(name: str, probe: Callable[[], Observation[T]]) -> Observation[T]:
    """Run one probe; an exception it should have caught becomes an unknown that says so."""
    start = time.monotonic()
    try:
        with doing(f"reading {name}"):
            observation = probe()
    except Exception as error:  # a bug in one probe must not cost the other facts
        return Observation[T].unknown(_broke(name, error), seconds=time.monotonic() - start)
    return observation.model_copy(update={"seconds": time.monotonic() - start})


def _ask_selector(
    probe: SelectorProbe | None, environment: Environment
) -> tuple[Observation[Selector], Observation[str]]:
    if probe is None:
        cause = "the selector probe was not run"
        return Observation[Selector].unknown(cause), Observation[str].unknown(cause)
    start = time.monotonic()
    try:
        with doing("asking vLLM's selector"):
            answers, vllm_import = probe(environment)
    except Exception as error:
        cause = _broke("selector", error)
        return Observation[Selector].unknown(cause), Observation[str].unknown(cause)
    seconds = {"seconds": time.monotonic() - start}
    return answers.model_copy(update=seconds), vllm_import.model_copy(update=seconds)


def _ask_fingerprint(probe: FingerprintProbe | None, environment: Environment) -> Observation[Fingerprint]:
    if probe is None:
        return Observation[Fingerprint].unknown("the fingerprint probe was not run")
    return _guarded("fingerprint", lambda: probe(environment))


def _broke(name: str, error: Exception) -> str:
    first_line = next(iter(str(error).splitlines()), "")
    return redact(f"the {name} probe raised {type(error).__name__}: {first_line}")[:300]
