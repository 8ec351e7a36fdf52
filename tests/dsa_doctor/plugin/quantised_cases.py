"""Quantised checkpoints of the tiny models, and what vLLM makes of each at compute capability 8.0."""

from dataclasses import dataclass, field
from typing import Any

from tests.dsa_doctor.planner.quantised import compressed_tensors, integers
from tests.dsa_doctor.plugin.tiny_models import FP8

OLDEST, NEWEST = "0.26.0", "0.33.0"
"""The releases in which every case is constructed."""

INDEXER = r"re:.*self_attn\.indexer\..*"
DRAFT = r"re:.*layers\.3\..*"
"""The MTP layer of the tiny models, which have three decoder layers."""
PROJECTION = r"re:.*eh_proj"
EXPERTS = (r"re:.*mlp\.experts\.\d+\.[a-z]+_proj$",)

_FOUR_BIT_FLOAT = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True}
_FP8_ROWS = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False}
_FP8_TOKENS = {**_FP8_ROWS, "strategy": "token", "dynamic": True}
_INT8_ROWS = {**_FP8_ROWS, "type": "int"}
_INT8_TOKENS = {**_FP8_TOKENS, "type": "int"}
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False}
_MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}


def _with_inputs(section: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    section["config_groups"]["group_0"]["input_activations"] = inputs
    return section


def _nvfp4(**more: Any) -> dict[str, Any]:
    section = compressed_tensors(_FOUR_BIT_FLOAT, form="nvfp4-pack-quantized", **more)
    return _with_inputs(section, {**_FOUR_BIT_FLOAT, "dynamic": "local"})


def _w8a8(**more: Any) -> dict[str, Any]:
    return _with_inputs(compressed_tensors(_INT8_ROWS, form="int-quantized", **more), _INT8_TOKENS)


def _fp8(**more: Any) -> dict[str, Any]:
    return _with_inputs(compressed_tensors(_FP8_ROWS, form="float-quantized", **more), _FP8_TOKENS)


def _w4a16(group: int = 128, *, ignore: tuple[str, ...] = (INDEXER, DRAFT), **more: Any) -> dict[str, Any]:
    symmetric = more.pop("symmetric", True)
    return compressed_tensors(integers(4, group, symmetric=symmetric), ignore=ignore, **more)


def _two_groups(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {**first, "config_groups": {**first["config_groups"], "group_1": second["config_groups"]["group_0"]}}


def _int4_and_int8(*ignore: str) -> dict[str, Any]:
    """Experts in int4, the rest in int8: QuantTrio's shape."""
    rest = (r"re:.*self_attn\.[a-z_]+_proj(_with_mqa)?$", r"re:.*(shared_experts|layers\.0\.mlp)\.[a-z]+_proj$")
    return _two_groups(
        _w4a16(ignore=ignore, targets=EXPERTS), compressed_tensors(integers(8, 128), ignore=ignore, targets=rest)
    )


def _fp8_draft() -> dict[str, Any]:
    """MLPs in int4, the grafted MTP layer in FP8."""
    main = (r"re:model\.layers\.[0-2]\.mlp\..*_proj$",)
    draft = (r"re:model\.layers\.3\..*_proj(_with_mqa)?$",)
    ignore = (INDEXER, PROJECTION)
    return _two_groups(_w4a16(ignore=ignore, targets=main), _fp8(ignore=ignore, targets=draft))


def _without(*names: str, **more: Any) -> dict[str, Any]:
    """GPTQ that leaves modules with these parts in their names alone."""
    return {**_GPTQ, **more, "dynamic": {f"-:.*{name}.*": {} for name in names} | more.get("dynamic", {})}


_BITS = {r"+:.*self_attn.*": {"bits": 8}}
_AWQ_REST = ["indexer", "kv_b_proj"]
_MODELOPT_DRAFT = ["lm_head", "*self_attn*", "*mlp.gate", "*eh_proj*"]


@dataclass(frozen=True)
class Case:
    """One checkpoint.

    Attributes:
        section: quantization_config of its config.json.
        stops: vLLM's error where the model cannot be loaded; None where it is.
        drafts_not: vLLM's error where the model loads and its MTP layer does not.
        releases: the releases in which it stops, or its MTP layer does; all of them by default.
    """

    section: dict[str, Any] | None
    stops: str | None = None
    drafts_not: str | None = None
    releases: tuple[str, ...] = field(default=(OLDEST, NEWEST))

    def error(self, part: str, release: str) -> str | None:
        """Return the words of vLLM's error for "model" or "draft" in a release; None where it loads."""
        words = self.stops if part == "model" else self.drafts_not
        return words if release in self.releases else None


_EH = "eh_proj"
CASES: dict[str, Case] = {
    "bf16": Case(None),
    "its own FP8": Case(FP8),
    "W4A16, groups of 128": Case(_w4a16()),
    "W4A16, groups of 32": Case(_w4a16(32)),
    "W4A16, asymmetric": Case(_w4a16(symmetric=False)),
    "W4A16, experts alone": Case(_w4a16(ignore=(), targets=EXPERTS)),
    "W4A16, MTP too": Case(_w4a16(ignore=(INDEXER, PROJECTION))),
    "W8A16": Case(compressed_tensors(integers(8, 128), ignore=[INDEXER, DRAFT])),
    "W8A8 int8": Case(_w8a8(ignore=[INDEXER, DRAFT])),
    "W8A8 int8, MTP too": Case(_w8a8(ignore=[INDEXER, PROJECTION])),
    "W8A8 FP8": Case(_fp8(ignore=[INDEXER, DRAFT])),
    "int4 and int8": Case(_int4_and_int8(INDEXER, DRAFT)),
    "int4 and int8, MTP too": Case(_int4_and_int8(INDEXER, PROJECTION)),
    "int4 and an FP8 MTP layer": Case(_fp8_draft()),
    "W4A8 FP8 in the experts": Case(
        _with_inputs(_w4a16(ignore=(), targets=EXPERTS), _FP8_TOKENS), "only supported on CPU", releases=(OLDEST,)
    ),
    "AWQ of the experts": Case(
        {**_AWQ, "modules_to_not_convert": ["self_attn", "shared_experts", "mlp.gate.", "layers.0.", *_AWQ_REST]}
    ),
    "AWQ": Case({**_AWQ, "modules_to_not_convert": ["indexer", "mlp.gate."]}),
    "GPTQ": Case(_without("indexer", r"layers\.3\.")),
    "GPTQ, groups of 32": Case(_without("indexer", r"layers\.3\.", group_size=32)),
    "GPTQ, attention in 8 bits": Case(_without("indexer", r"layers\.3\.", dynamic=_BITS)),
    "NVFP4 of ModelOpt, experts": Case(
        {
            **_MODELOPT,
            "kv_cache_quant_algo": "FP8",
            "ignore": ["lm_head", "*self_attn*", "*shared_experts*", "model.layers.0.*", "model.layers.3*"],
        }
    ),
    "NVFP4 of ModelOpt, attention too": Case(
        {**_MODELOPT, "ignore": ["lm_head", "*indexer*", "*mlp.gate", "model.layers.3*"]}
    ),
    "NVFP4 of ModelOpt, MTP too": Case({**_MODELOPT, "ignore": _MODELOPT_DRAFT}),
    "NVFP4 of compressed-tensors, experts": Case(_nvfp4(ignore=(), targets=EXPERTS)),
    "NVFP4 of compressed-tensors": Case(_nvfp4(ignore=[INDEXER, DRAFT])),
    # What one of the two cannot load.
    "indexer in int4": Case(_w4a16(ignore=(DRAFT,)), "indexer.wk_weights_proj.weight_packed"),
    "indexer in NVFP4": Case({**_MODELOPT, "ignore": ["lm_head", "*mlp.gate", "model.layers.3*"]}, "AssertionError"),
    "indexer in GPTQ": Case(_without(r"indexer\.weights_proj", r"layers\.3\."), "indexer.wk_weights_proj.qweight"),
    "wk in FP8 by rows": Case(_fp8(ignore=[r"re:.*weights_proj", DRAFT]), "AssertionError", releases=(OLDEST,)),
    "half of the fused attention": Case(
        _w4a16(ignore=(INDEXER, DRAFT, r"re:.*kv_a_proj_with_mqa")), "different quantization schemes for"
    ),
    "half of a fused MLP": Case(
        _w4a16(ignore=(INDEXER, DRAFT, r"re:.*shared_experts\.up_proj")), "different quantization schemes for"
    ),
    "down_proj of the experts in bf16": Case(
        _w4a16(ignore=(INDEXER, DRAFT, r"re:.*experts\.\d+\.down_proj")), "All MoE projections need to have same"
    ),
    "one expert in bf16": Case(
        _w4a16(ignore=(INDEXER, DRAFT, r"re:model\.layers\.1\.mlp\.experts\.5\..*")), "experts.w13_weight"
    ),
    "head in int4": Case({**_w4a16(), "ignore": [INDEXER, DRAFT]}, "no module or parameter named 'lm_head.weight"),
    "W4A8 FP8": Case(_with_inputs(_w4a16(), _FP8_TOKENS), "No compressed-tensors compatible scheme"),
    "W4A8 int8": Case(_with_inputs(_w4a16(), _INT8_TOKENS), "only supported on CPU"),
    "AWQ, mlp.gate left alone": Case(
        {**_AWQ, "modules_to_not_convert": [*_AWQ_REST, "mlp.gate"]}, "layers.0.mlp.gate_up_proj.qweight"
    ),
    "an order of columns": Case(
        compressed_tensors({**integers(4, 128), "actorder": "group"}, ignore=[INDEXER, DRAFT]),
        "actorder='group'",
        releases=(NEWEST,),
    ),
    "desc_act": Case(_without("indexer", r"layers\.3\.", desc_act=True), "desc_act=True", releases=(NEWEST,)),
    # What loads and cannot draft.
    "W4A16, eh_proj too": Case(_w4a16(ignore=(INDEXER,)), drafts_not=_EH),
    "W8A8 int8, eh_proj too": Case(_w8a8(ignore=[INDEXER]), drafts_not=_EH),
    "NVFP4, eh_proj too": Case(_nvfp4(ignore=[INDEXER]), drafts_not=_EH),
    "the indexer of the MTP layer in int4": Case(
        _w4a16(ignore=(r"re:.*layers\.[0-2]\.self_attn\.indexer.*", PROJECTION)), drafts_not="wk_weights_proj"
    ),
    "half of the MTP layer's attention": Case(
        _w4a16(ignore=(INDEXER, PROJECTION, r"re:.*layers\.3\.self_attn\.kv_a.*")), drafts_not="different quantization"
    ),
    "GPTQ, MTP too": Case(_without("indexer"), drafts_not="g_idx", releases=(NEWEST,)),
    "GPTQ, experts of the MTP layer": Case(
        _without("indexer", r"layers\.3\.self_attn", r"layers\.3\.mlp\.shared_experts"),
        drafts_not="g_idx",
        releases=(NEWEST,),
    ),
}
