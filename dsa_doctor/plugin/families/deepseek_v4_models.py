"""The model classes that serve DeepSeek-V4 under the plugin: vLLM's own, with another attention class.

vLLM imports this module, in whichever process, when and only when it needs such a model's class; that is the moment to
replace what the model calls.
"""

from dsa_doctor.plugin import patching
from dsa_doctor.plugin.families import deepseek_v4

patching.apply(deepseek_v4.FAMILY)

from vllm.models.deepseek_v4 import (  # noqa: E402
    DeepseekV4ForCausalLM,
    DeepSeekV4MTP,
    DSparkDeepseekV4ForCausalLM,
)

__all__ = ["DSparkDeepseekV4ForCausalLM", "DeepSeekV4MTP", "DeepseekV4ForCausalLM"]
