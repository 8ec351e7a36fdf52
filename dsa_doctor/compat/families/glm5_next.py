"""GLM-5.3-Flash: every fourth layer MLA without rope, index keys pooled; the selector is asked for those layers."""

from dsa_doctor.compat.families.base import Family, Need

FAMILY = Family(
    key="glm5_next",
    title="GLM-5.3-Flash",
    architectures=("Glm5NextForCausalLM", "Glm5NextForConditionalGeneration"),
    drafts=("Glm5NextMTPModel",),
    model_types=("glm5_next", "glm5_next_text"),
    sm120_kernels="GLM53_NOPE",
    needs=(
        Need(
            "indexer",
            "vllm.models.glm5next.nvidia.ops.kpool_compress:",
            r"float8e4nv|\.to\(tl\.float8|fp8",
            "e4m3",
            "rotates the indexer's queries and pools its keys by Triton kernels that write e4m3",
        ),
    ),
)
