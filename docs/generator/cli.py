"""The reference of the command line, from the functions that Typer makes the commands of.

Not from the text of `--help`: its layout changes with Typer's release, and the page would with it.
"""

import enum
import inspect
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

from dsa_doctor.cli.app import app
from generator.tables import code, page, table


@dataclass(frozen=True)
class _Parameter:
    name: str
    info: ParameterInfo
    kind: Any
    default: Any


def cli_page() -> str:
    """Return every command with its arguments and options."""
    parts = ["Options of every command: `--help` (`-h`). `dsa-doctor --version` prints the version."]
    for command in app.registered_commands:
        callback = command.callback
        if callback is None or command.hidden:
            continue
        parts += _command(command.name or callback.__name__.replace("_", "-"), callback)
    return page("Command line", *parts)


def _command(name: str, callback: Callable[..., Any]) -> list[str]:
    parameters = list(_parameters(callback))
    arguments = [one for one in parameters if isinstance(one.info, ArgumentInfo)]
    options = [one for one in parameters if isinstance(one.info, OptionInfo) and not one.info.hidden]
    synopsis = " ".join(["dsa-doctor", name, "[OPTIONS]" if options else "", *map(_synopsis, arguments)])
    parts = [f"## {name}", f"```text\n{' '.join(synopsis.split())}\n```", inspect.cleandoc(callback.__doc__ or "")]
    if arguments:
        named = [(code(_metavar(one)), _help(one), _default(one)) for one in arguments]
        parts.append(table(("Argument", "Meaning", "Default"), named))
    if options:
        rows = [(_spellings(one), _values(one), _help(one), _default(one)) for one in options]
        parts.append(table(("Option", "Values", "Meaning", "Default"), rows))
    return parts


def _parameters(callback: Callable[..., Any]) -> Iterator[_Parameter]:
    hints = get_type_hints(callback, include_extras=True)
    for name, parameter in inspect.signature(callback).parameters.items():
        hint = hints[name]
        if get_origin(hint) is not Annotated:
            continue
        kind, *extras = get_args(hint)
        info = next((extra for extra in extras if isinstance(extra, ParameterInfo)), None)
        if info is not None:
            yield _Parameter(name, info, _bare(kind), parameter.default)


def _bare(kind: Any) -> Any:
    """Return the type without `| None`."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(one for one in get_args(kind) if one is not type(None))
    return kind


def _metavar(one: _Parameter) -> str:
    return one.info.metavar or one.name.upper()


def _synopsis(one: _Parameter) -> str:
    name = _metavar(one)
    if name.startswith("["):
        return name
    repeated = "..." if get_origin(one.kind) is list else ""
    return f"{name}{repeated}" if one.default is inspect.Parameter.empty else f"[{name}]{repeated}"


def _spellings(one: _Parameter) -> str:
    # Within Annotated, Typer keeps the first spelling where a default would stand.
    spelt = map(str, (one.info.default, *(one.info.param_decls or ())))
    given = [text for text in spelt if text.startswith("-")]
    if not given:
        given = [f"--{one.name.replace('_', '-')}"]
    spellings = [part for text in given for part in re.split(r"[,/]", text)]
    return ", ".join(code(text) for text in spellings)


def _values(one: _Parameter) -> str:
    kind = get_args(one.kind)[0] if get_origin(one.kind) in (list, tuple) else one.kind
    if one.info.metavar:
        return code(one.info.metavar)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(code(str(member.value)) for member in kind)
    if kind is bool:
        return ""
    names = {str: "text", int: "integer", float: "number"}
    low, high = one.info.min, one.info.max
    bounds = " to ".join(str(limit) for limit in (low, high) if limit is not None)
    bounds = f" from {bounds}" if bounds and high is None else f", {bounds}" if bounds else ""
    return names.get(kind, "path") + bounds


def _help(one: _Parameter) -> str:
    return re.sub(r"\s*\[default: .*?\]", "", one.info.help or "")


def _default(one: _Parameter) -> str:
    said = re.search(r"\[default: (.*?)\]", one.info.help or "")
    if said is not None:
        return said.group(1)
    if one.default is inspect.Parameter.empty:
        return "required"
    if isinstance(one.default, enum.Enum):
        return code(str(one.default.value))
    if one.default is None or one.default is False:
        return ""
    return "on" if one.default is True else code(str(one.default))
