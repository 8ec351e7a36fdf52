"""What the probes rely on in vLLM, why, and in which releases it was seen.

The plugin's own ledger, with what it replaces, is `dsa_doctor.compat.patches`. A release in which a target of either
moves fails the tests, and on a user's machine gives an unknown, never a guess.
"""

import re
from dataclasses import dataclass
from typing import Literal

from dsa_doctor.compat import releases as verified
from dsa_doctor.compat.sources import SourceTree


@dataclass(frozen=True)
class Reliance:
    """One place of vLLM that a probe relies on.

    Attributes:
        target: "module:name" or "module:Class.method".
        used_by: the module of dsa-doctor that relies on it.
        why: what is taken from it.
        expects: regular expression that the definition's text matches, where more than the name is relied on.
        kind: what the target is.
        upstream: issue or pull request it belongs to, where there is one.
        releases: the releases it was seen in, of those the ledger was verified against.
    """

    target: str
    used_by: Literal["emulation", "selector", "model_classes", "rules", "settings", "triton_fp8"]
    why: str
    expects: str = ""
    kind: Literal["function", "class", "global"] = "function"
    upstream: str = ""
    releases: tuple[str, ...] = verified.VERIFIED


_PLATFORM = "vllm.platforms.cuda:CudaPlatformBase"
_INDEXER = "vllm.model_executor.layers.sparse_attn_indexer"

RELIANCES: tuple[Reliance, ...] = (
    Reliance(
        "vllm.platforms:resolve_current_platform_cls_qualname",
        "emulation",
        "vllm.platforms calls it, without arguments, when its platform is first asked for; it names our subclass",
        expects=r"\) -> str:",
    ),
    Reliance(
        "vllm.platforms:__getattr__",
        "emulation",
        "the call above happens here, and its answer is resolved as a dotted path",
        expects=r"resolve_current_platform_cls_qualname\(\)\s+_current_platform = resolve_obj_by_qualname\(",
    ),
    Reliance(
        "vllm.platforms.cuda:CudaPlatform",
        "emulation",
        "the CUDA platform that vLLM would take on this machine; the emulated one derives from it",
        kind="global",
    ),
    Reliance(
        "vllm.platforms.interface:Platform.has_device_capability",
        "emulation",
        "compares with get_device_capability and asks the device nothing itself",
        expects=r"cls\.get_device_capability\(",
    ),
    Reliance(
        f"{_PLATFORM}.get_attn_backend_cls",
        "selector",
        "vLLM's choice, or its refusal with the map of reasons",
        expects=r'(?s)"No valid attention backend|No valid attention backend found for.*Reasons: ',
    ),
    Reliance(
        f"{_PLATFORM}.get_valid_backends",
        "selector",
        "vLLM's word on every backend: valid ones with their priority, others with their reasons",
        expects=r"(?s)validate_configuration\(.*return valid_backends_priorities, invalid_reasons",
    ),
    Reliance(
        "vllm.v1.attention.selector:get_attn_backend",
        "selector",
        "the function that the MLA layer calls; it builds the selector's configuration from the current one",
        expects=r"(?s)head_size.*dtype.*kv_cache_dtype.*use_mla.*use_sparse.*num_heads.*get_current_vllm_config\(\)",
    ),
    Reliance(
        "vllm.model_executor.layers.attention.mla_attention:_canonicalize_sparse_mla_kv_cache_dtype",
        "selector",
        "the KV cache format that the layer makes of the one asked for",
        expects=r"attn_backend.*\n.*kv_cache_dtype",
    ),
    Reliance(
        "vllm.utils.deep_gemm:is_deep_gemm_supported",
        "selector",
        "whether vLLM takes the architecture for one that DeepGEMM supports; has_deep_gemm is answered for it",
        expects=r"has_deep_gemm\(\)",
    ),
    Reliance(
        "vllm.utils.flashinfer:has_flashinfer",
        "selector",
        "whether vLLM takes FlashInfer for usable",
        expects=r"-> bool",
    ),
    Reliance(
        "vllm.v1.attention.backends.registry:AttentionBackendEnum",
        "model_classes",
        "names and classes of the attention backends",
        kind="class",
        expects=r'FLASHMLA_SPARSE = \(?\s*"vllm\.',
    ),
    Reliance(
        f"{_INDEXER}:SparseAttnIndexer.__init__",
        "rules",
        "the guard that asks for DeepGEMM, and from 0.30 on the warm-up of an fp8 kernel",
        expects=r"if current_platform\.is_cuda\(\) and not has_deep_gemm\(\):\s+raise RuntimeError\(",
        upstream="vllm-project/vllm #38006",
    ),
    Reliance(
        "vllm.utils.deep_gemm:fp8_fp4_mqa_logits",
        "rules",
        "the last parameter tells the contract of the ragged logits",
        expects=r"cu_seqlen_ke: torch\.Tensor,\s+(?:clean_logits: bool|max_seqlen_k: int),\s+\)",
    ),
    Reliance(
        "vllm.model_executor.models.deepseek_v2:Indexer.__init__",
        "rules",
        "the switch of the fused indexer query, and what it asks before",
        expects=r"self\.use_fused_indexer_q = \(",
    ),
    Reliance(
        "vllm.model_executor.models.deepseek_v2:DeepSeekV2FusedQkvAProjLinear.__init__",
        "rules",
        "the gate of dsv3_fused_a_gemm",
        expects=r"self\._use_min_latency_gemm = \(",
        upstream="vllm-project/vllm #38006",
    ),
    Reliance(
        "vllm.model_executor.layers.indexer_topk:SparseIndexerTopk._resolve_auto",
        "rules",
        "the choice of the top-k op from 0.30 on; before, the function of the indexer chooses",
        expects=r'return "persistent"',
        upstream="vllm-project/vllm #50576",
        releases=verified.since("0.30.0"),
    ),
    Reliance(
        f"{_INDEXER}:sparse_attn_indexer",
        "rules",
        "the choice of the top-k op up to 0.29",
        expects=r"use_persistent_topk = current_platform\.is_cuda\(\)",
        upstream="vllm-project/vllm #50576",
        releases=verified.before("0.30.0"),
    ),
    Reliance(
        "vllm.model_executor.warmup.kernel_warmup:kernel_warmup",
        "rules",
        "the start-up step that compiles registered kernels and re-raises a failure",
        expects=r"(?s)registry\.warmup\(\)\s+except Exception:.*?raise\n",
        releases=verified.since("0.30.0"),
    ),
    Reliance(
        "vllm.plugins:load_plugins_by_group",
        "settings",
        "which plugins are loaded once VLLM_PLUGINS is set: those whose very names it holds",
        expects=r"allowed_plugins is None or plugin\.name in allowed_plugins",
    ),
    Reliance(
        "vllm.envs:environment_variables",
        "settings",
        "the variables that this vLLM reads; those whose names select kernels or backends are facts",
        kind="global",
    ),
    Reliance(
        "vllm.v1.attention.ops.common:pack_seq_triton",
        "triton_fp8",
        "packs the indexer's query by a kernel that takes the tensor's own dtype",
        expects=r"_pack_seq_kernel\[|_PACK_SEQ_TRITON_KERNEL\(",
    ),
)


def state_of(tree: SourceTree, reliance: Reliance) -> str:
    """Return "present", "missing", or "changed: ..." for one entry on the sources of a vLLM."""
    module, _, name = reliance.target.partition(":")
    if reliance.kind == "global":
        return "present" if tree.has_global(module, name) else "missing"
    text = _definition(tree.text(module) or "", name)
    if text is None:
        return "missing"
    return (
        "present" if re.search(reliance.expects, text) else f"changed: its text no longer matches {reliance.expects!r}"
    )


def _definition(text: str, name: str) -> str | None:
    """Return the text of a top-level class or function, or of a method."""
    owner, _, member = name.rpartition(".")
    if owner:
        body = _block(text, rf"^class {re.escape(owner)}\b", "")
        return None if body is None else _block(body, rf"^    def {re.escape(member)}\(", "    ")
    return _block(text, rf"^(?:class|def) {re.escape(name)}\b", "")


def _block(text: str, header: str, indent: str) -> str | None:
    start = re.search(header, text, re.MULTILINE)
    if start is None:
        return None
    end = re.search(rf"^{indent}(?:@|class |def |async def )", text[start.end() :], re.MULTILINE)
    return text[start.start() : start.end() + end.start()] if end else text[start.start() :]


__all__ = ["RELIANCES", "Reliance", "state_of"]
