"""Which options the installed vLLM knows: told by its own parser where it is asked for its selector, else by its help.

The parser is built with a GPU or without; `vllm serve --help=all` needs one, and imports vLLM once more.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Selector
from dsa_doctor.processes.child import run
from dsa_doctor.redaction import last_lines

_OPTION = re.compile(r"(?:^|, )(--[a-z][\w.-]*|-[a-z]+\b)")
_VALUES = re.compile(r"\{([^}]*)\}")
_LISTED = re.compile(r"^ {1,6}-")
_LARGEST_HELP = 16 << 20
_DOTTED = re.compile(r"^(--[a-z][\w-]*)\.")


@dataclass(frozen=True)
class KnownOptions:
    """Options of an installed vLLM.

    Attributes:
        names: every option; empty where it could not be asked.
        values: option to the values that vLLM lists for it, where it lists any.
        problem: why it could not be asked, with the last lines of what it said; None where it could.
    """

    names: frozenset[str]
    values: dict[str, frozenset[str]]
    problem: str | None = None

    def knows(self, option: str) -> bool:
        """Whether vLLM takes the option; a dotted one (--a.b) is known where --a is."""
        option = option.partition("=")[0]
        dotted = _DOTTED.match(option)
        return option in self.names or (dotted is not None and dotted.group(1) in self.names)

    def accepts(self, option: str, value: str) -> bool | None:
        """Whether vLLM's list of values for an option has this one; None where it lists none."""
        return value in self.values[option] if option in self.values else None


def known_options(observed: Observation[Selector]) -> KnownOptions | None:
    """Return what vLLM's own parser told; None where it was not asked, or could not be built."""
    told = observed.value.serve_options if observed.value is not None else None
    if told is None or told.value is None:
        return None
    options = told.value.options
    return KnownOptions(
        frozenset(name for one in options for name in one.names),
        {name: frozenset(one.values) for one in options if one.values is not None for name in one.names},
    )


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
    listed = {option: _VALUES.search(text) for option, text in texts.items()}
    values = {
        option: frozenset(one.strip(" '\"\n") for one in match.group(1).split(","))
        for option, match in listed.items()
        if match is not None
    }
    return KnownOptions(frozenset(names), values)
