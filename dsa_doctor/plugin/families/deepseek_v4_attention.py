"""DeepSeek-V4's attention on dsa_kernels: sliding-window rows and compressed rows of bf16, read where they lie.

Prefill and decode take the same way: per token the rows of its window and of its selection, under one softmax.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context
from vllm.models.deepseek_v4.attention import DeepseekV4Attention
from vllm.models.deepseek_v4.common.ops import cache_utils
from vllm.models.deepseek_v4.sparse_mla import (
    DeepseekV4FlashMLAMetadata,
    DeepseekV4SparseMLABackend,
    DeepseekV4SparseMLAMetadataBuilder,
)
from vllm.v1.attention.backends.mla.sparse_swa import DeepseekSparseSWABackend, DeepseekSparseSWAMetadataBuilder

from dsa_doctor.plugin import indices, ops
from dsa_doctor.plugin.families.deepseek_v4_shared import AsksForInvariance, PlainRowsAttention, PlainRowsBackend
from dsa_doctor.plugin.families.deepseek_v4_warmup import compile_kernels
from dsa_doctor.plugin.families.deepseek_v4_weights import keep_as_stored_values
from dsa_doctor.plugin.host import BACKEND_NAME


class WindowMetadataBuilder(DeepseekSparseSWAMetadataBuilder):  # type: ignore[misc]
    """vLLM's builder of the sliding window, without FlashMLA's schedules: its library may not even load.

    Every layer has a window, so it compiles every kernel of the path before CUDA graphs are captured.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        [block] = DeepseekV4SparseMLABackend.get_supported_kernel_block_sizes()
        compile_kernels(self.vllm_config, self.block_size, block, self.device)

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


@dataclass
class CompressedMetadata(DeepseekV4FlashMLAMetadata):  # type: ignore[misc]
    """Metadata of one step over compressed rows.

    Attributes:
        prefill_rows: [prefill tokens, 1, width] int32 rows of the cache, of a layer that attends to all of them;
            None where the layer selects, or nothing is prefilled.
        prefill_counts: [prefill tokens] int32, how many of `prefill_rows` each token attends to.
    """

    prefill_rows: torch.Tensor | None = None
    prefill_counts: torch.Tensor | None = None


class CompressedMetadataBuilder(DeepseekV4SparseMLAMetadataBuilder):  # type: ignore[misc]
    """vLLM's builder; turns a prefill's positions among the compressed rows into rows of the cache, once a step."""

    def build(self, common_prefix_len: int, common_attn_metadata: Any, fast_build: bool = False) -> CompressedMetadata:
        """Return the metadata of one step; arguments as in vLLM's builder."""
        found = super().build(common_prefix_len, common_attn_metadata, fast_build)
        made = CompressedMetadata(**{one.name: getattr(found, one.name) for one in fields(found)})
        everything = made.c128a_prefill_topk_indices
        if everything is not None:
            decoded = made.c128a_global_decode_topk_indices
            first, tokens = decoded.shape[0] if decoded is not None else 0, everything.shape[0]
            page_size = made.block_size // self.compress_ratio
            requests = made.req_id_per_token[first : first + tokens]
            made.prefill_rows = indices.all_rows(requests, made.block_table, page_size, out=everything).unsqueeze(1)
            positions = common_attn_metadata.positions[first : first + tokens]
            made.prefill_counts = ((positions + 1) // self.compress_ratio).to(torch.int32)
        return made


class CompressedBackend(PlainRowsBackend, DeepseekV4SparseMLABackend):  # type: ignore[misc]
    """Sparse MLA over two sources of bf16 rows, for compute capability 8.x."""

    @staticmethod
    def get_name() -> str:
        """Return the name that logs show."""
        return f"{BACKEND_NAME}_DSV4"

    @staticmethod
    def get_builder_cls() -> type[CompressedMetadataBuilder]:
        """Return the metadata builder."""
        return CompressedMetadataBuilder


class TritonDeepseekV4Attention(PlainRowsAttention, DeepseekV4Attention):  # type: ignore[misc]
    """vLLM's attention layer of DeepSeek-V4 with plain bf16 rows, on dsa_kernels."""

    backend_cls = CompressedBackend
    swa_backend_cls = WindowBackend

    def __init__(self, vllm_config: VllmConfig, *arguments: Any, **keywords: Any) -> None:
        super().__init__(vllm_config, *arguments, **keywords)
        keep_as_stored_values(self.wo_a)
        registered = getattr(cache_utils, "_COMPUTE_GLOBAL_TOPK_INDICES_AND_LENS_KERNEL", None)
        if registered is not None and self.compress_ratio == 4 and vllm_config.kernel_config.enable_jit_warmup:
            registered.register_warmup()

    def forward_mqa(self, q: torch.Tensor, kv: torch.Tensor, positions: torch.Tensor, output: torch.Tensor) -> None:
        """Attend each token to its window and to its selected compressed rows.

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
        selected = self._selected(window, every.get(self.prefix))
        if decoded:
            source = (cache, window.decode_swa_indices, window.decode_swa_lens)
            ops.window_and_selected_mla(q[:decoded], source, selected[0], self.scale, self.attn_sink, output[:decoded])
        if prefilled:
            tokens = slice(decoded, decoded + prefilled)
            source = (cache, window.prefill_swa_indices, window.prefill_swa_lens)
            ops.window_and_selected_mla(q[tokens], source, selected[1], self.scale, self.attn_sink, output[tokens])

    def _selected(self, window: Any, compressed: Any) -> tuple[ops.RowSource | None, ops.RowSource | None]:
        """Return the compressed rows that the decoded and that the prefilled tokens attend to."""
        if self.compress_ratio <= 1:
            return None, None
        cache = self.kv_cache.unsqueeze(2)
        if self.compress_ratio != 4:
            return (
                (cache, compressed.c128a_global_decode_topk_indices, compressed.c128a_decode_topk_lens),
                (cache, compressed.prefill_rows, compressed.prefill_counts),
            )
        decoded = window.num_decode_tokens
        tokens = decoded + window.num_prefill_tokens
        rows, counts = indices.compressed_rows(
            self.topk_indices_buffer[:tokens],
            window.token_to_req_indices[:tokens],
            compressed.block_table,
            compressed.block_size // self.compress_ratio,
            window.is_valid_token[:tokens],
        )
        rows = rows.unsqueeze(1)
        return (cache, rows[:decoded], counts[:decoded]), (cache, rows[decoded:], counts[decoded:])

    def _o_proj(self, o: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Rotate the output back by its query's position, and project it: group by group, then all groups at once.

        Args:
            o: [T, H, 512] bf16.
            positions: [T] int64.
        """
        return self.wo_b(self.grouped_projection(o, positions))
