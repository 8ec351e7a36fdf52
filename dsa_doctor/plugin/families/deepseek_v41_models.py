"""The model classes that serve DeepSeek-V4.1 under the plugin: vLLM's own, with another attention class.

vLLM imports this module, in whichever process, when and only when it needs such a model's class; that is the moment to
replace what the model calls.
"""

from dsa_doctor.plugin import patching
from dsa_doctor.plugin.families import deepseek_v41

patching.apply(deepseek_v41.FAMILY)

from vllm.models.deepseek_v41 import DeepseekV41ForCausalLM, DSparkDeepseekV4ForCausalLM  # noqa: E402

__all__ = ["DSparkDeepseekV4ForCausalLM", "DeepseekV41ForCausalLM"]
