"""GPUs that a user may name with --target. Source of each: NVIDIA's data sheet and its list of CUDA-enabled GPUs."""

from dataclasses import dataclass

from dsa_doctor.catalog.capability import SHARED_MEMORY_PER_BLOCK, Capability


@dataclass(frozen=True)
class KnownGpu:
    """One GPU of the catalog.

    Attributes:
        alias: what the user types, lower case.
        name: as the driver prints it, roughly.
        capability: compute capability.
        memory_gib: nominal memory in GiB; None where it is the host's.
        others: further spellings.
    """

    alias: str
    name: str
    capability: Capability
    memory_gib: int | None
    others: tuple[str, ...] = ()


KNOWN_GPUS: tuple[KnownGpu, ...] = (
    KnownGpu("a100", "NVIDIA A100 80GB", Capability(8, 0), 80, ("a100-80gb", "a100-sxm4-80gb", "a100-pcie-80gb")),
    KnownGpu("a100-40gb", "NVIDIA A100 40GB", Capability(8, 0), 40, ("a100-sxm4-40gb", "a100-pcie-40gb")),
    KnownGpu("a800", "NVIDIA A800 80GB", Capability(8, 0), 80, ("a800-80gb", "a800-sxm4-80gb")),
    KnownGpu("a30", "NVIDIA A30", Capability(8, 0), 24),
    KnownGpu("a10", "NVIDIA A10", Capability(8, 6), 24, ("a10g",)),
    KnownGpu("a40", "NVIDIA A40", Capability(8, 6), 48),
    KnownGpu("a6000", "NVIDIA RTX A6000", Capability(8, 6), 48, ("rtx-a6000",)),
    KnownGpu("3090", "NVIDIA GeForce RTX 3090", Capability(8, 6), 24, ("rtx-3090", "rtx3090", "3090-ti")),
    KnownGpu("4090", "NVIDIA GeForce RTX 4090", Capability(8, 9), 24, ("rtx-4090", "rtx4090", "4090d")),
    KnownGpu("rtx-6000-ada", "NVIDIA RTX 6000 Ada Generation", Capability(8, 9), 48, ("6000-ada",)),
    KnownGpu("l4", "NVIDIA L4", Capability(8, 9), 24),
    KnownGpu("l40", "NVIDIA L40", Capability(8, 9), 48),
    KnownGpu("l40s", "NVIDIA L40S", Capability(8, 9), 48),
    KnownGpu("h100", "NVIDIA H100 80GB HBM3", Capability(9, 0), 80, ("h100-sxm", "h100-pcie", "h800")),
    KnownGpu("h200", "NVIDIA H200", Capability(9, 0), 141),
    KnownGpu("h20", "NVIDIA H20", Capability(9, 0), 96),
    KnownGpu("gh200", "NVIDIA GH200 480GB", Capability(9, 0), 96),
    KnownGpu("b200", "NVIDIA B200", Capability(10, 0), 180, ("gb200",)),
    KnownGpu("b300", "NVIDIA B300", Capability(10, 3), 270, ("gb300",)),
    KnownGpu("5090", "NVIDIA GeForce RTX 5090", Capability(12, 0), 32, ("rtx-5090", "rtx5090")),
    KnownGpu("rtx-pro-6000", "NVIDIA RTX PRO 6000 Blackwell", Capability(12, 0), 96, ("rtx-6000-pro", "pro-6000")),
    KnownGpu("gb10", "NVIDIA GB10", Capability(12, 1), None, ("dgx-spark",)),
)


def find_gpu(text: str) -> KnownGpu | None:
    """Return the GPU that a user names, whatever the case and the separators, or None."""
    wanted = _plain(text)
    for gpu in KNOWN_GPUS:
        if wanted in {_plain(spelling) for spelling in (gpu.alias, gpu.name, *gpu.others)}:
            return gpu
    return None


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
        raise ValueError(
            f"--target {text!r} is not known. Accepted: a GPU ({aliases}), or a capability such as sm80 or 8.0. "
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
    return "".join(character for character in text.lower().removeprefix("nvidia ") if character.isalnum())
