"""A summary of the facts for people: one line per probe, then what it found."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Facts
from dsa_doctor.render.human import show


def print_facts(console: Console, facts: Facts) -> None:
    """Print what every probe found, how long it took, and why it is absent or unknown."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_column(overflow="fold")
    for name, observation, lines in _sections(facts):
        body = Text("\n".join(lines) if observation.value is not None else observation.cause or "")
        for line in observation.evidence if observation.value is None else ():
            body.append(f"\n- {line}", style="dim")
        took = f"{observation.seconds:.1f} s" if observation.kept_from is None else "kept"
        grid.add_row(Text(name, style="bold"), observation.status, took, body)
    show(console, Text(f"dsa-doctor {facts.dsa_doctor_version}, facts schema {facts.schema_version}", style="dim"))
    show(console, grid)
    size = len(facts.model_dump_json()) / 2**20
    note = f"\nA summary. Everything, {size:.1f} MiB of JSON, is for `check --facts`:\n  dsa-doctor facts > facts.json"
    show(console, Text(note, style="dim"))


def _sections(facts: Facts) -> Iterator[tuple[str, Observation[Any], list[str]]]:
    yield "GPUs", facts.gpus, _gpus(facts)
    yield "software", facts.software, _software(facts)
    yield "CUDA toolkit", facts.cuda_toolkit, _toolkit(facts)
    yield "DeepGEMM", facts.deep_gemm, _deep_gemm(facts)
    yield "csrc", facts.csrc, _csrc(facts)
    yield "vLLM import", facts.vllm_import, [facts.vllm_import.value or ""]
    yield "selector", facts.selector, _selector(facts)
    yield "fingerprint", facts.fingerprint, _fingerprint(facts)


def _gpus(facts: Facts) -> list[str]:
    inventory = facts.gpus.value
    if inventory is None:
        return []
    return [
        f"{gpu.index}: {gpu.name}, compute capability {gpu.capability}{'' if gpu.visible else ' (hidden)'}"
        for gpu in inventory.gpus
    ]


def _software(facts: Facts) -> list[str]:
    software = facts.software.value
    if software is None:
        return []
    cuda = software.torch_cuda.value or software.torch_cuda.cause
    plugins = ", ".join(f"{one.name} = {one.value}" for one in software.vllm_plugins) or "none"
    packages = ", ".join(f"{name} {version}" for name, version in sorted(software.packages.items()))
    return [f"Python {software.python}", packages, f"torch's CUDA: {cuda}", f"vLLM plugins: {plugins}"]


def _toolkit(facts: Facts) -> list[str]:
    toolkit = facts.cuda_toolkit.value
    return [] if toolkit is None else [f"{toolkit.nvcc_version or 'version unknown'}, found by {toolkit.found_by}"]


def _deep_gemm(facts: Facts) -> list[str]:
    deep_gemm = facts.deep_gemm.value
    if deep_gemm is None:
        return []
    return [
        f"{copy.source} {copy.version or ''}: "
        + ("imports" if copy.importable.value else "does not import" if copy.importable.value is False else "unknown")
        for copy in deep_gemm.copies
    ]


def _csrc(facts: Facts) -> list[str]:
    csrc = facts.csrc.value
    if csrc is None:
        return []
    return [
        f"{one.module}: {', '.join(sorted({image.architecture for image in one.images})) or 'no GPU code'}"
        for one in csrc.extensions
    ]


def _selector(facts: Facts) -> list[str]:
    selector = facts.selector.value
    return [] if selector is None else [f"{len(selector.answers)} questions answered"]


def _fingerprint(facts: Facts) -> list[str]:
    fingerprint = facts.fingerprint.value
    if fingerprint is None:
        return []
    return [
        f"indexer guard: {fingerprint.indexer_guard}; prefill logits: {fingerprint.prefill_logits}",
        f"sparse-MLA backends: {', '.join(fingerprint.sparse_mla_backends)}",
    ]
