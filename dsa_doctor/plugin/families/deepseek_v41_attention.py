"""DeepSeek-V4.1's attention on dsa_kernels: as DeepSeek-V4's, with rows and selections of another layer."""

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context
from vllm.models.deepseek_v4.common.ops import cache_utils
from vllm.models.deepseek_v41.attention import DeepseekV4Attention
from vllm.models.deepseek_v41.sparse_mla import (
    DeepseekV4SparseMLABackend,
    DeepseekV41SparseSWAMetadataBuilder,
)
from vllm.v1.attention.backends.mla.sparse_swa import DeepseekSparseSWABackend

from dsa_doctor.plugin import indices, ops
from dsa_doctor.plugin.families.deepseek_v4_shared import AsksForInvariance, PlainRowsAttention, PlainRowsBackend
from dsa_doctor.plugin.families.deepseek_v4_weights import keep_as_stored_values
from dsa_doctor.plugin.families.deepseek_v41_warmup import compile_kernels
from dsa_doctor.plugin.host import BACKEND_NAME


class WindowMetadataBuilder(DeepseekV41SparseSWAMetadataBuilder):  # type: ignore[misc]
    """vLLM's builder of the sliding window, without FlashMLA's schedules: its library may not even load.

    Every layer has a window, so it compiles every kernel of the path before CUDA graphs are captured.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        (page,) = CompressedBackend.get_supported_kernel_block_sizes()
        compile_kernels(self.vllm_config, self.block_size, page, self.device)

    def build_tile_scheduler(self, num_decode_tokens: int) -> dict[str, Any]:
        """Return no schedule for any kind of layer, as vLLM's own builder does for a step that decodes nothing."""
        del num_decode_tokens
        return dict(super().build_tile_scheduler(0))


class WindowBackend(AsksForInvariance, DeepseekSparseSWABackend):  # type: ignore[misc]
    """The cache of the sliding window."""

    @staticmethod
    def get_builder_cls() -> type[WindowMetadataBuilder]:
        """Return the metadata builder."""
        return WindowMetadataBuilder


class CompressedBackend(PlainRowsBackend, DeepseekV4SparseMLABackend):  # type: ignore[misc]
    """Sparse MLA over two sources of bf16 rows, for compute capability 8.x."""

    @staticmethod
    def get_name() -> str:
        """Return the name that logs show."""
        return f"{BACKEND_NAME}_DSV41"


class TritonDeepseekV41Attention(PlainRowsAttention, DeepseekV4Attention):  # type: ignore[misc]
    """vLLM's attention layer of DeepSeek-V4.1 with plain bf16 rows, on dsa_kernels."""

    backend_cls = CompressedBackend
    swa_backend_cls = WindowBackend

    def __init__(self, vllm_config: VllmConfig, *arguments: Any, **keywords: Any) -> None:
        super().__init__(vllm_config, *arguments, **keywords)
        keep_as_stored_values(self.wo_a)
        if self.compress_ratio > 0 and vllm_config.kernel_config.enable_jit_warmup:
            cache_utils._COMPUTE_GLOBAL_TOPK_INDICES_AND_LENS_KERNEL.register_warmup()

    def forward_mqa(self, q: torch.Tensor, kv: torch.Tensor, positions: torch.Tensor, output: torch.Tensor) -> None:
        """Attend each token to its window and to the compressed rows that its index source selected.

        Args:
            q: [T, H, 512] bf16, normalised and rotated; rows beyond the step's tokens are padding of a graph.
            kv: not read; its rows are in the cache.
            positions: not read here.
            output: [T, H, 512] bf16, written; padding is left alone.
        """
        del kv, positions
        every = get_forward_context().attn_metadata
        if not isinstance(every, dict):  # memory profiling: there is no cache yet
            output.zero_()
            return
        window = every[self.swa_cache_layer.prefix]
        decoded, prefilled = window.num_decode_tokens, window.num_prefill_tokens
        cache = self.swa_cache_layer.kv_cache.unsqueeze(2)
        selected = self._selected(window, every)
        steps = (
            (slice(0, decoded), window.decode_swa_indices, window.decode_swa_lens),
            (slice(decoded, decoded + prefilled), window.prefill_swa_indices, window.prefill_swa_lens),
        )
        for tokens, rows, counts in steps:
            if tokens.start == tokens.stop:
                continue
            chosen = None if selected is None else (selected[0], selected[1][tokens], selected[2][tokens])
            ops.window_and_selected_mla(
                q[tokens], (cache, rows, counts), chosen, self.scale, self.attn_sink, output[tokens]
            )

    def _selected(self, window: Any, every: dict[str, Any]) -> ops.RowSource | None:
        """Return the compressed rows that the tokens attend to, decoded ones first; None where the layer has none."""
        if self.compress_ratio == 0:
            return None
        cache = self._compressed_kv_cache().unsqueeze(2)
        tokens = window.num_decode_tokens + window.num_prefill_tokens
        rows, counts = indices.compressed_rows(
            self.topk_indices_buffer[:tokens],
            window.token_to_req_indices[:tokens],
            every[self.compressed_cache_prefix].block_table,
            cache.shape[1],
            window.is_valid_token[:tokens],
        )
        return cache, rows.unsqueeze(1), counts

    def _o_proj(self, attn_out: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Rotate the output back by its query's position, and project it: group by group, then all groups at once.

        Args:
            attn_out: [T, H, 512] bf16.
            positions: [T] int64.
        """
        # From 0.31 on a fused product may add up over the ranks.
        project: Any = getattr(self, "_wo_b_proj", self.wo_b)
        return project(self.grouped_projection(attn_out, positions))
