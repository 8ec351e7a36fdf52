"""Where the parser of `vllm serve` is built, by release."""

SERVE_PARSERS = (
    "vllm.entrypoints.common.cli_args",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.openai.cli_args",
)
"""Modules that have held vLLM's `make_arg_parser`, the newest home first; each also names FlexibleArgumentParser."""
