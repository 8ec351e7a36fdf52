"""DeepSeek-V4, V4-Flash, V4-Pro: sparse MLA over a sliding window and a compressed cache, with an indexer of its own.

Its layers never ask vLLM's selector. The order of the needs is that of a first forward pass.
"""

from dsa_doctor.compat.families.base import ATTENTION_CLASS, TILELANG_MHC, Family, Need
from dsa_doctor.compat.sources import SourceTree

_V4 = "vllm.models.deepseek_v4"
ROPE = f"{_V4}.common.rope"
_PICKER = f"{_V4}.nvidia.model:_select_dsv4_attn_cls"
INDEXER_QUERY = Need(
    "indexer",
    f"{_V4}.common.ops.fused_indexer_q:fused_indexer_q_rope_quant",
    r"has_cutedsl\(\)|float8_e4m3fn|fp8_dtype\(\)",
    "e4m3",
    "rotates and quantises the indexer's query by a CuTe or Triton kernel that converts to e4m3",
)
OUTPUT_PROJECTION = Need(
    "attention",
    f"{_V4}.nvidia.ops.o_proj:deep_gemm_fp8_o_proj",
    r"fused_inv_rope_fp8_quant\(",
    "e4m3",
    "rotates the attention's output back and quantises it by a Triton kernel that uses fp8e4nv",
)

FAMILY = Family(
    key="deepseek_v4",
    title="DeepSeek-V4",
    architectures=("DeepseekV4ForCausalLM", "DeepseekV4ForConditionalGeneration"),
    drafts=("DeepSeekV4MTPModel", "DSparkDraftModel"),
    model_types=("deepseek_v4",),
    sm120_kernels="DSV4",
    picker=_PICKER,
    needs=(
        Need(
            "attention",
            f"{_V4}.nvidia.model:DeepseekV4DecoderLayer",
            r"mhc_fused_post_pre_tilelang\(",
            "cuda_compiler",
            TILELANG_MHC,
        ),
        Need(
            "attention",
            "vllm.model_executor.kernels.mhc.tilelang:mhc_pre_broadcast_tilelang",
            r"use_tilelang_fallback=False|tf32_hc_prenorm_gemm\(",
            "deep_gemm",
            "mixes the first layer's residual streams (mHC) by DeepGEMM's tf32_hc_prenorm_gemm, without fallback",
        ),
        INDEXER_QUERY,
        Need(
            "attention",
            f"{_V4}.compressor:DeepseekCompressor",
            r"sparse_attn_compress_cutedsl",
            "e4m3",
            "compresses the latent cache by a CuTe kernel whose module converts to e4m3, whatever the cache's dtype",
        ),
        Need(
            "indexer",
            f"{_V4}.common.ops.fused_compress_quant_cache:",
            r"tl\.float8e4nv",
            "e4m3",
            "compresses the indexer's keys by a Triton kernel that uses fp8e4nv",
        ),
        Need("attention", _PICKER, "return ", "backend", ATTENTION_CLASS),
        OUTPUT_PROJECTION,
    ),
)


def windows_by_yarn(tree: SourceTree) -> bool | None:
    """Whether layers of a sliding window are rotated by YaRN like those with compressed rows; None without the family.

    The checkpoints' own code, and vLLM from 0.30 on, rotates them plainly.
    """
    if tree.parameters(ROPE, "build_deepseek_v4_rope") is None:
        return None
    return tree.mentions(ROPE, "build_deepseek_v4_rope", 'if rope_parameters["rope_type"] != "default":')
