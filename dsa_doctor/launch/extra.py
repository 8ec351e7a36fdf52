"""What the user gives to vLLM after `--`, and in the file of vLLM's --config, as far as the plan must know it."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from dsa_doctor.planner.parallel import TablePlace
from dsa_doctor.reading import ReadingError, read_file

_MOST_CONFIG_BYTES = 1 << 20

_ALIASES = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
    "-ep": "--enable-expert-parallel",
    "-dcp": "--decode-context-parallel-size",
    "-pcp": "--prefill-context-parallel-size",
    "-sc": "--speculative-config",
}


_LEFT_OPEN = {"drafts", "tables"}
"""Fields that an option may leave open."""


@dataclass(frozen=True)
class Given:
    """What one place gives.

    Attributes:
        values: field of LaunchOptions to its value; what is not given is not there.
        options: every option that is given, known here or not, in its long spelling with hyphens; a switch that is
            turned off (--no-x) counts as --x.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    options: frozenset[str] = frozenset()


class ExtraArgumentError(ValueError):
    """An argument for vLLM has a value of the wrong kind, or its file cannot be read; the message names it."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, where: str) -> None:
        super().__init__(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
        self._where = where

    def error(self, message: str) -> NoReturn:
        raise ExtraArgumentError(f"{self._where}: {message}")


def read_extra(arguments: Sequence[str]) -> Given:
    """Read the options that matter here; all others are vLLM's business, and passed on untouched as these are.

    Raises:
        ExtraArgumentError: one of them has no value, or not a number.
    """
    return _read(arguments, "after --")


def read_config(arguments: Sequence[str]) -> Given:
    """Read the file of vLLM's --config among the arguments; without one, nothing is given.

    Raises:
        ExtraArgumentError: the file cannot be read, is no YAML mapping, or has a value of the wrong kind.
    """
    parser = _Parser("after --")
    parser.add_argument("--config")
    known, _ = parser.parse_known_args([_dashed(one) for one in arguments])
    name = getattr(known, "config", None)
    if name is None:
        return Given()
    where = f"--config {name}"
    try:
        content = yaml.safe_load(read_file(Path(name).expanduser(), limit=_MOST_CONFIG_BYTES))
    except ReadingError as error:
        raise ExtraArgumentError(f"{where}: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ExtraArgumentError(f"{where}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise ExtraArgumentError(f"{where}: not a YAML mapping of vLLM's options to their values")
    return _read([one for key, value in content.items() for one in _as_arguments(str(key), value)], where)


def _as_arguments(key: str, value: Any) -> list[str]:
    """Return one entry of the file as vLLM turns it into arguments."""
    option = f"--{key}"
    if value is True:
        return [option]
    if value is False or value is None:
        return []
    if isinstance(value, list):
        return [option, *(one if isinstance(one, str) else json.dumps(one) for one in value)]
    return [option, json.dumps(value, default=str) if isinstance(value, dict) else str(value)]


def _read(arguments: Sequence[str], where: str) -> Given:
    parser = _Parser(where)
    number: dict[str, Any] = {"type": _count}
    parser.add_argument("-tp", "--tensor-parallel-size", dest="tensor", **number)
    parser.add_argument("-pp", "--pipeline-parallel-size", dest="pipeline", **number)
    parser.add_argument("-dcp", "--decode-context-parallel-size", dest="decode_context", **number)
    parser.add_argument("-pcp", "--prefill-context-parallel-size", dest="prefill_context", **number)
    parser.add_argument("-dp", "--data-parallel-size", dest="data", **number)
    parser.add_argument("-ep", "--enable-expert-parallel", dest="expert", action=argparse.BooleanOptionalAction)
    parser.add_argument("--enforce-eager", action=argparse.BooleanOptionalAction)
    for name in (
        "--kv-cache-dtype",
        "--attention-backend",
        "--host",
        "--uds",
        "--ssl-certfile",
        "--load-format",
        "--dtype",
    ):
        parser.add_argument(name)
    parser.add_argument("--api-key", dest="api_keys", nargs="*")
    parser.add_argument("--block-size", **number)
    parser.add_argument("--max-model-len", type=_tokens)
    parser.add_argument("--max-num-seqs", **number)
    parser.add_argument("--max-num-batched-tokens", type=_tokens)
    parser.add_argument("--gpu-memory-utilization", type=_share)
    parser.add_argument("--cpu-offload-gb", dest="cpu_offload_gib", type=_size)
    parser.add_argument("--port", type=_port)
    parser.add_argument("-sc", "--speculative-config", type=_drafts, dest="drafts")
    parser.add_argument("--speculative-config.num-speculative-tokens", type=_count, dest="drafts")
    parser.add_argument("--spec-tokens", type=_count, dest="drafts")
    parser.add_argument("--engram-config", type=_tables, dest="tables")
    parser.add_argument("--engram-config.cpu-offload", type=_tables_off_host, dest="tables")
    parser.add_argument("--engram-config.use-thp", type=_tables_in_huge_pages, dest="tables")
    spelled = [_dashed(one) for one in arguments]
    known, _ = parser.parse_known_args(spelled)
    values = {name: value for name, value in vars(known).items() if name not in _LEFT_OPEN or value is not None}
    options = frozenset(_long(one) for one in spelled if one.startswith("-"))
    if any(one.partition(".")[0] == "--speculative-config" or one.startswith("--spec-") for one in options):
        values["speculative"] = True
    return Given(values, options)


def _long(argument: str) -> str:
    name = argument.partition("=")[0]
    return _ALIASES.get(name, f"--{name.removeprefix('--no-')}" if name.startswith("--no-") else name)


def _dashed(argument: str) -> str:
    """Spell an option with hyphens: vLLM takes underscores too."""
    name, equals, value = argument.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if argument.startswith("--") else argument


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not accepted. Accepted: 1 or more")
    return number


def _drafts(text: str) -> int | None:
    """Read the number of speculative tokens of a configuration; None where it is left to the model or not JSON."""
    try:
        tokens = json.loads(text).get("num_speculative_tokens")
    except (ValueError, AttributeError, RecursionError):
        return None
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens > 0 else None


def _tables(text: str) -> TablePlace | None:
    """Read where n-gram tables lie; None where it is not JSON, which vLLM refuses."""
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(asked, dict):
        return None
    if _tables_off_host(str(asked.get("cpu_offload"))):
        return "GPU"
    return _tables_in_huge_pages(str(asked.get("use_thp"))) or "pinned"


def _tables_off_host(text: str) -> TablePlace | None:
    return "GPU" if text.lower() == "false" else None


def _tables_in_huge_pages(text: str) -> TablePlace | None:
    return "huge pages" if text.lower() == "true" else None


def _port(text: str) -> int:
    number = _count(text)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"{text} is not accepted. Accepted: 1 to 65535")
    return number


def _size(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not accepted. Accepted: 0 or more")
    return number


def _share(text: str) -> float:
    number = _size(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not accepted. Accepted: more than 0, at most 1")
    return number


def _tokens(text: str) -> int | None:
    """Read a number of tokens; vLLM also takes 128k (thousands), 128K (1024s) and auto."""
    if text.lower() in {"auto", "-1"}:
        return None
    scale = {"k": 1000, "K": 1024, "m": 10**6, "M": 2**20, "g": 10**9, "G": 2**30}.get(text[-1:], 1)
    if scale == 1:
        return _count(text)
    number = int(_size(text[:-1]) * scale)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not accepted. Accepted: at least 1 token")
    return number
