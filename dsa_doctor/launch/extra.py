"""What the user gives to vLLM after `--`, as far as the plan and the checks must know it."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn


@dataclass(frozen=True)
class Given:
    """Values given after `--`; None where they are not. The arguments themselves are passed on untouched."""

    tensor: int | None = None
    pipeline: int | None = None
    data: int | None = None
    expert: bool | None = None
    kv_cache_dtype: str | None = None
    attention_backend: str | None = None
    block_size: int | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    cpu_offload_gib: float | None = None
    enforce_eager: bool | None = None
    speculative: bool = False
    host: str | None = None
    port: int | None = None
    api_key: str | None = None
    load_format: str | None = None


class ExtraArgumentError(ValueError):
    """An argument after `--` has a value of the wrong kind; the message names it."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ExtraArgumentError(f"after --: {message}")


def read_extra(arguments: Sequence[str]) -> Given:
    """Read the options that matter here; all others are vLLM's business.

    Raises:
        ExtraArgumentError: one of them has no value, or not a number.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    number: dict[str, Any] = {"type": int, "default": None}
    parser.add_argument("-tp", "--tensor-parallel-size", dest="tensor", **number)
    parser.add_argument("-pp", "--pipeline-parallel-size", dest="pipeline", **number)
    parser.add_argument("-dp", "--data-parallel-size", dest="data", **number)
    parser.add_argument(
        "-ep", "--enable-expert-parallel", dest="expert", action=argparse.BooleanOptionalAction, default=None
    )
    parser.add_argument("--enforce-eager", action=argparse.BooleanOptionalAction, default=None)
    for name in ("--kv-cache-dtype", "--attention-backend", "--host", "--api-key", "--load-format"):
        parser.add_argument(name, default=None)
    parser.add_argument("--block-size", **number)
    parser.add_argument("--max-model-len", type=_tokens, default=None)
    parser.add_argument("--max-num-seqs", **number)
    parser.add_argument("--max-num-batched-tokens", type=_tokens, default=None)
    parser.add_argument("--gpu-memory-utilization", type=float, default=None)
    parser.add_argument("--cpu-offload-gb", dest="cpu_offload_gib", type=float, default=None)
    parser.add_argument("--port", **number)
    known, _ = parser.parse_known_args([_dashed(one) for one in arguments])
    speculative = any(one.partition("=")[0].startswith("--speculative-config") for one in arguments)
    return Given(**vars(known), speculative=speculative)


def _dashed(argument: str) -> str:
    """Spell an option with hyphens: vLLM takes underscores too."""
    name, equals, value = argument.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if argument.startswith("--") else argument


def _tokens(text: str) -> int | None:
    """Read a number of tokens; vLLM also takes 128k (thousands), 128K (1024s) and auto."""
    if text.lower() in {"auto", "-1"}:
        return None
    scale = {"k": 1000, "K": 1024, "m": 10**6, "M": 2**20}.get(text[-1:], 1)
    return int(float(text[:-1]) * scale) if scale != 1 else int(text)
