"""Pieces of the emitted bash scripts. Nothing that the user gave stands in them but as one quoted word."""

import json
from collections.abc import Sequence
from shlex import quote

from dsa_doctor.emit.ranks import Launch
from dsa_doctor.reading import one_line

BUILD = """\
# dsa-doctor is on no package index; its wheel is built in a checkout of it: python3 -m pip wheel --no-deps -w dist ."""
IMAGE = f"""\
# The image must hold vLLM and dsa-doctor.
{BUILD}
# Then a Dockerfile: FROM vllm/vllm-openai:..., COPY dist /dist, RUN python3 -m pip install /dist/dsa_doctor-*.whl"""

_LITERALS = {"SC2016": "$`", "SC1003": "\\", "SC1110,SC1111,SC1112": "\u2018\u2019\u201c\u201d"}
"""Shellcheck's doubts about characters that are meant as they stand."""


class Raw(str):
    """A word that is shell text already, such as a quoted variable."""

    __slots__ = ()


def words(arguments: Sequence[str]) -> list[str]:
    """Return each argument as one word of shell text."""
    return [argument if isinstance(argument, Raw) else word(argument) for argument in arguments]


def word(text: str) -> str:
    """Return `text` as one word of shell text, in quotes too where a reader could doubt that it is one."""
    quoted = quote(text)
    return f"'{text}'" if quoted == text and (text.startswith("=") or "," in text) else quoted


def command(arguments: Sequence[str]) -> str:
    """Return a shell command of several lines, an option with its value on each; what is not Raw is quoted."""
    lines: list[list[str]] = [[]]
    for argument, word in zip(arguments, words(arguments), strict=True):
        if argument.startswith("-") and lines[-1]:
            lines.append([])
        lines[-1].append(word)
    return " \\\n  ".join(" ".join(line) for line in lines)


def head(launch: Launch, form: str) -> list[str]:
    """Return the first lines of a bash script: what it is of, and what shellcheck need not doubt."""
    given = "".join((launch.model, launch.image, *launch.extra, *(flag.value or "" for flag in launch.flags)))
    codes = [code for code, characters in _LITERALS.items() if any(one in given for one in characters)]
    return [
        "#!/usr/bin/env bash",
        *([f"# shellcheck disable={','.join(codes)}"] if codes else []),
        f"# {in_comment(launch.name)} on {where(launch)}, made by dsa-doctor run-model --emit {form}.",
    ]


def secrets(launch: Launch) -> list[str]:
    """Return the lines that pass the server's keys on from the environment, or end where one is not set."""
    return [line for name in launch.secrets for line in (f': "${{{name}:?set it before the start}}"', f"export {name}")]


def where(launch: Launch) -> str:
    """Return nodes and GPUs in words."""
    nodes = f"{launch.nodes} nodes of " if launch.nodes > 1 else ""
    return f"{nodes}{launch.gpus_per_node} GPUs"


def in_comment(text: str) -> str:
    """Return `text` for a comment: as it is where it is a plain name, else as a JSON string of ASCII."""
    plain = text.replace("-", "").replace("_", "").replace(".", "").replace("/", "")
    return text if plain.isascii() and plain.isalnum() else json.dumps(one_line(text))


def needs(*commands: str) -> list[str]:
    """Return lines that end the script with a sentence where a command is not there."""
    return [
        BUILD,
        f"for one in {' '.join(commands)}; do",
        '  command -v "$one" > /dev/null || { echo "$one is not installed here" >&2; exit 127; }',
        "done",
        "",
    ]
