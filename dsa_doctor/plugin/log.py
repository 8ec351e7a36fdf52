"""The plugin's lines, which appear where and as vLLM's do."""

import logging
import multiprocessing

LOGGER = logging.getLogger("vllm.dsa_doctor")
"""A child of vLLM's logger."""


def say(message: str, *arguments: object, level: int = logging.INFO) -> None:
    """Log in the first process of the server alone: its children would repeat every line."""
    first = multiprocessing.parent_process() is None
    LOGGER.log(level if first else logging.DEBUG, message, *arguments)
