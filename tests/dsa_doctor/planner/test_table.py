"""Every figure of many plans in one table: a mutated rule of the planner is a changed line.

    DSA_DOCTOR_UPDATE_GOLDEN=1 pytest -n 0 tests/dsa_doctor/planner/test_table.py

draws plans.txt anew; read the difference before you commit it. Where a figure comes from is tested elsewhere, against
checkpoints, transformers and vLLM.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsa_doctor.catalog.models import find_model
from dsa_doctor.planner import Hardware, Parallel, Plan, PlanOptions, plan

GOLDEN = Path(__file__).with_name("plans.txt")
GIB = 2**30
MODELS = ("GLM-5-FP8", "GLM-5.2-FP8", "DeepSeek-V3.2", "GLM-5.3-Flash", "DeepSeek-V4-Flash", "DeepSeek-V4-Pro")
TP8 = Parallel(tensor=8)
NODES = Parallel(tensor=8, pipeline=2)
LAUNCHES = {
    "8 x 80": (8, 1, 80, PlanOptions(parallel=TP8)),
    "8 x 141": (8, 1, 141, PlanOptions(parallel=TP8)),
    "8 x 180": (8, 1, 180, PlanOptions(parallel=TP8)),
    "8 of unknown memory": (8, 1, None, PlanOptions(parallel=TP8)),
    "8 x 48": (8, 1, 48, PlanOptions(parallel=TP8)),
    "8 x 101": (8, 1, 101, PlanOptions(parallel=TP8)),
    "8 x 103": (8, 1, 103, PlanOptions(parallel=TP8)),
    "8 x 107": (8, 1, 107, PlanOptions(parallel=TP8)),
    "4 x 96": (4, 1, 96, PlanOptions(parallel=Parallel(tensor=4))),
    "2 nodes of 8 x 80": (8, 2, 80, PlanOptions(parallel=NODES)),
    "2 nodes of 8 x 80, eager": (8, 2, 80, PlanOptions(parallel=NODES, enforce_eager=True)),
    "16 ranks": (8, 2, 80, PlanOptions(parallel=Parallel(tensor=16))),
    "replicas": (8, 1, 141, PlanOptions(parallel=Parallel(tensor=2, data=4))),
    "replicas, experts whole": (8, 1, 141, PlanOptions(parallel=Parallel(tensor=2, data=4, expert=True))),
    "experts whole": (8, 1, 141, PlanOptions(parallel=Parallel(tensor=8, expert=True))),
    "fp8 rows": (8, 1, 141, PlanOptions(parallel=TP8, kv_cache_dtype="fp8_ds_mla")),
    "drafts": (8, 1, 141, PlanOptions(parallel=TP8, mtp=True)),
    "a short context": (8, 1, 141, PlanOptions(parallel=TP8, max_model_len=8192)),
    "too long a context": (8, 1, 141, PlanOptions(parallel=TP8, max_model_len=2**21)),
    "one request": (8, 1, 141, PlanOptions(parallel=TP8, max_num_seqs=1)),
    "4,096 requests": (8, 1, 141, PlanOptions(parallel=TP8, max_num_seqs=4096)),
    "small batches": (8, 1, 141, PlanOptions(parallel=TP8, max_num_batched_tokens=1024)),
    "large batches": (8, 1, 141, PlanOptions(parallel=TP8, max_num_batched_tokens=65536)),
    "half of the GPU": (8, 1, 180, PlanOptions(parallel=TP8, gpu_memory_utilization=0.5)),
    "40 GiB on the host": (8, 1, 80, PlanOptions(parallel=TP8, cpu_offload_gib=40, max_model_len=4096)),
    "blocks of 128": (8, 1, 141, PlanOptions(parallel=TP8, block_size=128)),
}


def line(name: str, found: Plan) -> str:
    """Return one plan as a line: parts of the budget, cache, sizes, and whether it fits."""
    parts = ", ".join(
        f"{one.name} {one.bytes}{'' if one.low_bytes is None else f' from {one.low_bytes}'} {one.label}"
        for one in (*found.lines, *found.host_lines)
    )
    cache = (
        found.kv_cache_bytes, found.kv_token_bytes, found.indexer_token_bytes, found.kv_request_bytes, found.kv_tokens
    )  # fmt: skip
    sizes = (
        found.max_model_len, found.native_context, found.largest_context, found.largest_batch, found.batched_tokens,
        found.sequences, found.sets_batch,
    )  # fmt: skip
    fits = (found.fits, found.shortfall_bytes, found.uncertain_bytes, found.estimates_decide, len(found.problems))
    whole = (found.budget_bytes, found.disk_bytes, found.parameters, found.mtp_parameters, found.host_bytes)
    return " | ".join(
        (
            name,
            parts,
            f"cache {found.kv_label} {' '.join(map(str, cache))}",
            f"sizes {' '.join(map(str, sizes))}",
            f"fits {' '.join(map(str, fits))}",
            f"whole {' '.join(map(str, whole))}",
        )
    )


def plans() -> Iterator[str]:
    """Yield the lines of the table."""
    for model in MODELS:
        geometry = find_model(model).geometry()
        for name, (gpus, nodes, gib, options) in LAUNCHES.items():
            memory = None if gib is None else gib * GIB
            hardware = Hardware(name="x", gpus_per_node=gpus, nodes=nodes, memory_bytes=memory)
            yield line(f"{model} {name}", plan(geometry, hardware, options))


def test_the_plans_are_those_that_were_read() -> None:
    drawn = "\n".join(plans()) + "\n"
    if os.environ.get("DSA_DOCTOR_UPDATE_GOLDEN"):
        GOLDEN.write_text(drawn, encoding="utf-8")
        pytest.skip("drawn anew")
    assert drawn.splitlines() == GOLDEN.read_text(encoding="utf-8").splitlines()
