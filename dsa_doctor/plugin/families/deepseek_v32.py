"""DeepSeek-V3.2 and GLM-5.x: MLA over 512+64 rows, and an indexer whose keys are one row a token.

They are served by vLLM's own generic model classes. The newest CUDA-specific classes are passed over: their fused query
and norm kernels take float8e4nv pointers, which Triton refuses below compute capability 8.9.
"""

import importlib

from dsa_doctor.compat.patches import DEEP_GEMM_ISSUE, IN_TREE_INDEXER, Patch
from dsa_doctor.plugin.families.family import Family, Replacement
from dsa_doctor.plugin.families.indexer import INDEXER, INDEXER_MODULES, INDEXER_PATCHES, indexer_replacements

GENERIC_MODEL = "vllm.model_executor.models.deepseek_v2"

_MODELS = "dsa_doctor.plugin.families.deepseek_v32_models"

PATCHES: tuple[Patch, ...] = (
    *INDEXER_PATCHES,
    Patch(
        target=f"{GENERIC_MODEL}:fused_indexer_q_rope_quant",
        use="replaced",
        why="the fused query kernel casts to float8e4nv, which Triton below 8.9 refuses; dsa_kernels has the same op",
        upstream=DEEP_GEMM_ISSUE,
        until=IN_TREE_INDEXER,
        origin=INDEXER,
        signatures=(("positions", "q", "cos_sin_cache", "weights", "softmax_scale", "head_scale", "is_neox"),),
        exact=True,
    ),
    Patch(
        target=f"{GENERIC_MODEL}:Indexer",
        use="relied on",
        why="calls what the entry above replaces, by its name in this module",
        upstream=DEEP_GEMM_ISSUE,
        until=IN_TREE_INDEXER,
        kind="class",
        body="= fused_indexer_q_rope_quant(",
    ),
    *(
        Patch(
            target=target,
            use="relied on",
            why="the generic model class that serves on 8.x; the CUDA-specific one needs float8e4nv kernels",
            upstream=DEEP_GEMM_ISSUE,
            until=IN_TREE_INDEXER,
            kind="class",
        )
        for target in (
            f"{GENERIC_MODEL}:GlmMoeDsaForCausalLM",
            f"{GENERIC_MODEL}:DeepseekV3ForCausalLM",
            "vllm.model_executor.models.deepseek_mtp:DeepSeekMTP",
        )
    ),
)


def replacements() -> list[Replacement]:
    """Import vLLM's modules, and return what serves in place of what the indexer and the model call."""
    from dsa_doctor.plugin import stand_ins

    generic = importlib.import_module(GENERIC_MODEL)
    query: Replacement = (generic, "fused_indexer_q_rope_quant", stand_ins.fused_indexer_q_rope_quant)
    return [*indexer_replacements(), query]


FAMILY = Family(
    name="deepseek_v32",
    model_classes={
        "GlmMoeDsaForCausalLM": f"{_MODELS}:GlmMoeDsaForCausalLM",
        "DeepseekV32ForCausalLM": f"{_MODELS}:DeepseekV32ForCausalLM",
        "DeepseekV32MTPModel": f"{_MODELS}:DeepSeekMTP",
    },
    patches=PATCHES,
    modules=(*INDEXER_MODULES, GENERIC_MODEL),
    replacements=replacements,
    head_sizes=(576,),
)
