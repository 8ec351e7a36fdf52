"""vLLM's CPU platform with the one answer that it refuses: a sparse-MLA backend."""

from dsa_doctor.plugin import serving
from dsa_doctor.plugin.gate import CUSTOM_PATH
from vllm.platforms.cpu import CpuPlatform


class DsaCpuPlatform(CpuPlatform):
    """As vLLM's CPU platform; sparse MLA is TRITON_MLA_SPARSE, on pages of 64 tokens."""

    @classmethod
    def get_attn_backend_cls(cls, selected_backend, attn_selector_config, num_heads=None):  # noqa: ANN001, ANN206
        """Answer the sparse question; leave the rest to the CPU platform."""
        if attn_selector_config.use_sparse:
            return CUSTOM_PATH
        return super().get_attn_backend_cls(selected_backend, attn_selector_config, num_heads)

    @classmethod
    def check_and_update_config(cls, vllm_config) -> None:  # noqa: ANN001
        """Review as the plugin does on CUDA, and restore the page size that CPU MLA would shrink to 16."""
        serving.review(vllm_config)
        super().check_and_update_config(vllm_config)
        vllm_config.cache_config.block_size = 64
