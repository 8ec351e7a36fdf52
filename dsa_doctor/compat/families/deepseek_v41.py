"""DeepSeek-V4.1-Flash: as V4, with engram tables, delayed mHC and a two-level indexer."""

from dsa_doctor.compat.families.base import ATTENTION_CLASS, TILELANG_MHC, Family, Need
from dsa_doctor.compat.families.deepseek_v4 import INDEXER_QUERY, OUTPUT_PROJECTION

_V41 = "vllm.models.deepseek_v41"
_PICKER = f"{_V41}.nvidia.model:_select_dsv4_attn_cls"

FAMILY = Family(
    key="deepseek_v41",
    title="DeepSeek-V4.1",
    architectures=("DeepseekV41ForCausalLM",),
    drafts=("DSparkV41DraftModel",),
    model_types=("deepseek_v41",),
    picker=_PICKER,
    needs=(
        Need("attention", f"{_V41}.nvidia.model:", r"\bmhc_\w*tilelang\(", "cuda_compiler", TILELANG_MHC),
        Need("attention", _PICKER, "return ", "backend", ATTENTION_CLASS),
        OUTPUT_PROJECTION,
        Need(
            "attention",
            f"{_V41}.common.engram:",
            r"tl\.float8e4nv",
            "e4m3",
            "looks engram rows up by a Triton kernel that reads e4m3",
        ),
        Need(
            "indexer",
            f"{_V41}.common.ops.indexer_k_store:",
            r"tl\.float8e4nv",
            "e4m3",
            "stores the indexer's keys by a Triton kernel that uses fp8e4nv",
        ),
        INDEXER_QUERY,
    ),
)
