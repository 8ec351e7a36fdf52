"""The model classes that serve GLM-5.3-Flash under the plugin: vLLM's own.

vLLM imports this module, in whichever process, when and only when it needs such a model's class; that is the moment to
replace what the indexer and the attention call.
"""

from dsa_doctor.plugin import patching
from dsa_doctor.plugin.families import glm5_next

patching.apply(glm5_next.FAMILY)

from vllm.models.glm5next import Glm5NextForCausalLM, Glm5NextForConditionalGeneration, Glm5NextMTP  # noqa: E402

__all__ = ["Glm5NextForCausalLM", "Glm5NextForConditionalGeneration", "Glm5NextMTP"]
