"""What the sources of the installed vLLM do on the DSA path, each told by symbols and signatures.

A pattern that is not understood is "unrecognised", never a guess. `dsa_doctor.compat.ledger` lists what is relied on.
"""

import ast
import re
from typing import Literal

from dsa_doctor.binaries import (
    ElfError,
    GpuImage,
    PayloadError,
    SharedObject,
    kernel_names,
    payload_chunks,
    scan_fatbins,
)
from dsa_doctor.binaries.fatbin import Buffer
from dsa_doctor.binaries.modules import Modules
from dsa_doctor.compat.sources import SourceTree
from dsa_doctor.compat.triton_fp8 import CAPABILITY_TEST

INDEXER = "vllm.model_executor.layers.sparse_attn_indexer"
INDEXER_TOPK = "vllm.model_executor.layers.indexer_topk"
GENERIC_MODEL = "vllm.model_executor.models.deepseek_v2"
DEEP_GEMM = "vllm.utils.deep_gemm"
MLA_ATTENTION = "vllm.model_executor.layers.attention.mla_attention"
KERNEL_CONFIG = "vllm.config.kernel"
KERNEL_WARMUP = "vllm.model_executor.warmup.kernel_warmup"

PERSISTENT_TOPK_CALL = "torch.ops._C.persistent_topk("
TOPK_FIX_SYMBOL = b"exact_topk_rescan"
_TOPK_KERNEL = "persistent_topk_kernel"
_LARGEST_IMAGE = 1 << 28

Gate = Literal["capability", "none", "absent", "unrecognised"]


def indexer_guard(tree: SourceTree) -> Literal["installed", "supported", "none", "unrecognised"]:
    """Return what the constructor of the sparse indexer asks of DeepGEMM before it raises."""
    constructor = _method(tree, INDEXER, "SparseAttnIndexer", "__init__")
    if constructor is None:
        return "unrecognised"
    guards = [
        ast.unparse(node.test)
        for node in ast.walk(constructor)
        if isinstance(node, ast.If) and any(isinstance(inner, ast.Raise) for inner in node.body)
    ]
    asked = [guard for guard in guards if "deep_gemm" in guard]
    if not asked:
        return "unrecognised" if "deep_gemm" in ast.unparse(constructor) else "none"
    if any("is_deep_gemm_supported" in guard or CAPABILITY_TEST.search(guard) for guard in asked):
        return "supported"
    return "installed" if all("has_deep_gemm()" in guard for guard in asked) else "unrecognised"


def prefill_logits(tree: SourceTree) -> Literal["full", "compressed", "unrecognised"]:
    """Return the contract of the ragged logits, told by the last parameter of vLLM's wrapper."""
    parameters = tree.parameters(DEEP_GEMM, "fp8_fp4_mqa_logits") or ()
    if "max_seqlen_k" in parameters:
        return "compressed"
    return "full" if "clean_logits" in parameters else "unrecognised"


def fused_indexer_q_switch(tree: SourceTree) -> bool:
    """Whether the generic model's Indexer can be kept from its fused query kernel."""
    return tree.mentions(GENERIC_MODEL, "Indexer", "self.use_fused_indexer_q = ")


def fp8_jit_warmup(tree: SourceTree) -> bool:
    """Whether the indexer registers a Triton warm-up for an fp8 argument, and the start re-raises its failure."""
    constructor = _method(tree, INDEXER, "SparseAttnIndexer", "__init__")
    registers = constructor is not None and re.search(r"_PACK_SEQ\w*\.register_warmup\(", ast.unparse(constructor))
    if constructor is None or not registers or "fp8_dtype()" not in ast.unparse(constructor):
        return False
    text = tree.text(KERNEL_WARMUP) or ""
    return re.search(r"registry\.warmup\(\)\n\s+except Exception:\n(?:.*\n){1,8}?\s+raise\n", text) is not None


def topk_persistent_gate(tree: SourceTree) -> Gate:
    """Return what stands between a decode step and the persistent top-k op."""
    if PERSISTENT_TOPK_CALL in (tree.text(INDEXER_TOPK) or ""):
        choice = _method(tree, INDEXER_TOPK, "SparseIndexerTopk", "_resolve_auto")
        tests = _tests_returning(choice, "persistent") if choice is not None else []
        known = "_is_cuda"
    elif PERSISTENT_TOPK_CALL in (text := tree.text(INDEXER) or ""):
        parsed = re.search(r"^( +)use_persistent_topk = (.*?)(?=^\1\S)", text, re.MULTILINE | re.DOTALL)
        # A closing bracket stands at the statement's own indentation.
        tests = [parsed.group(2)] if parsed else []
        known = "is_cuda()"
    else:
        return "absent"
    if not tests:
        return "unrecognised"
    if all(CAPABILITY_TEST.search(test) or "capable" in test for test in tests):
        return "capability"
    return "none" if all(known in test for test in tests) else "unrecognised"


def _tests_returning(function: ast.FunctionDef, value: str) -> list[str]:
    return [
        ast.unparse(node.test)
        for node in ast.walk(function)
        if isinstance(node, ast.If)
        and any(
            isinstance(inner, ast.Return) and isinstance(inner.value, ast.Constant) and inner.value.value == value
            for inner in node.body
        )
    ]


def topk_backend_setting(tree: SourceTree) -> bool:
    """Whether the user can choose the top-k op (kernel_config.sparse_indexer_topk_backend)."""
    return re.search(r"^    sparse_indexer_topk_backend\s*:", tree.text(KERNEL_CONFIG) or "", re.MULTILINE) is not None


def topk_overflow_fix(modules: Modules) -> bool | None:
    """Whether the compiled persistent top-k has its candidate-overflow fix (vLLM #51782); None where it cannot be read.

    The fix is an inlined device function: its name stands in the debug names of the image that holds the kernel.

    Args:
        modules: those of vLLM.
    """
    for path in modules.paths("vllm"):
        if path.parent.name != "vllm" or not path.name.startswith("_C"):
            continue
        try:
            data = modules.read(path)
            section = SharedObject(path, data).section(".nv_fatbin")
            images = scan_fatbins(data, *section).images if section else ()
        except (ElfError, OSError):
            continue
        for image in images:
            if image.kind == "machine_code" and (names := _symbols_beside_topk(data, image)) is not None:
                return TOPK_FIX_SYMBOL in names
    return None


def _symbols_beside_topk(data: Buffer, image: GpuImage) -> bytes | None:
    """Return the decompressed image if it holds the persistent top-k kernel."""
    try:
        if not any(_TOPK_KERNEL in name for name in kernel_names(data, image)):
            return None
        return b"".join(payload_chunks(data, image, limit=_LARGEST_IMAGE))
    except PayloadError:
        return None


def kv_b_proj_int32_bug(tree: SourceTree) -> bool:
    """Whether the dense prefill casts its input to the kv_b_proj weight's dtype, which is int32 under Marlin."""
    text = tree.text(MLA_ATTENTION) or ""
    return re.search(r"=\s*kv_c_normed\.to\(\s*self\.kv_b_proj\.weight\.dtype\s*\)", text) is not None


def dsv3_fused_a_gemm_gate(tree: SourceTree) -> Gate:
    """Return what stands between the generic model and the op dsv3_fused_a_gemm, which has no code below sm_90."""
    text = tree.text(GENERIC_MODEL) or ""
    if "dsv3_fused_a_gemm(" not in text:
        return "absent"
    gate = re.search(r"self\._use_min_latency_gemm = \((.*?)\n        \)", text, re.DOTALL)
    if gate is None:
        return "unrecognised"
    return "capability" if CAPABILITY_TEST.search(gate.group(1)) else "none"


def _method(tree: SourceTree, module: str, owner: str, name: str) -> ast.FunctionDef | None:
    """Parse one method of a top-level class, without parsing the rest of the module."""
    text = tree.text(module) or ""
    start = re.search(rf"^class {owner}\b", text, re.MULTILINE)
    if start is None:
        return None
    end = re.search(r"^(?:class |def |@)", text[start.end() :], re.MULTILINE)
    body = text[start.start() : start.end() + end.start()] if end else text[start.start() :]
    try:
        parsed = ast.parse(body).body[0]
    except SyntaxError:
        return None
    functions = (node for node in getattr(parsed, "body", ()) if isinstance(node, ast.FunctionDef))
    return next((node for node in functions if node.name == name), None)
