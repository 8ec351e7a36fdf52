"""The functions that stand in for what vLLM's DeepSeek-V4 calls, each with the signature of what it replaces.

vLLM keeps orchestrating: projections, states, metadata and schedules are its own. Served here are the compressor, the
indexer's query and the mHC product; the attention is in `deepseek_v4_attention`.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from dsa_doctor.plugin import ops


def fused_indexer_q_rope_quant(
    positions: torch.Tensor,
    index_q: torch.Tensor,
    index_q_cos_sin_cache: torch.Tensor,
    index_weights: torch.Tensor,
    index_weights_softmax_scale: float,
    index_weights_head_scale: float,
    use_fp4: bool = False,
    output_buffers: Any = None,
    weights_out_dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Serve vLLM's function of the same name: rope of the last dimensions, e4m3, and the weights of the query.

    Raises:
        NotImplementedError: an fp4 query or other than fp32 weights were asked for; both go with an fp4 indexer cache.
    """
    del output_buffers  # vLLM gives them for fp4 alone
    if use_fp4 or weights_out_dtype is not torch.float32:
        raise NotImplementedError(
            "dsa-doctor's indexer has an fp8 query alone; serve with the default fp8 indexer cache"
        )
    return ops.fused_indexer_q_rope_quant(
        positions,
        index_q,
        index_q_cos_sin_cache,
        index_weights,
        index_weights_softmax_scale,
        index_weights_head_scale,
        is_neox=False,
        rope_last=True,
    )


def compress_norm_rope_store(
    state_cache: torch.Tensor,
    num_actual: int,
    token_to_req_indices: torch.Tensor,
    positions: torch.Tensor,
    slot_mapping: torch.Tensor,
    block_table: torch.Tensor,
    block_size: int,
    state_width: int,
    cos_sin_cache: torch.Tensor,
    kv_cache: torch.Tensor,
    k_cache_metadata: Any,
    pdl_kwargs: dict[str, Any],
    head_dim: int,
    rope_head_dim: int,
    compress_ratio: int,
    overlap: bool,
    use_fp4_cache: bool,
    rms_norm_weight: torch.Tensor,
    rms_norm_eps: float,
    quant_block: int,
    token_stride: int,
    scale_dim: int,
    **full_cache: Any,
) -> None:
    """Serve the compressor's last step, of the latent rows (head_dim 512) and of the indexer's keys (128).

    The widths and strides that vLLM gives besides are those of the tensors.

    Raises:
        NotImplementedError: the cache is not of plain bf16 rows, or the indexer's is fp4.
    """
    del block_size, state_width, pdl_kwargs, rope_head_dim, quant_block, token_stride, scale_dim, full_cache
    rows = head_dim == 512
    if use_fp4_cache or kv_cache.dtype is not (torch.bfloat16 if rows else torch.uint8):
        raise NotImplementedError(
            f"dsa-doctor compresses DeepSeek-V4 into bf16 rows and fp8 index keys; the cache is {kv_cache.dtype}, of "
            f"{head_dim} values a row. Serve with --kv-cache-dtype auto."
        )
    ops.compress_norm_rope_store(
        state_cache,
        token_to_req_indices[:num_actual],
        positions[:num_actual],
        slot_mapping,
        block_table,
        rms_norm_weight,
        rms_norm_eps,
        cos_sin_cache,
        kv_cache,
        k_cache_metadata.slot_mapping[:num_actual],
        compress_ratio,
        overlap,
    )


def tf32_hc_prenorm_gemm(
    x: torch.Tensor, fn: torch.Tensor, out: torch.Tensor, sqrsum: torch.Tensor, num_split: int
) -> None:
    """Serve DeepGEMM's function of the same name: x · fnᵀ and the sum of squares of x, in `num_split` parts."""
    ops.hc_prenorm_gemm(x, fn, out, sqrsum, num_split)


class PrenormGemm:
    """Serves vLLM's TileLang kernel of the same product, which reads its matrix anew for every token or two."""

    def __call__(
        self,
        x: torch.Tensor,
        fn: torch.Tensor,
        out: torch.Tensor,
        sqrsum: torch.Tensor,
        hidden_size: int,
        hc_mult: int,
        **tiles: int,
    ) -> None:
        """Write the product and the sum of squares, in as many parts as `out` has."""
        del hidden_size, hc_mult, tiles  # the tensors carry the first two; tiles are the other kernel's
        ops.hc_prenorm_gemm(x, fn, out, sqrsum, out.shape[0])

    def register_warmup(self, *_arguments: Any, **_keywords: Any) -> None:
        """Register nothing: the attention's builder compiles the kernel."""


def plain_in_windows(build: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap vLLM's making of a layer's rope: a layer of a sliding window gets YaRN that stretches nothing.

    vLLM 0.30 and newer do the same; the class of the rope, and the form of its table, stay those of the other layers.
    """

    def build_deepseek_v4_rope(config: Any, *, max_position_embeddings: int, compress_ratio: int, **sizes: Any) -> Any:
        parameters = dict(config.rope_parameters)  # vLLM writes into it
        if compress_ratio < 2 and parameters["rope_type"] != "default":
            parameters |= {"factor": 1.0, "original_max_position_embeddings": max_position_embeddings}
        alike = SimpleNamespace(
            rope_parameters=parameters, rope_theta=config.rope_theta, compress_rope_theta=config.compress_rope_theta
        )
        return build(alike, max_position_embeddings=max_position_embeddings, compress_ratio=compress_ratio, **sizes)

    return build_deepseek_v4_rope


def unknown_boundary(metadata: Any) -> None:
    """Answer whether a group of 128 tokens ends in this step: not known, so that the compressor is always called.

    A graph that is captured in a step without one would leave the compressor out of every replay.
    """
    del metadata
