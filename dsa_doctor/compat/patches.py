"""The plugin's patch ledger: what it relies on or replaces in vLLM, why, and when each entry can go.

Targets are found by name and signature, never by a version number. `states_of` verifies them on the sources of an
installed vLLM without importing it; the plugin does nothing unless every one is `present`. Here stands what every
family of models needs; `dsa_doctor.plugin.families` holds what a family needs besides.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from dsa_doctor.compat.sources import SourceTree

PRESENT = "present"
MISSING = "missing"

DEEP_GEMM_ISSUE = "vllm-project/vllm #38006 (layer 3), #35021"
BACKEND_ISSUE = "vllm-project/vllm #38006 (layer 2); in-tree proposal #47629"
TOPK_ISSUE = "vllm-project/vllm #50576, #51782, #52149"


@dataclass(frozen=True)
class Patch:
    """One thing in vLLM that the plugin replaces or calls.

    Attributes:
        target: "module:name" or "module:Class.method" as the plugin touches it.
        use: replaced (wrapped or overridden at run time), or relied on (called or subclassed).
        why: what happens without it on compute capability 8.x.
        upstream: issue or pull request that would make it unnecessary.
        until: when the entry can be removed.
        signatures: accepted parameter lists; the target's must begin with one of them, or equal it where `exact`.
        exact: whether further parameters are a change (True), or only the leading ones matter.
        origin: module that defines the name where the target's module merely imports it.
        elsewhere: where other releases have the same thing, as `target`; the first that is there counts.
        kind: what the target is.
        body: text, or texts, that must stand in the body of the class or function, for what has no signature.
        optional: whether a vLLM without it is fine too (it came later or went away, and nothing needs replacing then).
    """

    target: str
    use: Literal["replaced", "relied on"]
    why: str
    upstream: str
    until: str
    signatures: tuple[tuple[str, ...], ...] = ()
    exact: bool = False
    origin: str | None = None
    elsewhere: tuple[str, ...] = ()
    kind: Literal["function", "class", "global"] = "function"
    body: str | tuple[str, ...] | None = None
    optional: bool = False

    @property
    def module(self) -> str:
        """Return the module that holds the target."""
        return self.target.partition(":")[0]

    @property
    def name(self) -> str:
        """Return the name within the module."""
        return self.target.partition(":")[2]


_V32_INDEXER = "vllm.model_executor.layers.sparse_attn_indexer"
BUILDER = "vllm.v1.attention.backends.mla.indexer"
PACKING = "vllm.v1.attention.ops.common"
_SPARSE_MLA = "vllm.model_executor.layers.attention.sparse_mla_attention"
CUSTOM_OPS = "vllm._custom_ops"
_TOPK_TAIL = ("num_rows", "stride0", "stride1", "topk_tokens")
IN_TREE_BACKEND = "vLLM has a sparse-MLA backend for compute capability 8.x of its own"
IN_TREE_INDEXER = "vLLM's indexer serves compute capability 8.x by itself"

SHARED_PATCHES: tuple[Patch, ...] = (
    Patch(
        target="vllm.platforms.cuda:_get_backend_priorities",
        use="replaced",
        why="no sparse-MLA backend in the list is valid on 8.x; ours is appended last, so native ones always win",
        upstream=BACKEND_ISSUE,
        until=IN_TREE_BACKEND,
        signatures=(("use_mla", "device_capability"),),
    ),
    Patch(
        target="vllm.v1.attention.backends.registry:AttentionBackendEnum",
        use="replaced",
        why="the name TRITON_MLA_SPARSE becomes an alias of the member CUSTOM, which pickles into spawned processes",
        upstream=BACKEND_ISSUE,
        until=IN_TREE_BACKEND,
        kind="class",
        body="CUSTOM = None",
    ),
    Patch(
        target="vllm.v1.attention.backends.registry:register_backend",
        use="relied on",
        why="vLLM's own way to give the member CUSTOM a class",
        upstream=BACKEND_ISSUE,
        until=IN_TREE_BACKEND,
        signatures=(("backend", "class_path", "is_mamba"),),
    ),
    Patch(
        target="vllm.v1.attention.backends.registry:_ATTN_OVERRIDES",
        use="relied on",
        why="tells whether another plugin has taken the member CUSTOM",
        upstream=BACKEND_ISSUE,
        until=IN_TREE_BACKEND,
        kind="global",
    ),
    Patch(
        target="vllm.model_executor.models.registry:_ModelRegistry.register_model",
        use="relied on",
        why="DSA models resolve to the generic class, whose indexer query path calls one function that can be replaced",
        upstream=DEEP_GEMM_ISSUE,
        until=IN_TREE_INDEXER,
        signatures=(("self", "model_arch", "model_cls"),),
        exact=True,
    ),
    Patch(
        target="vllm.platforms.cuda:CudaPlatformBase.check_and_update_config",
        use="replaced",
        why="the one place that sees the whole configuration before any worker starts: refusals and the report",
        upstream="none; vLLM offers plugins no such hook",
        until="vLLM lets a backend veto a configuration",
        signatures=(("cls", "vllm_config"),),
        exact=True,
    ),
    Patch(
        target="vllm.utils.torch_utils:resolve_kv_cache_dtype_string",
        use="replaced",
        why="checkpoint metadata alone would choose an fp8 KV cache that no backend has on 8.x; bfloat16 is taken",
        upstream="vllm-project/vllm #38006",
        until=IN_TREE_BACKEND,
        signatures=(("kv_cache_dtype", "model_config"),),
        exact=True,
    ),
    Patch(
        target=f"{PACKING}:_PACK_SEQ_TRITON_KERNEL",
        use="replaced",
        why="start-up compiles it for an fp8 argument, which Triton below 8.9 refuses, and re-raises",
        upstream=DEEP_GEMM_ISSUE,
        until="vLLM packs the query as bytes",
        kind="global",
        optional=True,
    ),
    Patch(
        target=f"{BUILDER}:has_deep_gemm",
        use="replaced",
        why="the metadata builder would ask DeepGEMM for a schedule, which raises on 8.x; our logits need none",
        upstream=DEEP_GEMM_ISSUE,
        until=IN_TREE_INDEXER,
        origin="vllm.utils.deep_gemm",
        signatures=((),),
    ),
    Patch(
        target=f"{CUSTOM_OPS}:top_k_per_row_prefill",
        use="replaced",
        why="one exact, deterministic top-k for prefill and decode",
        upstream=TOPK_ISSUE,
        until=IN_TREE_INDEXER,
        signatures=(("logits", "cu_seqlen_ks", "cu_seqlen_ke", "raw_topk_indices", *_TOPK_TAIL),),
        exact=True,
    ),
    Patch(
        target=f"{CUSTOM_OPS}:top_k_per_row_decode",
        use="replaced",
        why="one exact, deterministic top-k for prefill and decode",
        upstream=TOPK_ISSUE,
        until=IN_TREE_INDEXER,
        signatures=(("logits", "next_n", "seq_lens", "raw_topk_indices", *_TOPK_TAIL),),
        exact=True,
    ),
    Patch(
        target=f"{_SPARSE_MLA}:SparseMLACommonImpl.__init__",
        use="relied on",
        why="base of the backend's implementation",
        upstream=BACKEND_ISSUE,
        until=IN_TREE_BACKEND,
        signatures=(("self", "num_heads", "head_size", "scale", "num_kv_heads"),),
    ),
    Patch(
        target=f"{_SPARSE_MLA}:SparseMLACommonMetadataBuilder.build",
        use="relied on",
        why="base of the backend's metadata builder",
        upstream=BACKEND_ISSUE,
        until=IN_TREE_BACKEND,
        signatures=(("self", "common_prefix_len", "common_attn_metadata", "fast_build"),),
        exact=True,
    ),
    Patch(
        target="vllm.v1.attention.backends.mla.sparse_utils:triton_convert_req_index_to_global_index",
        use="relied on",
        why="turns request-local indices into cache rows",
        upstream=BACKEND_ISSUE,
        until=IN_TREE_BACKEND,
        signatures=(("req_id", "block_table", "token_indices", "BLOCK_SIZE"),),
    ),
)
"""What every family needs: the backend, its selection, the builder of the indexer's metadata, the top-k ops."""

PERSISTENT_TOPK = Patch(
    target="torch.ops._C:persistent_topk",
    use="replaced",
    why="no capability gate; it can select wrong tokens on 8.x and overflows its candidate buffer in old wheels",
    upstream=TOPK_ISSUE,
    until=IN_TREE_INDEXER,
)
"""No Python name: vLLM's call of it is what the sources can show."""

COOPERATIVE_TOPK = Patch(
    target="torch.ops._C:cooperative_topk",
    use="replaced",
    why="takes the place of persistent_topk on 9.x (where the plugin is forced), with the same faults",
    upstream=TOPK_ISSUE,
    until=IN_TREE_INDEXER,
    optional=True,
)
"""Takes the arguments of persistent_topk; a vLLM that does not call it is fine."""

OP_PATCHES = (PERSISTENT_TOPK, COOPERATIVE_TOPK)

_PERSISTENT_TOPK_CALLERS = (
    (_V32_INDEXER, "sparse_attn_indexer"),
    ("vllm.model_executor.layers.indexer_topk", "SparseIndexerTopk"),
)


def shared_states(tree: SourceTree) -> dict[str, str]:
    """Verify what every family needs on the sources of a vLLM; as `states_of`, with the two ops."""
    states = states_of(tree, SHARED_PATCHES)
    called = any(tree.mentions(*caller, "torch.ops._C.persistent_topk(") for caller in _PERSISTENT_TOPK_CALLERS)
    states[PERSISTENT_TOPK.target] = PRESENT if called else "changed: no known caller calls it any more"
    states[COOPERATIVE_TOPK.target] = PRESENT
    return states


def states_of(tree: SourceTree, patches: Iterable[Patch]) -> dict[str, str]:
    """Verify targets on the sources of a vLLM, without importing anything.

    Args:
        tree: the sources.
        patches: what to look for.

    Returns:
        Target to "present", "missing", or "changed: ..." with what came and what is accepted.
    """
    return {patch.target: _state(tree, patch) for patch in patches}


def _state(tree: SourceTree, patch: Patch) -> str:
    """Return the state of the target, or of the first place elsewhere that this vLLM has."""
    state = _state_there(tree, patch)
    for place in patch.elsewhere if state == MISSING else ():
        state = _state_there(tree, replace(patch, target=place))
        if state != MISSING:
            break
    return state


def _state_there(tree: SourceTree, patch: Patch) -> str:
    if patch.kind == "global":
        return PRESENT if patch.optional or tree.has_global(patch.module, patch.name) else MISSING
    if patch.kind == "class":
        if not tree.has_class(patch.module, patch.name):
            return MISSING
        return _body_state(tree, patch)
    imported = patch.origin not in (None, patch.module)
    if imported and not tree.imports(patch.module, str(patch.origin), patch.name):
        return PRESENT if patch.optional else MISSING
    found = tree.parameters(patch.origin or patch.module, patch.name)
    if found is None:
        # A re-export has no definition where it is imported from; only names without accepted parameters may be one.
        imported_name = patch.origin is not None and patch.signatures == ((),)
        return PRESENT if imported_name or patch.optional else MISSING
    state = _body_state(tree, patch)
    return signature_state(found, patch) if state == PRESENT else state


def _body_state(tree: SourceTree, patch: Patch) -> str:
    texts = (patch.body,) if isinstance(patch.body, str) else patch.body or ()
    lost = [text for text in texts if not tree.mentions(patch.module, patch.name, text)]
    return f"changed: its body no longer holds {', '.join(map(repr, lost))}" if lost else PRESENT


def signature_state(found: tuple[str, ...], patch: Patch) -> str:
    """Compare a parameter list with the accepted ones."""
    accepted = patch.signatures
    if any(found == one or (not patch.exact and found[: len(one)] == one) for one in accepted):
        return PRESENT
    shown = " or ".join(f"({', '.join(one)}{'' if patch.exact else ', ...'})" for one in accepted)
    return f"changed: its parameters are ({', '.join(found)}); accepted: {shown}"
