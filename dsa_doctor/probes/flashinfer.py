"""FlashInfer's sparse-MLA kernels for compute capability 12.x, read from the installed package without importing it."""

import time

from dsa_doctor.compat.flashinfer import sm120_kernels
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Sm120Kernels
from dsa_doctor.probes.environment import Environment


def probe(environment: Environment) -> Observation[Sm120Kernels]:
    """Return what the installed FlashInfer's sources say; absent without the package or the kernels."""
    start = time.monotonic()
    package = environment.package_dir("flashinfer")
    if package is None:
        return Observation[Sm120Kernels].absent("flashinfer is not installed")
    try:
        found = sm120_kernels(package)
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        cause = f"FlashInfer's sources could not be read: {type(error).__name__}"
        return Observation[Sm120Kernels].unknown(cause, seconds=time.monotonic() - start)
    if found is None:
        return Observation[Sm120Kernels].absent("this FlashInfer has no sparse-MLA kernels for compute capability 12.x")
    return Observation[Sm120Kernels].ok(found, seconds=time.monotonic() - start)
