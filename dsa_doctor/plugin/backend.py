"""The attention backend TRITON_MLA_SPARSE: sparse MLA on dsa_kernels, in every vLLM release that has the base classes.

Everything that differs between releases is told by what the base classes offer, never by a version number.
"""

from typing import Any, ClassVar

import torch
from vllm.config import VllmConfig, get_current_vllm_config_or_none
from vllm.model_executor.layers.attention import sparse_mla_attention
from vllm.model_executor.layers.attention.sparse_mla_attention import (
    SparseMLACommonImpl,
    SparseMLACommonMetadataBuilder,
)
from vllm.platforms.interface import DeviceCapability
from vllm.v1.attention.backend import AttentionBackend, AttentionCGSupport, AttentionMetadata, MultipleOf
from vllm.v1.attention.backends.mla import sparse_utils

from dsa_doctor.catalog.capability import Capability
from dsa_doctor.plugin import indices, ops, patching, warmup
from dsa_doctor.plugin.families import FAMILIES
from dsa_doctor.plugin.host import BACKEND_NAME, acts_on
from dsa_doctor.plugin.invariance import batch_invariant
from dsa_doctor.plugin.projection import ProjectionInModelDtype
from dsa_doctor.plugin.serving import refusals
from dsa_doctor.resolver.configuration import PLUGIN_BLOCK_SIZE
from dsa_doctor.resolver.plugin_gate import PLUGIN_KV_CACHE_DTYPES

FP8_TOKEN_BYTES = 656


class TritonMLASparseBackend(AttentionBackend):  # type: ignore[misc]
    """Sparse MLA for compute capability 8.x: bf16 and fp16 KV rows of 576 or 512, and the 656-byte fp8 token."""

    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16]
    supported_kv_cache_dtypes: ClassVar[list[str]] = list(PLUGIN_KV_CACHE_DTYPES)

    @staticmethod
    def get_name() -> str:
        """Return the name that users select and logs show."""
        return BACKEND_NAME

    @staticmethod
    def get_impl_cls() -> type["TritonMLASparseImpl"]:
        """Return the implementation."""
        return TritonMLASparseImpl

    @staticmethod
    def get_builder_cls() -> type["TritonMLASparseMetadataBuilder"]:
        """Return the metadata builder."""
        return TritonMLASparseMetadataBuilder

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: Any = None) -> list[Any]:
        """Return pages of a multiple of 64 tokens.

        The kernels take any page. The indexer's cache, which shares the block table, asks for pages of 64 itself where
        a key is one token; hybrid models have blocks that cannot be split.
        """
        del kv_cache_spec
        return [MultipleOf(PLUGIN_BLOCK_SIZE)]

    @staticmethod
    def get_kv_cache_shape(
        num_blocks: int, block_size: int, num_kv_heads: int, head_size: int, cache_dtype_str: str = "auto"
    ) -> tuple[int, ...]:
        """Return the cache's shape; releases that derive it from the cache's specification do not ask."""
        del num_kv_heads
        return (num_blocks, block_size, FP8_TOKEN_BYTES if cache_dtype_str == "fp8_ds_mla" else head_size)

    @classmethod
    def customize_spec(cls, spec: Any) -> Any:
        """Ask for blocks that are whole rows apart, where this vLLM may put other layers' pages between them."""
        align = getattr(sparse_utils, "align_blocks_to_rows", None)
        return align(spec) if align is not None else spec

    @classmethod
    def get_supported_head_sizes(cls) -> list[int]:
        """Return the widths of a cache row, latent plus rope, of every family."""
        return sorted({size for family in FAMILIES for size in family.head_sizes})

    @classmethod
    def is_mla(cls) -> bool:
        """Whether it serves multi-head latent attention."""
        return True

    @classmethod
    def is_sparse(cls) -> bool:
        """Whether it reads the indexer's selection."""
        return True

    @classmethod
    def supports_compute_capability(cls, capability: DeviceCapability) -> bool:
        """Whether the plugin acts on this capability: 8.x, or anything from 8.0 up where it was forced."""
        return acts_on(Capability(capability.major, capability.minor))

    @classmethod
    def supports_batch_invariance(cls) -> bool:
        """Whether a token's result is the same bits whatever its batch: where that was asked for."""
        return batch_invariant()

    @classmethod
    def supports_combination(cls, *arguments: Any, **keywords: Any) -> str | None:
        """Return why this server's configuration cannot be served, or None."""
        del arguments, keywords  # what they hold, the current configuration says too
        vllm_config = get_current_vllm_config_or_none()
        if vllm_config is None or vllm_config.model_config is None:
            return None
        return "; ".join(refusals(vllm_config)) or None


_COMMON_METADATA: Any = getattr(sparse_mla_attention, "SparseMLACommonMetadata", None)

if _COMMON_METADATA is not None:

    class TritonMLASparseMetadata(_COMMON_METADATA):  # type: ignore[misc]
        """Metadata of one batch; this vLLM's common class has every field."""

else:

    class TritonMLASparseMetadata(AttentionMetadata):  # type: ignore[misc,no-redef]
        """Metadata of one batch, with the fields that this vLLM's common builder passes."""

        num_decodes: int = 0
        num_prefills: int = 0
        num_decode_tokens: int = 0
        prefill_max_seq_len: int = 0
        prefill: Any = None

        def __init__(self, **fields: Any) -> None:
            self.__dict__.update(fields)


class TritonMLASparseMetadataBuilder(SparseMLACommonMetadataBuilder):  # type: ignore[misc]
    """vLLM's common builder; compiles every kernel of the path before CUDA graphs are captured."""

    metadata_cls = TritonMLASparseMetadata
    _cudagraph_support: ClassVar[AttentionCGSupport] = AttentionCGSupport.UNIFORM_BATCH

    def __init__(
        self, kv_cache_spec: Any, layer_names: list[str], vllm_config: VllmConfig, device: torch.device
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self._init_reorder_batch_threshold(1, supports_spec_as_decode=True)
        layer: Any = vllm_config.compilation_config.static_forward_context[layer_names[0]]
        selection_width = layer.impl.topk_indices_buffer.shape[1]
        warmup.compile_kernels(vllm_config, kv_cache_spec, selection_width, device)


class TritonMLASparseImpl(SparseMLACommonImpl):  # type: ignore[misc]
    """Sparse MLA of decode and long prefill; short prefill stays with vLLM's dense attention (`forward_mha`)."""

    supports_dcp: bool = False
    supports_pcp: bool = False
    can_return_lse_for_decode: bool = False

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        alibi_slopes: list[float] | None,
        sliding_window: int | None,
        kv_cache_dtype: str,
        logits_soft_cap: float | None,
        attn_type: str,
        kv_sharing_target_layer_name: str | None,
        **mla_arguments: Any,
    ) -> None:
        if any((alibi_slopes, sliding_window, logits_soft_cap)):
            raise NotImplementedError(f"{BACKEND_NAME} has no ALiBi, sliding window or logits soft cap")
        if kv_cache_dtype not in PLUGIN_KV_CACHE_DTYPES:
            accepted = ", ".join(PLUGIN_KV_CACHE_DTYPES)
            raise NotImplementedError(f"{BACKEND_NAME}: --kv-cache-dtype {kv_cache_dtype}; accepted: {accepted}")
        if not patching.is_applied():
            raise RuntimeError(
                f"{BACKEND_NAME} was selected, but this process's indexer was not patched: the model class did not "
                "come from dsa-doctor's plugin. Leave model_class_overrides and other model plugins out, or set "
                "DSA_DOCTOR_PLUGIN=off."
            )
        super().__init__(
            num_heads,
            head_size,
            scale,
            num_kv_heads,
            alibi_slopes,
            sliding_window,
            kv_cache_dtype,
            logits_soft_cap,
            attn_type,
            kv_sharing_target_layer_name,
            **mla_arguments,
        )
        if self.topk_indices_buffer is None:
            raise RuntimeError(
                f"{BACKEND_NAME} needs the indexer's buffer of selected indices, and the layer gave none"
            )
        self.supports_quant_query_input = False
        self.kv_format = "fp8_ds_mla" if kv_cache_dtype == "fp8_ds_mla" else "bf16"
        self.kv_b_proj: Any = ProjectionInModelDtype(mla_arguments["kv_b_proj"])

    def forward_mqa(
        self,
        q: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        kv_c_and_k_pe_cache: torch.Tensor,
        attn_metadata: Any,
        layer: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend each token to the rows that the indexer selected for it.

        Args:
            q: (latent query [T, H, 512], rope query [T, H, 64 or 0]).
            kv_c_and_k_pe_cache: [num_blocks, page_size, 576 or 512], or [num_blocks, page_size, 656] uint8; blocks may
                lie apart.
            attn_metadata: this batch's metadata.
            layer: not used.

        Returns:
            The latent output [T, H, 512], and None: no caller merges it with another rank's.
        """
        del layer
        query = torch.cat(q, dim=-1) if isinstance(q, tuple) else q  # [T, H, 576 or 512]
        assert self.topk_indices_buffer is not None
        selected = self.topk_indices_buffer[: query.shape[0]]  # [T, width], request-local
        rows, counts = indices.to_cache_rows(
            attn_metadata.req_id_per_token[: query.shape[0]],
            attn_metadata.block_table,
            selected,
            kv_c_and_k_pe_cache.shape[1],
        )
        out = ops.sparse_mla_with_kvcache(
            query, kv_c_and_k_pe_cache.unsqueeze(2), rows.unsqueeze(1), self.scale, self.kv_format, counts
        )
        return out, None
