"""GPUs that a user may name with --target, with the memory that their driver reports.

Capability: NVIDIA's list of CUDA-enabled GPUs. Memory: what NVML and `nvidia-smi` call the total, in MiB, which is less
than the label on many cards (ECC takes 1/16 of GDDR6). Each entry names where its figure was read.
"""

from dataclasses import dataclass
from difflib import get_close_matches

from dsa_doctor.catalog.capability import SHARED_MEMORY_PER_BLOCK, Capability

USUAL_GPUS_PER_NODE = 8
"""Where nothing says how many GPUs a machine elsewhere has."""

_MODAL = "nvidia-smi, as modal-labs/modal-client#2797 lists it"
_SMI = "nvidia-smi, in public logs of several owners"
_GA102 = f"{_SMI}; the same memory as on the A40, without ECC"
_AD102 = "nvidia-smi of the L40S (modal-labs/modal-client#2797): the same chip, memory and ECC"


@dataclass(frozen=True)
class KnownGpu:
    """One GPU of the catalog.

    Attributes:
        alias: what the user types, lower case.
        name: as the driver prints it, roughly.
        capability: compute capability.
        memory_mib: total memory in MiB as the driver reports it; None where it is not known.
        memory_source: where that figure was read.
        others: further spellings.
        free_mib: most that is free when a server starts, on GPUs that share the host's memory; None on all others.
        per_node: GPUs of a machine, where none is said: the usual node's, or those that the module is built with.
    """

    alias: str
    name: str
    capability: Capability
    memory_mib: int | None
    memory_source: str = ""
    others: tuple[str, ...] = ()
    free_mib: int | None = None
    per_node: int = USUAL_GPUS_PER_NODE

    @property
    def memory_gib(self) -> float | None:
        """Return the memory in GiB, rounded to two digits, or None where it is not known."""
        return round(self.memory_mib / 1024, 2) if self.memory_mib is not None else None

    @property
    def memory_bytes(self) -> int | None:
        """Return the memory in bytes, or None where it is not known."""
        return self.memory_mib * 2**20 if self.memory_mib is not None else None


KNOWN_GPUS: tuple[KnownGpu, ...] = (
    KnownGpu(
        "a100", "NVIDIA A100 80GB", Capability(8, 0), 81920, _MODAL, ("a100-80gb", "a100-sxm4-80gb", "a100-pcie-80gb")
    ),
    KnownGpu("a100-40gb", "NVIDIA A100 40GB", Capability(8, 0), 40960, _MODAL, ("a100-sxm4-40gb", "a100-pcie-40gb")),
    KnownGpu(
        "a800",
        "NVIDIA A800 80GB",
        Capability(8, 0),
        81920,
        f"{_MODAL} for the A100 80GB: the same memory",
        ("a800-80gb", "a800-sxm4-80gb", "a800-pcie-80gb"),
    ),
    KnownGpu("a30", "NVIDIA A30", Capability(8, 0), 24576, _SMI),
    KnownGpu("a10", "NVIDIA A10", Capability(8, 6), 23028, _MODAL, ("a10g",)),
    KnownGpu("a40", "NVIDIA A40", Capability(8, 6), 46068, _SMI),
    KnownGpu("a6000", "NVIDIA RTX A6000", Capability(8, 6), 49140, _GA102, ("rtx-a6000",)),
    KnownGpu(
        "3090",
        "NVIDIA GeForce RTX 3090",
        Capability(8, 6),
        24576,
        "nvidia-smi, noonghunna/club-3090#127",
        ("rtx-3090", "rtx3090", "3090-ti", "rtx-3090-ti"),
    ),
    KnownGpu(
        "4090",
        "NVIDIA GeForce RTX 4090",
        Capability(8, 9),
        24564,
        "nvidia-smi, RLinf/RLinf#255",
        ("rtx-4090", "rtx4090", "4090d", "4090-24gb"),
    ),
    KnownGpu(
        "4090-48gb",
        "NVIDIA GeForce RTX 4090 48GB",
        Capability(8, 9),
        49140,
        f"{_SMI} of the rebuilt card; its name is that of the 24 GB card",
        ("rtx-4090-48gb", "4090d-48gb", "rtx-4090d-48gb"),
    ),
    KnownGpu(
        "rtx-6000-ada", "NVIDIA RTX 6000 Ada Generation", Capability(8, 9), 49140, _SMI, ("6000-ada", "rtx6000-ada")
    ),
    KnownGpu("l4", "NVIDIA L4", Capability(8, 9), 23034, _MODAL),
    KnownGpu("l20", "NVIDIA L20", Capability(8, 9), 46068, _AD102),
    KnownGpu("l40", "NVIDIA L40", Capability(8, 9), 46068, _AD102),
    KnownGpu("l40s", "NVIDIA L40S", Capability(8, 9), 46068, f"{_MODAL}; akash-network/provider-configs#99"),
    KnownGpu(
        "h100",
        "NVIDIA H100 80GB HBM3",
        Capability(9, 0),
        81559,
        _MODAL,
        ("h100-sxm", "h100-sxm5", "h100-pcie", "h800"),
    ),
    KnownGpu("h100-nvl", "NVIDIA H100 NVL", Capability(9, 0), 95830, _SMI),
    KnownGpu("h200", "NVIDIA H200", Capability(9, 0), 143771, _SMI, ("h200-sxm", "h200-nvl")),
    KnownGpu("h20", "NVIDIA H20", Capability(9, 0), 97871, _SMI, ("h20-96gb",)),
    KnownGpu(
        "h20-3e",
        "NVIDIA H20-3e",
        Capability(9, 0),
        143771,
        f"{_SMI} for the H200: the same stacks of HBM3e",
        ("h20-141gb",),
    ),
    KnownGpu("gh200", "NVIDIA GH200 480GB", Capability(9, 0), 97871, _SMI, ("gh200-480gb", "gh200-96gb"), per_node=1),
    KnownGpu(
        "gh200-144g",
        "NVIDIA GH200 144G HBM3e",
        Capability(9, 0),
        143771,
        f"{_SMI} for the H200: the same stacks of HBM3e",
        ("gh200-144gb",),
        per_node=1,
    ),
    KnownGpu("b200", "NVIDIA B200", Capability(10, 0), 183359, _SMI),
    KnownGpu("gb200", "NVIDIA GB200", Capability(10, 0), 189471, _SMI, per_node=4),
    KnownGpu("b300", "NVIDIA B300", Capability(10, 3), 275040, _SMI, ("gb300",)),
    KnownGpu(
        "5090",
        "NVIDIA GeForce RTX 5090",
        Capability(12, 0),
        32607,
        "nvidia-smi, noonghunna/club-3090#859",
        ("rtx-5090", "rtx5090", "5090d"),
    ),
    KnownGpu(
        "rtx-pro-6000",
        "NVIDIA RTX PRO 6000 Blackwell",
        Capability(12, 0),
        97887,
        f"{_SMI}: Workstation, Max-Q and Server Edition alike",
        (
            "rtx-6000-pro",
            "pro-6000",
            "rtx-pro-6000-blackwell-workstation-edition",
            "rtx-pro-6000-blackwell-max-q-workstation-edition",
            "rtx-pro-6000-blackwell-server-edition",
        ),
    ),
    KnownGpu(
        "gb10",
        "NVIDIA GB10",
        Capability(12, 1),
        124610,
        'torch (nvidia-smi says "Not Supported"): 121.69 GiB of the host\'s, of which at most 101.3 to 102.2 GiB are '
        "free at a start; MiaAI-Lab/GLM-5.3-Flash-EXL3-2x-DGX-Sparks#47",
        ("dgx-spark",),
        free_mib=103731,
        per_node=1,
    ),
    KnownGpu(
        "thor",
        "NVIDIA Thor",
        Capability(11, 0),
        125748,
        "the host's memory, as CUDA reports it in public logs; what the system leaves free is not known",
        ("jetson-thor", "agx-thor", "jetson-agx-thor"),
        per_node=1,
    ),
)


def find_gpu(text: str) -> KnownGpu | None:
    """Return the GPU that a user names, whatever the case and the separators, or None."""
    wanted = _plain(text)
    for gpu in KNOWN_GPUS:
        if wanted in {_plain(spelling) for spelling in (gpu.alias, gpu.name, *gpu.others)}:
            return gpu
    return None


def gpus_per_node(text: str) -> int:
    """Return how many of the named GPU a machine has: 1 where it is built around one, else the usual 8."""
    gpu = find_gpu(text)
    return gpu.per_node if gpu is not None else USUAL_GPUS_PER_NODE


def target_from_text(text: str) -> KnownGpu:
    """Return the target that `--target` names: an alias, "sm80" or "8.0".

    Raises:
        ValueError: neither a known GPU nor a known compute capability; the message lists what is accepted.
    """
    known = find_gpu(text)
    if known is not None:
        return known
    aliases = ", ".join(gpu.alias for gpu in KNOWN_GPUS)
    try:
        capability = Capability.parse(text)
    except ValueError:
        spellings = {_plain(one): gpu.alias for gpu in KNOWN_GPUS for one in (gpu.alias, *gpu.others)}
        near = dict.fromkeys(spellings[one] for one in get_close_matches(_plain(text), spellings, n=3, cutoff=0.7))
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"--target {text!r} is not known.{meant} Accepted: a GPU ({aliases}), or a capability such as sm80 or 8.0. "
            "See `dsa-doctor targets`."
        ) from None
    if capability not in SHARED_MEMORY_PER_BLOCK:
        known_capabilities = ", ".join(str(one) for one in sorted(SHARED_MEMORY_PER_BLOCK))
        raise ValueError(
            f"--target {text!r} names compute capability {capability}, which is not in the table. "
            f"Accepted: {known_capabilities}."
        )
    return KnownGpu(capability.sm, f"any GPU of compute capability {capability}", capability, None)


def _plain(text: str) -> str:
    """Return a spelling without case and separators; any other character stays, so that no garbled name matches."""
    return text.lower().removeprefix("nvidia ").translate(_SEPARATORS)


_SEPARATORS = str.maketrans(dict.fromkeys(" -_./()"))
