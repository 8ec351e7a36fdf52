"""Errors of the command line in plain words: one sentence that names the option, what came and what is accepted."""

import re
import sys
from collections.abc import Sequence
from typing import Any, Protocol

from dsa_doctor.cli.output import EXIT_USAGE
from dsa_doctor.cli.typed import unknown_choice

EXIT_INTERRUPTED = 130

_CHOICE = re.compile(r"(?:Value error, )?'(?P<given>.*)' is not one of (?P<accepted>'.*')\.?$", re.DOTALL)
_KINDS = (
    (re.compile(r"valid int(?:eger)?\b"), "a whole number"),
    (re.compile(r"valid (?:number|float)\b"), "a number"),
    (re.compile(r"valid bool(?:ean)?\b"), "true or false"),
)
_RANGE = re.compile(r"should be (?:greater|less) than|is not in the range")
_OPTIONS = re.compile(r"\((?:Possible options|Did you mean):? ?(?P<names>[^)]*)\)|Did you mean (?P<one>\S+?)\?")


class Application(Protocol):
    """What is run: a Typer application."""

    def __call__(self, *, standalone_mode: bool) -> Any:
        """Run it; without standalone mode errors of usage are raised, and an exit code is returned."""


def run(application: Application) -> int:
    """Run the application and return its exit code; an error of usage is told in a sentence."""
    try:
        code = application(standalone_mode=False)
    except Exception as error:
        # Click's own classes, or Typer's copies of them: each release of Typer has the ones or the others.
        if type(error).__name__ == "Abort":
            return EXIT_INTERRUPTED
        if not hasattr(error, "format_message") or not hasattr(error, "exit_code"):
            raise
        return _tell(error)
    return code if isinstance(code, int) else 0


def plain_words(error: Any, arguments: Sequence[str]) -> str:
    """Return an error of usage as a sentence.

    Args:
        error: Click's or Typer's exception.
        arguments: the command line, where the value is looked up that the error does not repeat.
    """
    text = " ".join(str(error.format_message()).split())
    option, given = _option(error), None
    message = " ".join(str(getattr(error, "message", "") or "").split())
    if option is not None:
        given = _value(error, arguments)
        match = _CHOICE.search(message)
        if match is not None:
            return unknown_choice(option, match["given"], re.findall(r"'([^']*)'", match["accepted"]))
        for pattern, kind in _KINDS:
            if pattern.search(message) and given is not None:
                return f"{option} {given} is not accepted: it takes {kind}."
        bounds = _bounds(error)
        if bounds and given is not None and _RANGE.search(message):
            return f"{option} {given} is not accepted. Accepted: {bounds}."
    near = _OPTIONS.search(text)
    if near is not None:
        names = re.sub(r"[',]+", " ", near["names"] or near["one"]).split()
        return f"{text[: near.start()].rstrip(' .:')}. Did you mean {' or '.join(names)}?"
    return text if text.endswith((".", "?")) else f"{text}."


def _tell(error: Any) -> int:
    code = error.exit_code if isinstance(error.exit_code, int) else EXIT_USAGE
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        sys.stdout.write(f"{context.get_help()}\n")
        return code
    command = context.command_path if context is not None else "dsa-doctor"
    sys.stderr.write(f"dsa-doctor: {plain_words(error, sys.argv[1:])} See `{command} --help`.\n")
    return code


def _option(error: Any) -> str | None:
    """Return the long spelling of the option that an error is about, or the name of an argument."""
    param = getattr(error, "param", None)
    if param is None:
        return None
    names = list(getattr(param, "opts", ()))
    if getattr(param, "param_type_name", "") == "argument":
        return str(getattr(param, "metavar", None) or param.name).upper()
    return max(names, key=len) if names else None


def _value(error: Any, arguments: Sequence[str]) -> str | None:
    """Return what was given for the option, as typed."""
    names = set(getattr(getattr(error, "param", None), "opts", ()))
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in names:
            return value if equals else next(iter(arguments[index + 1 : index + 2]), None)
    return None


def _bounds(error: Any) -> str:
    param = getattr(error, "param", None)
    holders = (getattr(getattr(param, "type_descriptor", None), "parameter_info", None), getattr(param, "type", None))
    for holder in holders:
        low, high = getattr(holder, "min", None), getattr(holder, "max", None)
        if low is not None and high is not None:
            return f"{low:g} to {high:g}"
        if low is not None:
            return f"{low:g} or more"
        if high is not None:
            return f"at most {high:g}"
    return ""
