"""The compiled ops that a DSA model may call in vLLM on CUDA, with the part each plays and the kernels it launches.

Source: the call sites in vLLM 0.26.0 to 0.33.0 (`vllm/_custom_ops.py`, `model_executor/layers/sparse_attn_indexer.py`,
`model_executor/layers/attention/mla_attention.py`, `model_executor/models/deepseek_v2.py`,
`model_executor/layers/quantization/`, `model_executor/layers/fused_moe/`), and the kernel names in the compiled
extensions of 0.26.0, 0.32.0 and 0.33.0. Tests look each of these up in the installed vLLM.
"""

from dataclasses import dataclass
from typing import Literal

Role = Literal["required", "optional", "guarded"]


@dataclass(frozen=True)
class OpNeed:
    """One op.

    Attributes:
        op: qualified name.
        role: `required` on the DSA path under `when`; `optional`: a setting or another op takes its place; `guarded`:
            vLLM itself checks the capability before it calls the op, so a GPU without code for it is no fault.
        when: the condition under which it is called, in words.
        kernels: qualified C++ names of the kernels it launches; one in an image means that the image serves the op.
        families: keys of the model families that call it (`dsa_doctor.compat.families`); empty means every one.
    """

    op: str
    role: Role
    when: str
    kernels: tuple[str, ...]
    families: tuple[str, ...] = ()


_MLA = ("mla", "glm5_next")
_V4 = ("deepseek_v4", "deepseek_v41")

DSA_OPS: tuple[OpNeed, ...] = (
    # The indexer's key cache and the latent KV cache.
    OpNeed(
        "_C_cache_ops::indexer_k_quant_and_cache",
        "required",
        "always",
        ("vllm::indexer_k_quant_and_cache_kernel",),
        families=_MLA,
    ),
    OpNeed(
        "_C_cache_ops::cp_gather_indexer_k_quant_cache",
        "required",
        "prefill",
        ("vllm::cp_gather_indexer_k_quant_cache_kernel",),
    ),
    OpNeed(
        "_C_cache_ops::concat_and_cache_mla",
        "required",
        "always",
        ("vllm::concat_and_cache_mla_kernel", "vllm::concat_and_cache_ds_mla_kernel"),
        families=_MLA,
    ),
    OpNeed(
        "_C_cache_ops::gather_and_maybe_dequant_cache",
        "required",
        "dense prefill over cached context",
        ("vllm::gather_and_maybe_dequant_cache", "vllm::gather_and_maybe_dequant_cache_page"),
        families=_MLA,
    ),
    OpNeed(
        "_C_cache_ops::cp_gather_cache",
        "optional",
        "context parallelism",
        ("vllm::cp_gather_cache", "vllm::cp_gather_cache_page"),
    ),
    OpNeed(
        "_C_cache_ops::cp_gather_and_upconvert_fp8_kv_cache",
        "optional",
        "prefill from an fp8_ds_mla cache",
        ("vllm::cp_gather_and_upconvert_fp8_kv_cache", "vllm::cp_gather_and_upconvert_fp8_kv_cache_page"),
    ),
    # Top-k over the indexer's logits.
    OpNeed("_C::top_k_per_row_prefill", "required", "prefill", ("vllm::topKPerRowPrefill",)),
    OpNeed(
        "_C::top_k_per_row_decode", "required", "decode, unless persistent_topk serves", ("vllm::topKPerRowDecode",)
    ),
    OpNeed(
        "_C::persistent_topk",
        "required",
        "decode with index_topk 512, 1024 or 2048",
        ("vllm::persistent::persistent_topk_kernel",),
    ),
    OpNeed(
        "_C::cooperative_topk",
        "guarded",
        "decode on compute capability 9.0 or 10.x",
        ("vllm::cooperative::cooperative_topk_cs2", "vllm::cooperative::cooperative_topk_cs4"),
    ),
    # Projections and routing.
    OpNeed(
        "_C::dsv3_fused_a_gemm",
        "guarded",
        "few tokens on compute capability 9.0 or 10.x",
        ("fused_a_gemm_kernel",),
        families=_MLA,
    ),
    OpNeed(
        "_C::fp32_router_gemm", "guarded", "few tokens on compute capability 9.0 or above", ("fp32_router_gemm_kernel",)
    ),
    OpNeed(
        "_moe_C::grouped_topk",
        "required",
        "expert routing",
        ("vllm::moe::grouped_topk_fused_kernel", "vllm::moe::grouped_topk_fused_small_expert_count_kernel"),
        families=_MLA,
    ),
    OpNeed("_moe_C::topk_sigmoid", "optional", "expert routing without groups", ("vllm::moe::topkGating",)),
    OpNeed("_moe_C::moe_align_block_size", "required", "experts", ("vllm::moe::moe_align_block_size_kernel",)),
    OpNeed("_moe_C::moe_sum", "required", "experts", ("vllm::moe::moe_sum_kernel", "vllm::moe::moe_sum_scalar_kernel")),
    # Weights in FP8 where the GPU has no FP8 matrix units.
    OpNeed("_C::marlin_gemm", "required", "FP8 weights below sm89", ("marlin::Marlin",)),
    OpNeed("_C::gptq_marlin_repack", "required", "FP8 weights below sm89", ("marlin::gptq_marlin_repack_kernel",)),
    OpNeed("_moe_C::moe_wna16_marlin_gemm", "required", "FP8 experts below sm89", ("marlin_moe_wna16::Marlin",)),
    # Quantisation.
    OpNeed("_C::per_token_group_fp8_quant", "required", "indexer queries", ("per_token_group_quant_8bit_kernel",)),
    OpNeed(
        "_C::dynamic_per_token_scaled_fp8_quant",
        "optional",
        "FP8 activations",
        ("vllm::dynamic_per_token_scaled_fp8_quant_kernel_strided",),
    ),
    # Norms, rotary embedding, activations, merging of partial attention.
    OpNeed("_C::rms_norm", "required", "always", ("vllm::rms_norm_kernel",)),
    OpNeed("_C::fused_add_rms_norm", "required", "always", ("vllm::fused_add_rms_norm_kernel",)),
    OpNeed("_C::rotary_embedding", "required", "always", ("vllm::rotary_embedding_kernel",)),
    OpNeed("_C::silu_and_mul", "required", "always", ("vllm::act_and_mul_kernel",)),
    OpNeed(
        "_C::merge_attn_states",
        "required",
        "dense prefill over cached context",
        ("vllm::merge_attn_states_kernel",),
        families=_MLA,
    ),
    # DeepSeek-V4's own cache and router.
    OpNeed(
        "_C::fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert",
        "required",
        "always, unless the cache is bf16",
        (
            "vllm::deepseek_v4_fused_ops::fusedDeepseekV4QNormRopeKVRopeQuantInsertKernel",
            "vllm::deepseek_v4_fused_ops::fusedDeepseekV4QNormRopeKVRopeQuantInsertKernelReducedGrid",
        ),
        families=_V4,
    ),
    OpNeed(
        "_C::fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_bf16_insert",
        "optional",
        "a bf16 cache",
        ("vllm::deepseek_v4_fused_ops::fusedDeepseekV4FullCacheKernel",),
        families=_V4,
    ),
    OpNeed(
        "_moe_C::topk_softplus_sqrt",
        "required",
        "expert routing",
        ("vllm::moe::topkGatingSoftplusSqrt",),
        families=_V4,
    ),
)
"""In the order in which a forward pass groups them."""
