"""Which quantised checkpoints the installed vLLM can load, read from its sources by symbol and call."""

import ast
import re

from dsa_doctor.compat.rules import GENERIC_MODEL
from dsa_doctor.compat.sources import SourceTree
from dsa_doctor.facts.schema import QuantizationSupport

_PACKAGE = "vllm.model_executor.layers.quantization"
_COMPRESSED = f"{_PACKAGE}.compressed_tensors.compressed_tensors"
_COMPRESSED_MOE = f"{_PACKAGE}.compressed_tensors.compressed_tensors_moe.compressed_tensors_moe"
_AWQ = f"{_PACKAGE}.auto_awq"
_GPTQ = f"{_PACKAGE}.auto_gptq"
_GPTQ_RULES = f"{_PACKAGE}.utils.gptq_utils"
_INC = f"{_PACKAGE}.inc.inc"
_MTP = "vllm.model_executor.models.deepseek_mtp"
_WIDENS_ROWS = "weight_fp8.shape[0] // scale_inv.shape[0]"
"""How _try_load_fp8_indexer_wk takes the two sides of a block apart; releases without it take square blocks alone."""
_INT4_INT8_EXPERTS = "vllm.model_executor.layers.fused_moe.oracle.w4a8_int8"
_HEAD_BY_NAME = re.compile(r"if isinstance\(layer, ParallelLMHead\):\s+try:\s+quant_scheme = self\.get_scheme\(")
"""The head's class is no target's, so a target finds it by its name alone; vLLM takes the failure for unquantised."""
_AUTO_ROUND = "auto-round"


def quantization_support(tree: SourceTree) -> QuantizationSupport | None:
    """Return what this vLLM's quantisation layers take, or None where its sources are not as known here."""
    methods = _methods(tree)
    compressed, moe = tree.text(_COMPRESSED), tree.text(_COMPRESSED_MOE)
    if methods is None or compressed is None or moe is None:
        return None
    widens_rows = _WIDENS_ROWS in (tree.text(GENERIC_MODEL) or "")
    refused = ("activation ordering", "no longer supported")
    return QuantizationSupport(
        methods=methods,
        fused_indexer_key=tree.mentions(GENERIC_MODEL, "Indexer", "wk_weights_proj"),
        widened_key_scales=("block", "channel", "group") if widens_rows else ("block",),
        one_scheme_for_experts="All MoE projections need to have same" in moe,
        orders_columns=not all(words in compressed for words in refused),
        orders_columns_gptq="normalize_and_validate_gptq_desc_act" not in (tree.text(_GPTQ_RULES) or ""),
        int4_fp8_linear=_int4_fp8(compressed, "self"),
        int4_fp8_experts=_int4_fp8(moe, "quant_config"),
        int4_int8_linear="CompressedTensorsWNA8Int(" in compressed,
        int4_int8_experts="only supported on CPU" not in (tree.text(_INT4_INT8_EXPERTS) or ""),
        head_by_class=_HEAD_BY_NAME.search(compressed) is None,
        mtp_splits_fused="packed_modules_mapping" in (tree.text(_MTP) or ""),
        mtp_takes_gptq="g_idx" in (tree.text(_GPTQ) or "g_idx") or "AutoWeightsLoader" in (tree.text(_MTP) or ""),
        awq_bits=_type_map(tree.text(_AWQ)),
        gptq_bits=_type_map(tree.text(_GPTQ)),
    )


def _methods(tree: SourceTree) -> tuple[str, ...] | None:
    """Return the names in QuantizationMethods, and AutoRound's where a class takes it over."""
    text = tree.text(_PACKAGE) or ""
    literal = re.search(r"^QuantizationMethods = Literal\[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    if literal is None:
        return None
    names = re.findall(r'^\s*"([^"]+)"', literal.group(1), re.MULTILINE)
    if _AUTO_ROUND in (tree.text(_INC) or ""):
        names.append(_AUTO_ROUND)
    return tuple(names)


def _int4_fp8(text: str, owner: str) -> str | None:
    """Return the one compute capability that takes int4 weights with FP8 activations; "" for any, None for none."""
    if re.search(rf"if {owner}\._is_fp8_w4a8\(", text):
        return ""
    return "9.0" if re.search(rf"if {owner}\._is_fp8_w4a8_sm90\(", text) else None


def _type_map(text: str | None) -> tuple[int, ...]:
    """Return the bits of the symmetric (or only) weights in a class's TYPE_MAP; empty where there is none."""
    found = re.search(r"^    TYPE_MAP = (\{.*?^    \})", text or "", re.MULTILINE | re.DOTALL)
    if found is None:
        return ()
    table = ast.parse(found.group(1).strip(), mode="eval").body
    keys = [key for key in table.keys if key is not None] if isinstance(table, ast.Dict) else []
    values = [ast.literal_eval(key) for key in keys]
    return tuple(one[0] if isinstance(one, tuple) else one for one in values)
