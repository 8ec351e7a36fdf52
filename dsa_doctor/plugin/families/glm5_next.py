"""GLM-5.3-Flash: every fourth layer MLA over 512 values without rope, one index key for a pool of tokens.

vLLM's own classes serve it, its indexer module included. Replaced are the three functions that end in e4m3, whose
Triton kernels are refused below compute capability 8.9 (8.9 takes the same path), what gathers the tokens of a pool,
the logits, the selection and the guard. Linear attention, the copies into the tail cache (but for vLLM 0.30's) and the
expansion of pools to tokens stay vLLM's.
"""

import importlib
import inspect
from typing import Any

from dsa_doctor.compat.families.glm5_next import ATTENTIONS, INDEXERS, PACKAGE, POOLING, seeds_by_distance
from dsa_doctor.compat.patches import (
    BUILDER,
    CUSTOM_OPS,
    IN_TREE_INDEXER,
    PACKING,
    Patch,
)
from dsa_doctor.compat.sources import SourceTree
from dsa_doctor.plugin.families.family import Family, Replacement
from dsa_doctor.plugin.host import vllm_root

FAMILY_ISSUE = "vllm-project/vllm #54059"
DEEP_GEMM = "vllm.utils.deep_gemm"
_MODEL_FILES = (
    (f"{PACKAGE}.common.model", f"{PACKAGE}.nvidia.model"),
    (f"{PACKAGE}.common.mtp", f"{PACKAGE}.nvidia.mtp"),
)
_MODELS = "dsa_doctor.plugin.families.glm5_next_models"

_POOL = ("pool_size", "head_dim")


def _at(homes: tuple[str, ...], name: str) -> dict[str, Any]:
    newest, *older = (f"{home}:{name}" for home in homes)
    return {"target": newest, "elsewhere": tuple(older), "upstream": FAMILY_ISSUE, "until": IN_TREE_INDEXER}


PATCHES: tuple[Patch, ...] = (
    Patch(
        **_at(INDEXERS, "SparseAttnIndexerKpool.__init__"),
        use="relied on",
        why="the constructor whose guard is answered by the next entry",
        signatures=(("self", "k_cache", "quant_block_size", "scale_fmt", "topk_tokens", "head_dim"),),
    ),
    Patch(
        **_at(INDEXERS, "has_deep_gemm"),
        use="replaced",
        why="the guard asks whether DeepGEMM is installed; on 8.x it is not what serves the logits",
        origin=DEEP_GEMM,
        signatures=((),),
    ),
    Patch(
        **_at(INDEXERS, "sparse_attn_indexer_kpool"),
        use="relied on",
        why="calls the logits that are replaced below, by their names",
        signatures=(("hidden_states", "k_cache_prefix", "kv_cache", "q_quant", "q_scale", "k", "weights"),),
        body=(" fp8_fp4_mqa_logits(", " fp8_fp4_paged_mqa_logits(", " torch.ops._C.top_k_per_row_prefill("),
    ),
    Patch(
        **_at((*INDEXERS[:1], DEEP_GEMM), "fp8_fp4_mqa_logits"),
        use="replaced",
        why="DeepGEMM has no kernel for 8.x; releases whose indexer imports it when it runs get it where it is defined",
        origin=DEEP_GEMM,
        signatures=(
            ("q", "kv", "weights", "cu_seqlen_ks", "cu_seqlen_ke", "clean_logits"),
            ("q", "kv", "weights", "cu_seqlen_ks", "cu_seqlen_ke", "max_seqlen_k"),
        ),
        exact=True,
    ),
    Patch(
        **_at((*INDEXERS[:1], DEEP_GEMM), "fp8_fp4_paged_mqa_logits"),
        use="replaced",
        why="DeepGEMM has no kernel for 8.x; releases whose indexer imports it when it runs get it where it is defined",
        origin=DEEP_GEMM,
        signatures=tuple(
            ("q", "kv_cache", "weights", "context_lens", "block_tables", "schedule_metadata", "max_model_len", *tail)
            for tail in (("clean_logits", "indices"), ("indices",))
        ),
        exact=True,
    ),
    Patch(
        **_at(INDEXERS, "pack_seq_triton"),
        use="replaced",
        why="Triton below 8.9 refuses the float8 query as a kernel argument",
        origin=PACKING,
        signatures=(("x", "lengths", "pad_value", "block_t", "block_d"),),
        exact=True,
    ),
    Patch(
        **_at(INDEXERS, "unpack_seq_triton"),
        use="replaced",
        why="its Triton kernel would compile while serving; the plugin's does not compile",
        origin=PACKING,
        signatures=(("packed_tensor", "lengths", "block_t", "block_d"),),
        exact=True,
    ),
    Patch(
        **_at(ATTENTIONS, "_pad_indexer_heads"),
        use="replaced",
        why="torch.compile makes a Triton kernel of it that takes the float8 query, which is refused below 8.9",
        signatures=(("x", "pad"),),
        exact=True,
    ),
    Patch(
        **_at(ATTENTIONS, "fwht128_quant_fp8"),
        use="replaced",
        why="rotates and quantises the indexer's query by a Triton kernel that uses fp8e4nv, refused below 8.9",
        origin=POOLING,
        signatures=(("q",),),
        exact=True,
    ),
    Patch(
        **_at(INDEXERS, "_kpool_compress_insert"),
        use="replaced",
        why="makes the key of a pool that an earlier chunk of the prompt began of the wrong tokens, without an error",
        signatures=(("k", "gate_score", "ape", "kv_cache", "slot_mapping", "kpool", "head_dim", "round_scale"),),
        exact=True,
    ),
    Patch(
        **_at(ATTENTIONS, "Indexer"),
        use="relied on",
        why="names the cache of open pools beside that of pooled keys, where the entry above looks for earlier tokens",
        kind="class",
        body=('prefix=f"{prefix}.k_cache"', 'prefix=f"{prefix}.tail_cache"'),
    ),
    Patch(
        **_at((POOLING,), "kpool_seed_tail_cache"),
        use="replaced",
        why=(
            "loses a prompt's open pool in vLLM 0.30, and overwrites index keys: it takes blocks to lie next to each "
            "other; left alone where it asks for their distance"
        ),
        signatures=(("tail_kv_cache", "key", "gate_score", "tslot", "kpool", "head_dim"),),
        exact=True,
    ),
    Patch(
        **_at((POOLING,), "kpool_decode_update_and_maybe_write_cache_batched"),
        use="replaced",
        why="pools the index keys of a decode step by a Triton kernel that uses fp8e4nv, refused below 8.9",
        signatures=(
            (
                *("kv_cache", "tail_kv_cache", "tail_slot_mapping", "key", "slot_score", "ape"),
                *("slot_mapping", "positions", *_POOL, "round_scale"),
            ),
        ),
        exact=True,
    ),
    *(
        Patch(
            **_at(homes, name),
            use="relied on",
            why="vLLM's model class serves on 8.x, on what is replaced above",
            kind="class",
        )
        for homes, name in (
            (_MODEL_FILES[0], "Glm5NextForConditionalGeneration"),
            (_MODEL_FILES[0], "Glm5NextForCausalLM"),
            (_MODEL_FILES[1], "Glm5NextMTP"),
        )
    ),
)


def replacements() -> list[Replacement]:
    """Import vLLM's modules, and return what serves in place of what the indexer and the attention call."""
    import torch

    from dsa_doctor.plugin import pooling, stand_ins

    layer, attention = _imported(INDEXERS), _imported(ATTENTIONS)
    kernels, builder, custom_ops, deep_gemm, packing = map(
        importlib.import_module, (POOLING, BUILDER, CUSTOM_OPS, DEEP_GEMM, PACKING)
    )
    caller = layer if hasattr(layer, "fp8_fp4_mqa_logits") else deep_gemm
    compressed = "max_seqlen_k" in inspect.signature(deep_gemm.fp8_fp4_mqa_logits).parameters
    found: list[Replacement] = [
        (layer, "has_deep_gemm", stand_ins.always),
        (caller, "fp8_fp4_mqa_logits", stand_ins.compressed_mqa_logits if compressed else stand_ins.full_mqa_logits),
        (caller, "fp8_fp4_paged_mqa_logits", stand_ins.paged_mqa_logits),
        (layer, "pack_seq_triton", stand_ins.pack_sequences),
        (layer, "unpack_seq_triton", stand_ins.unpack_sequences),
        (layer, "_kpool_compress_insert", pooling.kpool_compress_insert),
        (attention, "fwht128_quant_fp8", pooling.fwht128_quant_fp8),
        (attention, "_pad_indexer_heads", pooling.pad_indexer_heads),
        (
            kernels,
            "kpool_decode_update_and_maybe_write_cache_batched",
            pooling.kpool_decode_update_and_maybe_write_cache_batched,
        ),
        (builder, "has_deep_gemm", stand_ins.never),
        (custom_ops, "top_k_per_row_prefill", stand_ins.top_k_per_row_prefill),
        (custom_ops, "top_k_per_row_decode", stand_ins.top_k_per_row_decode),
        # The indexer calls these as attributes of the namespace; no dispatcher registration is touched.
        (torch.ops._C, "top_k_per_row_prefill", stand_ins.top_k_per_row_prefill),
        (torch.ops._C, "top_k_per_row_decode", stand_ins.top_k_per_row_decode),
        (torch.ops._C, "persistent_topk", stand_ins.decode_topk),
        (torch.ops._C, "cooperative_topk", stand_ins.decode_topk),
    ]
    if not seeds_by_distance(SourceTree(vllm_root())):
        found.append((kernels, "kpool_seed_tail_cache", pooling.kpool_seed_tail_cache))
    kernel = getattr(packing, "_PACK_SEQ_TRITON_KERNEL", None)
    if kernel is not None:
        found.append((kernel, "register_warmup", stand_ins.no_warmup))
    return found


def _imported(homes: tuple[str, ...]) -> Any:
    """Import the first of the modules that this vLLM has."""
    for home in homes[:-1]:
        try:
            return importlib.import_module(home)
        except ModuleNotFoundError:
            continue
    return importlib.import_module(homes[-1])


FAMILY = Family(
    name="glm5_next",
    model_classes={
        "Glm5NextForConditionalGeneration": f"{_MODELS}:Glm5NextForConditionalGeneration",
        "Glm5NextForCausalLM": f"{_MODELS}:Glm5NextForCausalLM",
        "Glm5NextMTPModel": f"{_MODELS}:Glm5NextMTP",
    },
    patches=PATCHES,
    modules=(*INDEXERS, *ATTENTIONS, POOLING, DEEP_GEMM, BUILDER, CUSTOM_OPS),
    replacements=replacements,
    head_sizes=(512,),
)
