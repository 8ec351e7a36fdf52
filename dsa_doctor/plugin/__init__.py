"""The vLLM plugin: makes DSA models run on compute capability 8.x with a stock wheel.

vLLM loads `register` in every process through the entry point group `vllm.general_plugins`.
"""

from dsa_doctor.plugin.entry import register

__all__ = ["register"]
