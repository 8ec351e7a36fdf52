"""The model classes that serve DeepSeek-V3.2 and GLM-5.x under the plugin: vLLM's own generic ones.

vLLM imports this module, in whichever process, when and only when it needs such a model's class; that is the moment to
replace what the indexer calls.
"""

from dsa_doctor.plugin import patching
from dsa_doctor.plugin.families import deepseek_v32

patching.apply(deepseek_v32.FAMILY)

from vllm.model_executor.models.deepseek_mtp import DeepSeekMTP  # noqa: E402
from vllm.model_executor.models.deepseek_v2 import DeepseekV3ForCausalLM as DeepseekV32ForCausalLM  # noqa: E402
from vllm.model_executor.models.deepseek_v2 import GlmMoeDsaForCausalLM  # noqa: E402

__all__ = ["DeepSeekMTP", "DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM"]
