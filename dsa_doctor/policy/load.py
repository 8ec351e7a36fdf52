"""Reads a policy from dsa-doctor.toml or from [tool.dsa-doctor] of pyproject.toml."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dsa_doctor.policy.file import PolicyTable, problems
from dsa_doctor.policy.schema import LAYER_NAMES, Policy, Suppression
from dsa_doctor.reading import ReadingError, one_line, parse_toml, read_file

OWN_FILE = "dsa-doctor.toml"
PYPROJECT = "pyproject.toml"
TABLE = "tool.dsa-doctor"

_MAX_POLICY = 4 << 20
_MOST_PROBLEMS = 10
_ACCEPTED = "a TOML file such as dsa-doctor.toml"


class PolicyError(ValueError):
    """A policy file cannot be used; the message names the file, the key, what came and what is accepted."""


def find_policy(folder: Path) -> Policy:
    """Return the policy of a folder: its dsa-doctor.toml, else [tool.dsa-doctor] of its pyproject.toml, else defaults.

    Raises:
        PolicyError: the file is there and cannot be used.
    """
    own = folder / OWN_FILE
    if own.is_file():
        return load_policy(own)
    project = folder / PYPROJECT
    # A project's file that does not speak of us is no business of ours, whatever is wrong with it.
    if project.is_file() and _mentions_us(project):
        table = _table_of(_parse(project), project)
        if table is not None:
            return policy_from(table, file=one_line(project.name), table=TABLE)
    return Policy()


def _mentions_us(project: Path) -> bool:
    try:
        return "dsa-doctor" in read_file(project, limit=_MAX_POLICY, exact=False)
    except ReadingError:
        return True  # said when it is parsed


def load_policy(path: Path) -> Policy:
    """Read one policy file; a file named pyproject.toml holds it in [tool.dsa-doctor], any other at its top level.

    Raises:
        PolicyError: the file cannot be read or says something that is not accepted.
    """
    content = _parse(path)
    in_project = path.name == PYPROJECT
    table = _table_of(content, path) if in_project else content
    if table is None:
        raise PolicyError(f"--policy {path}: has no table [{TABLE}].")
    return policy_from(table, file=one_line(path.name), table=TABLE if in_project else "")


def _parse(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_file(path, limit=_MAX_POLICY))
    except ReadingError as error:
        raise PolicyError(f"--policy {one_line(str(path))}: {error}. Accepted: {_ACCEPTED}.") from error


def _table_of(content: dict[str, Any], path: Path) -> dict[str, Any] | None:
    tool = content.get("tool", {})
    table = tool.get("dsa-doctor") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise PolicyError(f"{path.name}: [{TABLE}] must be a table.")
    return table


def policy_from(content: dict[str, Any], *, file: str, table: str = "") -> Policy:
    """Return the policy that a parsed table says.

    Args:
        content: the keys of the policy.
        file: its file, as errors name it.
        table: TOML table that holds it in that file; empty at the top level.

    Raises:
        PolicyError: one line per problem.
    """
    try:
        said = PolicyTable.model_validate(content)
    except ValidationError as error:
        raise PolicyError("\n".join(f"{file}: {problem}" for problem in problems(error)[:_MOST_PROBLEMS])) from error
    return Policy(
        source=file,
        table=table,
        models=tuple(said.models),
        targets=tuple(said.targets),
        required_layers=tuple(said.required_layers),
        allowed_states={layer: tuple(getattr(said.allowed_states, layer)) for layer in LAYER_NAMES},
        strict=said.strict,
        suppressions=tuple(
            Suppression(
                id=finding_id,
                reason=entry.reason,
                expires=entry.expires,
                targets=tuple(entry.targets),
                models=tuple(entry.models),
            )
            for finding_id, entries in said.suppress.items()
            for entry in entries
        ),
    )
