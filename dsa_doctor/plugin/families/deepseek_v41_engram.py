"""What a server asks of DeepSeek-V4.1's engram, and what of it cannot be served."""

from typing import Any

import psutil

from dsa_doctor.plugin.host import model_geometry

_GIB = 2**30


def engram_refusals(vllm_config: Any) -> list[str]:
    """Return what of the engram's configuration cannot be served, one reason per entry; empty without an engram."""
    asked = getattr(vllm_config, "engram_config", None)
    if not getattr(vllm_config.model_config.hf_config, "engram_layer_ids", None):
        return []
    parallel = vllm_config.parallel_config
    on_host = bool(getattr(asked, "cpu_offload", True))
    replicas = int(parallel.data_parallel_size)
    found = []
    if replicas > 1 and bool(getattr(asked, "embedding_across_dp", False)):
        found.append("--engram-config embedding_across_dp: rows of other replicas are not read; accepted: false")
    if replicas > 1 and not on_host:
        found.append(
            "--engram-config cpu_offload false with --data-parallel-size above 1: tables of other GPUs are not read; "
            "accepted: cpu_offload true, which is the default"
        )
    if on_host and (lacking := _lacking_memory(vllm_config, asked)):
        found.append(lacking)
    return found


def _lacking_memory(vllm_config: Any, asked: Any) -> str | None:
    """Return why the host cannot hold the tables, or None; what is in use now is no part of it.

    A draft's configuration is made, and reviewed, when the model's tables are in memory already.
    """
    from dsa_doctor.catalog.bounds import ConfigError
    from dsa_doctor.planner.parallel import HUGE_PAGES, Parallel, TablePlace, table_bytes

    parallel = vllm_config.parallel_config
    try:
        model = model_geometry(vllm_config.model_config)
    except ConfigError:
        return None  # said by the gate
    shared = bool(getattr(asked, "dp_shared_memory", None))
    sizes = Parallel(
        tensor=parallel.tensor_parallel_size,
        pipeline=parallel.pipeline_parallel_size,
        data=parallel.data_parallel_size if shared else 1,
    )
    copies = 1 if shared else max(1, int(parallel.data_parallel_size_local))
    nodes = max(1, int(getattr(parallel, "nnodes", 1) or 1))
    ranks = sizes.tensor * copies

    def tables_of(place: TablePlace) -> int:
        return sum(table_bytes(model, sizes, stage, place) for stage in range(sizes.pipeline)) * ranks // nodes

    tables = tables_of("huge pages" if getattr(asked, "use_thp", False) else "pinned")
    try:
        memory = int(psutil.virtual_memory().total)
    except (psutil.Error, OSError, ValueError):
        return None  # unknown refuses nothing
    if tables <= memory:
        return None
    fits_in_huge_pages = hasattr(asked, "use_thp") and not shared and tables_of("huge pages") <= memory
    smaller = f"{HUGE_PAGES}, " if fits_in_huge_pages else ""
    return (
        f"the engram's tables take {tables / _GIB:.0f} GiB of pinned memory on this host, which has "
        f"{memory / _GIB:.0f} GiB; accepted: a host with more memory, {smaller}or --engram-config "
        "'{\"cpu_offload\": false}' where the GPUs can hold them"
    )
