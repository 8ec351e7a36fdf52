"""Pages about what the catalog holds: compute capabilities and GPUs, models, findings."""

from dsa_doctor.catalog.capability import (
    SHARED_MEMORY_PER_BLOCK,
    Capability,
    deep_gemm_supports,
    has_wide_shared_memory,
    plugin_serves,
    triton_has_e4m3,
    vllm_minimum,
)
from dsa_doctor.catalog.findings import KNOWN_FINDINGS
from dsa_doctor.catalog.models import KNOWN_MODELS
from dsa_doctor.catalog.targets import KNOWN_GPUS
from dsa_doctor.planner.storage import storage_of
from generator.tables import code, page, table

_PLUGIN = {"default": "yes", "on request": "`DSA_DOCTOR_PLUGIN=force` only", "no": "no"}


def capabilities_page() -> str:
    """Return what the code knows of each compute capability, and the GPUs that --target names."""
    capabilities = sorted(SHARED_MEMORY_PER_BLOCK)
    rules = table(
        (
            "Compute capability",
            "GPUs",
            f"1 `csrc`: at least {vllm_minimum()}, the oldest that wheels are built for",
            "3 `indexer`: DeepGEMM has kernels",
            "Triton has fp8e4nv",
            "Shared memory per block",
            "Enough for vLLM's persistent top-k",
            "The plugin acts",
        ),
        (
            (
                str(one),
                ", ".join(gpu.alias for gpu in KNOWN_GPUS if gpu.capability == one) or "none by name",
                _yes(one >= vllm_minimum()),
                _yes(deep_gemm_supports(one)),
                _yes(triton_has_e4m3(one)),
                f"{SHARED_MEMORY_PER_BLOCK[one]:,} bytes",
                _yes(has_wide_shared_memory(one)),
                _PLUGIN[plugin_serves(one)] if one >= vllm_minimum() else "no",
            )
            for one in capabilities
        ),
    )
    gpus = table(
        ("`--target`", "GPU", "Compute capability", "Memory", "Read from", "Also accepted"),
        (
            (
                code(gpu.alias),
                gpu.name,
                str(gpu.capability),
                f"{gpu.memory_gib:.2f} GiB" if gpu.memory_gib else "not known",
                gpu.memory_source,
                ", ".join(code(other) for other in gpu.others),
            )
            for gpu in KNOWN_GPUS
        ),
    )
    return page(
        "Compute capabilities and GPUs",
        "What the code holds true of a compute capability (`dsa_doctor/catalog/capability.py`). Layer 2 is not in the "
        "table: vLLM's own selector is asked for it. The installed vLLM is also asked whether DeepGEMM supports a GPU; "
        "the column counts only where it cannot be. [support-matrix.md](support-matrix.md) has the verdicts.",
        rules,
        "## GPUs",
        f"`--target` also takes a capability of the table above, as `{_example().sm}` or `{_example()}`. Memory is the "
        "total that the driver reports, not the label. `--gpu-memory GIB` says another, for a card that is not here or "
        "was rebuilt.",
        gpus,
    )


def models_page() -> str:
    """Return the models known by name."""
    geometries = [(known, known.geometry()) for known in KNOWN_MODELS]
    shapes = table(
        ("Model", "Hub id", "Layers", "Heads", "KV row", "Indexer heads", "Top-k", "Context", "Weights", "KV cache"),
        (
            (
                one.name,
                code(known.hub_id),
                str(one.num_hidden_layers),
                str(one.num_attention_heads),
                f"{one.head_size - one.qk_rope_head_dim} + {one.qk_rope_head_dim}",
                f"{one.index_n_heads} × {one.index_head_dim}",
                f"{one.index_topk:,}",
                f"{one.max_position_embeddings:,}",
                storage_of(one).name,
                f"{one.kv_cache_quantization} forced" if one.kv_cache_quantization else "free",
            )
            for known, one in geometries
        ),
    )
    sources = table(
        ("Model", "Architecture", "Source of the numbers"),
        ((one.name, code(one.architecture), one.source) for _, one in geometries),
    )
    return page(
        "Models known by name",
        "Any other DSA model is judged from its `config.json`: give its folder, the file, or its Hub id. `KV row` is"
        " the latent part plus the rope part of one token.",
        shapes,
        "## Sources",
        sources,
    )


def findings_page() -> str:
    """Return the index of the findings, one row each."""
    rows = table(
        ("Finding", "Layer", "What it is about"),
        ((f"[{known.id}]({known.id}.md)", known.layer, known.title) for known in KNOWN_FINDINGS),
    )
    return page(
        "Findings",
        "Ids are stable: they are added, never reused. DSA1xx belong to layer 1 `csrc`, DSA2xx to layer 2 `attention`,"
        " DSA3xx to "
        "layer 3 `indexer`, DSA9xx to everything else at run time. A finding passes, warns, fails, is skipped, or is"
        " unknown.",
        rows,
    )


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _example() -> Capability:
    return vllm_minimum()
