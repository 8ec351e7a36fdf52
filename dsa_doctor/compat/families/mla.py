"""DeepSeek-V3.2 and GLM-5 to GLM-5.2: MLA with the lightning indexer, through vLLM's own selector."""

from dsa_doctor.compat.families.base import Family

FAMILY = Family(
    key="mla",
    title="DeepSeek-V3.2 and GLM-5",
    architectures=("DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM"),
    drafts=("DeepSeekMTPModel", "DeepseekV32MTPModel"),
    model_types=("deepseek_v32", "glm_moe_dsa"),
    sm120_kernels="DSV3_2",
)
