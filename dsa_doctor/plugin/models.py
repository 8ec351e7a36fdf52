"""The model classes that serve DSA models under the plugin: vLLM's own generic ones.

vLLM imports this module, in whichever process, when and only when it needs a DSA model's class; that is the moment to
replace what the indexer calls. The newest CUDA-specific classes are passed over: their fused query and norm kernels
take float8e4nv pointers, which Triton refuses below compute capability 8.9.
"""

from dsa_doctor.plugin import patching

patching.apply()

from vllm.model_executor.models.deepseek_mtp import DeepSeekMTP  # noqa: E402
from vllm.model_executor.models.deepseek_v2 import DeepseekV3ForCausalLM as DeepseekV32ForCausalLM  # noqa: E402
from vllm.model_executor.models.deepseek_v2 import GlmMoeDsaForCausalLM  # noqa: E402

__all__ = ["DeepSeekMTP", "DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM"]
