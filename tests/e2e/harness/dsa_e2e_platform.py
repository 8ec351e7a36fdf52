"""vLLM's CPU platform with the one answer that it refuses: a sparse-MLA backend."""

from vllm.platforms.cpu import CpuPlatform

from dsa_doctor.plugin import serving
from dsa_doctor.plugin.host import CUSTOM_PATH


class DsaCpuPlatform(CpuPlatform):
    """As vLLM's CPU platform; sparse MLA is TRITON_MLA_SPARSE, on pages of 64 tokens."""

    @classmethod
    def get_attn_backend_cls(cls, selected_backend, attn_selector_config, num_heads=None):
        """Answer the sparse question; leave the rest to the CPU platform."""
        if attn_selector_config.use_sparse:
            return CUSTOM_PATH
        return super().get_attn_backend_cls(selected_backend, attn_selector_config, num_heads)

    @classmethod
    def check_and_update_config(cls, vllm_config) -> None:
        """Review as the plugin does on CUDA; restore what the CPU platform takes from MLA, for its own backend's sake.

        That is chunked prefill, prefix caching and pages of more than 16 tokens.
        """
        serving.review(vllm_config)
        scheduler, cache = vllm_config.scheduler_config, vllm_config.cache_config
        asked = scheduler.enable_chunked_prefill, scheduler.max_num_batched_tokens, cache.enable_prefix_caching
        super().check_and_update_config(vllm_config)
        scheduler.enable_chunked_prefill, scheduler.max_num_batched_tokens, cache.enable_prefix_caching = asked
        cache.block_size = 64
