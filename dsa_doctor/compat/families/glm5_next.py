"""GLM-5.3-Flash: every fourth layer MLA without rope, index keys pooled; the selector is asked for those layers."""

from typing import Literal

from dsa_doctor.compat.families.base import TILELANG_MHC, Family, Need
from dsa_doctor.compat.sources import SourceTree

PACKAGE = "vllm.models.glm5next"
ATTENTIONS = (f"{PACKAGE}.common.attention", f"{PACKAGE}.nvidia.attention")
"""Where the attention is, the newest home first."""
INDEXERS = (f"{PACKAGE}.nvidia.sparse_indexer", "vllm.model_executor.layers.sparse_attn_indexer_kpool")
"""Where the indexer's op is, the newest home first."""
POOLING = f"{PACKAGE}.nvidia.ops.kpool_compress"
_OF_ONE_CHUNK = ("k", "gate_score", "ape", "kv_cache", "slot_mapping", "kpool", "head_dim", "round_scale")
"""What vLLM's pooling of a prefill is given where it cannot see what an earlier chunk of the prompt left open."""

FAMILY = Family(
    key="glm5_next",
    title="GLM-5.3-Flash",
    architectures=("Glm5NextForCausalLM", "Glm5NextForConditionalGeneration"),
    drafts=("Glm5NextMTPModel",),
    model_types=("glm5_next", "glm5_next_text"),
    sm120_kernels="GLM53_NOPE",
    needs=(
        Need(
            "attention",
            "vllm.model_executor.layers.mhc:MHCPostOp",
            r"mhc_post_tilelang\(",
            "cuda_compiler",
            TILELANG_MHC,
        ),
        Need(
            "indexer",
            f"{POOLING}:",
            r"float8e4nv|\.to\(tl\.float8|fp8",
            "e4m3",
            "rotates the indexer's queries and pools its keys by Triton kernels that write e4m3",
        ),
    ),
)


def open_pools_keep_drafts(tree: SourceTree) -> bool | None:
    """Whether the ring of a request's open pool has room for drafts that are rejected; None without the family.

    Where it holds one pool alone, a second draft overwrites a token of the pool that a rejected first one completed,
    and that its successor completes anew.
    """
    homes = [home for home in ATTENTIONS if tree.has_class(home, "Glm5NextTailCache")]
    return tree.mentions(homes[0], "Glm5NextTailCache", "num_speculative_tokens") if homes else None


def seeds_by_distance(tree: SourceTree) -> bool:
    """Whether this vLLM asks how far apart the blocks of open pools lie where a prompt fills them."""
    return tree.mentions(POOLING, "kpool_seed_tail_cache", "tail_kv_cache.stride(0)")


def pool_faults(tree: SourceTree) -> tuple[Literal["chunks", "distance"], ...] | None:
    """Return what makes pooled index keys of this vLLM wrong without an error; None without the family.

    "chunks": a pool whose tokens come in two chunks of a prompt gets the key of other tokens. "distance": the open pool
    at a prompt's end is written where other requests' keys lie.
    """
    given = next((found for home in INDEXERS if (found := tree.parameters(home, "_kpool_compress_insert"))), None)
    if given is None:
        return None
    faults: list[Literal["chunks", "distance"]] = ["chunks"] if given == _OF_ONE_CHUNK else []
    return (*faults, *(() if seeds_by_distance(tree) else ("distance",)))
