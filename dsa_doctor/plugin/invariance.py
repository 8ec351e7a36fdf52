"""DSA_DOCTOR_BATCH_INVARIANT: whether a token's result may depend on what else is in its batch."""

import os
from functools import cache
from typing import Any

from dsa_doctor.compat import settings


@cache
def batch_invariant() -> bool:
    """Whether everything that the plugin serves gives the same bits for a token whatever its batch; read once.

    Raises:
        ValueError: DSA_DOCTOR_BATCH_INVARIANT is neither 0 nor 1.
    """
    return settings.batch_invariant(os.environ)


def refusals(vllm_config: Any, *, references: bool, own_attention: bool) -> list[str]:
    """Return why batch invariance, which was asked for, cannot be kept with this configuration; empty where it can.

    Args:
        vllm_config: the server's configuration.
        references: whether the PyTorch references serve in place of the kernels.
        own_attention: whether the family's attention is the plugin's altogether, without vLLM's dense prefill.
    """
    asked = "batch invariance was asked for"
    found = []
    if references:
        found.append(f"{asked}, which the PyTorch references do not keep; accepted: DSA_DOCTOR_KERNELS=triton")
    if not own_attention and not hasattr(vllm_config.attention_config, settings.WITHOUT_DENSE_PREFILL):
        found.append(
            f"{asked}, and this vLLM's AttentionConfig has no {settings.WITHOUT_DENSE_PREFILL}: the longest prompt of "
            f"a step would decide how all are prefilled; accepted: {settings.BATCH_INVARIANT}=0"
        )
    return found


def prefill_every_prompt_alike(vllm_config: Any) -> None:
    """Keep vLLM from prefilling short prompts densely, which it does only while no longer one is in the step."""
    setattr(vllm_config.attention_config, settings.WITHOUT_DENSE_PREFILL, True)


def described() -> str:
    """Return the line of the start-up block: what is kept, and what is not."""
    vllm = settings.vllm_is_batch_invariant(os.environ)
    rest = "" if vllm else f"; the rest of the model is vLLM's, whose switch is {settings.VLLM_BATCH_INVARIANT}=1"
    return f"batch invariance: on for sparse attention and indexer{rest}"
