"""Which options the installed vLLM knows: asked of its own `vllm serve --help=all`, at every launch."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dsa_doctor.processes.child import run
from dsa_doctor.redaction import last_lines

_OPTION = re.compile(r"(?:^|, )(--[a-z][\w.-]*|-[a-z]+\b)")
_LISTED = re.compile(r"^ {1,6}-")
_LARGEST_HELP = 16 << 20
_DOTTED = re.compile(r"^(--[a-z][\w-]*)\.")


@dataclass(frozen=True)
class KnownOptions:
    """Options of an installed vLLM.

    Attributes:
        names: every option; empty where it could not be asked.
        help: option to its help text, for accepted values.
        problem: why it could not be asked, with the last lines of what it said; None where it could.
    """

    names: frozenset[str]
    help: dict[str, str]
    problem: str | None = None

    def knows(self, option: str) -> bool:
        """Whether vLLM takes the option; a dotted one (--a.b) is known where --a is."""
        option = option.partition("=")[0]
        dotted = _DOTTED.match(option)
        return option in self.names or (dotted is not None and dotted.group(1) in self.names)

    def accepts(self, option: str, value: str) -> bool | None:
        """Whether the help's list of values for an option ({a,b,c}) has this one; None where it lists none."""
        match = re.search(r"\{([^}]*)\}", self.help.get(option, ""))
        if match is None:
            return None
        return value in {one.strip(" '\"\n") for one in match.group(1).split(",")}


def ask_options(executable: Sequence[str], *, timeout: float = 180.0) -> KnownOptions:
    """Ask a vLLM for its options; never raises."""
    command = [*executable, "serve", "--help=all"]
    answer = run(
        command,
        timeout=timeout,
        environment={**os.environ, "COLUMNS": "100000", "VLLM_LOGGING_LEVEL": "ERROR", "PAGER": "cat"},
        keep_stdout=_LARGEST_HELP,
    )
    if answer.status == "timeout":
        return KnownOptions(frozenset(), {}, f"`{' '.join(command)}` {answer.problem}")
    if answer.status == "not_started":
        return KnownOptions(frozenset(), {}, f"{executable[0]} cannot be started: {answer.problem}")
    stdout, stderr = answer.stdout.decode("utf-8", "replace"), answer.stderr.decode("utf-8", "replace")
    if answer.problem:
        said = " | ".join(last_lines(stderr or stdout, count=2))
        return KnownOptions(frozenset(), {}, f"`vllm serve --help=all` {answer.problem}: {said}")
    return parse_help(stdout)


def parse_help(text: str) -> KnownOptions:
    """Read argparse's help: options stand at the start of a little indented line, their help below or beside it."""
    names: set[str] = set()
    texts: dict[str, str] = {}
    current: list[str] = []
    for line in text.splitlines():
        if _LISTED.match(line):
            head = re.split(r"\s{2,}", line.strip(), maxsplit=1)[0]
            current = _OPTION.findall(head)
            names.update(current)
        for option in current:
            texts[option] = texts.get(option, "") + line + "\n"
    if not names:
        return KnownOptions(frozenset(), {}, "`vllm serve --help=all` lists no option")
    return KnownOptions(frozenset(names), texts)
