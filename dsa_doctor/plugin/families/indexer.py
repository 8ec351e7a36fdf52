"""What every family needs whose indexer is vLLM's own layer SparseAttnIndexer: its guard, logits and packing."""

import importlib
import inspect

from dsa_doctor.compat.patches import BUILDER, CUSTOM_OPS, DEEP_GEMM_ISSUE, IN_TREE_INDEXER, PACKING, Patch
from dsa_doctor.plugin.families.family import Replacement
from dsa_doctor.plugin.invariance import batch_invariant

INDEXER = "vllm.model_executor.layers.sparse_attn_indexer"

INDEXER_MODULES = (INDEXER, BUILDER, CUSTOM_OPS)
"""Modules in which `indexer_replacements` replaces something."""

INDEXER_PATCHES: tuple[Patch, ...] = (
    Patch(
        target=f"{INDEXER}:SparseAttnIndexer.__init__",
        use="relied on",
        why="the constructor whose guard is answered by the next entry",
        upstream=DEEP_GEMM_ISSUE,
        until=IN_TREE_INDEXER,
        signatures=(("self", "k_cache", "quant_block_size", "scale_fmt", "topk_tokens", "head_dim"),),
    ),
    Patch(
        target=f"{INDEXER}:has_deep_gemm",
        use="replaced",
        why="the guard asks whether DeepGEMM is installed; on 8.x it is not what serves the logits",
        upstream=DEEP_GEMM_ISSUE,
        until=IN_TREE_INDEXER,
        origin="vllm.utils.deep_gemm",
        signatures=((),),
    ),
    Patch(
        target=f"{INDEXER}:fp8_fp4_mqa_logits",
        use="replaced",
        why="DeepGEMM has no kernel for 8.x (Unsupported architecture)",
        upstream=DEEP_GEMM_ISSUE,
        until=IN_TREE_INDEXER,
        origin="vllm.utils.deep_gemm",
        signatures=(
            ("q", "kv", "weights", "cu_seqlen_ks", "cu_seqlen_ke", "clean_logits"),
            ("q", "kv", "weights", "cu_seqlen_ks", "cu_seqlen_ke", "max_seqlen_k"),
        ),
        exact=True,
    ),
    Patch(
        target=f"{INDEXER}:fp8_fp4_paged_mqa_logits",
        use="replaced",
        why="DeepGEMM has no kernel for 8.x (Unsupported architecture)",
        upstream=DEEP_GEMM_ISSUE,
        until=IN_TREE_INDEXER,
        origin="vllm.utils.deep_gemm",
        signatures=tuple(
            ("q", "kv_cache", "weights", "context_lens", "block_tables", "schedule_metadata", "max_model_len", *tail)
            for tail in (("clean_logits",), ("clean_logits", "indices"), ("indices",))
        ),
        exact=True,
    ),
    Patch(
        target=f"{INDEXER}:pack_seq_triton",
        use="replaced",
        why="Triton below 8.9 refuses the float8 query as a kernel argument",
        upstream=DEEP_GEMM_ISSUE,
        until="vLLM packs the query as bytes",
        origin=PACKING,
        signatures=(("x", "lengths", "pad_value", "block_t", "block_d"),),
        exact=True,
    ),
    Patch(
        target=f"{INDEXER}:unpack_seq_triton",
        use="replaced",
        why="its Triton kernel would compile while serving; the plugin's does not compile",
        upstream=DEEP_GEMM_ISSUE,
        until="vLLM packs the query as bytes",
        origin=PACKING,
        signatures=(("packed_tensor", "lengths", "block_t", "block_d"),),
        exact=True,
    ),
    Patch(
        target=f"{BUILDER}:DeepseekV32IndexerBackend",
        use="replaced",
        why="from 0.32 on a worker asks every layer whether it is batch-invariant; vLLM's answer is of other kernels",
        upstream="none; vLLM's batch-invariant mode has no sparse indexer",
        until="vLLM's indexer is batch-invariant by itself",
        kind="class",
    ),
)


def indexer_replacements() -> list[Replacement]:
    """Import vLLM's modules, and return what serves in place of what the indexer's layer calls."""
    import torch

    from dsa_doctor.plugin import stand_ins

    layer, builder, custom_ops = map(importlib.import_module, INDEXER_MODULES)
    compressed = "max_seqlen_k" in inspect.signature(layer.fp8_fp4_mqa_logits).parameters
    found: list[Replacement] = [
        (layer, "has_deep_gemm", stand_ins.always),
        (layer, "fp8_fp4_mqa_logits", stand_ins.compressed_mqa_logits if compressed else stand_ins.full_mqa_logits),
        (layer, "fp8_fp4_paged_mqa_logits", stand_ins.paged_mqa_logits),
        (layer, "pack_seq_triton", stand_ins.pack_sequences),
        (layer, "unpack_seq_triton", stand_ins.unpack_sequences),
        (builder, "has_deep_gemm", stand_ins.never),
        (builder.DeepseekV32IndexerBackend, "supports_batch_invariance", staticmethod(batch_invariant)),
        (custom_ops, "top_k_per_row_prefill", stand_ins.top_k_per_row_prefill),
        (custom_ops, "top_k_per_row_decode", stand_ins.top_k_per_row_decode),
        # torch keeps the ops it has looked up as attributes of the namespace; no dispatcher registration is touched.
        (torch.ops._C, "persistent_topk", stand_ins.decode_topk),
        (torch.ops._C, "cooperative_topk", stand_ins.decode_topk),
    ]
    kernel = getattr(importlib.import_module(PACKING), "_PACK_SEQ_TRITON_KERNEL", None)
    if kernel is not None:
        found.append((kernel, "register_warmup", stand_ins.no_warmup))
    return found
