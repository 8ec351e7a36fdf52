"""Reads a policy from dsa-doctor.toml or from [tool.dsa-doctor] of pyproject.toml."""

import difflib
import sys
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, cast

from dsa_doctor.catalog.findings import FINDINGS_BY_ID
from dsa_doctor.catalog.targets import target_from_text
from dsa_doctor.policy.schema import GATED_LAYERS, LAYER_NAMES, RESOLVED_STATES, Policy, Suppression

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OWN_FILE = "dsa-doctor.toml"
PYPROJECT = "pyproject.toml"
TABLE = "tool.dsa-doctor"

_KEYS = ("models", "targets", "required-layers", "allowed-states", "strict", "suppress")
_SUPPRESSION_KEYS = ("reason", "expires", "targets", "models")


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
    if project.is_file() and _table_of(_parse(project), project) is not None:
        return load_policy(project)
    return Policy()


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
    return _Reader(path.name, TABLE if in_project else "").policy(table)


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"--policy {path}: cannot be read ({type(error).__name__}: {error}).") from error
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"--policy {path}: not valid TOML ({error}).") from error


def _table_of(content: dict[str, Any], path: Path) -> dict[str, Any] | None:
    tool = content.get("tool", {})
    table = tool.get("dsa-doctor") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise PolicyError(f"{path.name}: [{TABLE}] must be a table.")
    return table


class _Reader:
    """Turns the parsed table into a Policy; every error names the file and the key."""

    def __init__(self, file: str, table: str) -> None:
        self.file = file
        self.table = table

    def policy(self, table: Mapping[str, Any]) -> Policy:
        self._known_keys(table, _KEYS, "")
        targets = self._texts(table, "targets")
        self._check_targets(targets, "targets")
        required = self._choices(table.get("required-layers", list(GATED_LAYERS)), "required-layers", GATED_LAYERS)
        strict = table.get("strict", False)
        if not isinstance(strict, bool):
            raise self._error("strict", f"{strict!r} is not accepted", "true or false")
        return Policy(
            source=self.file,
            table=self.table,
            models=self._texts(table, "models"),
            targets=targets,
            required_layers=cast(Any, required),
            allowed_states=cast(Any, self._allowed_states(table.get("allowed-states", {}))),
            strict=strict,
            suppressions=tuple(self._suppressions(table.get("suppress", {}))),
        )

    def _error(self, key: str, problem: str, accepted: str) -> PolicyError:
        return PolicyError(f"{self.file}: {key}: {problem}. Accepted: {accepted}.")

    def _known_keys(self, table: Mapping[str, Any], accepted: tuple[str, ...], where: str) -> None:
        for key in table:
            if key not in accepted:
                near = difflib.get_close_matches(key.replace("_", "-").lower(), accepted, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise self._error(f"{where}{key}", f"unknown key{hint}", ", ".join(accepted))

    def _texts(self, table: Mapping[str, Any], key: str, where: str = "") -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
            raise self._error(f"{where}{key}", f"{value!r} is not accepted", "a list of names")
        return tuple(value)

    def _choices(self, value: object, key: str, accepted: tuple[str, ...]) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise self._error(key, f"{value!r} is not accepted", f"a list of at least one of {', '.join(accepted)}")
        for one in value:
            if one not in accepted:
                raise self._error(key, f"{one!r} is not accepted", ", ".join(accepted))
        return tuple(value)

    def _allowed_states(self, value: object) -> dict[str, tuple[str, ...]]:
        """Return the allowed states per layer, from one list for all layers or from a table by layer."""
        if isinstance(value, list):
            everywhere = self._choices(value, "allowed-states", RESOLVED_STATES)
            return dict.fromkeys(LAYER_NAMES, everywhere)
        if not isinstance(value, dict):
            accepted = f"a list of {', '.join(RESOLVED_STATES)}, or a table of such lists by layer"
            raise self._error("allowed-states", f"{value!r} is not accepted", accepted)
        self._known_keys(value, LAYER_NAMES, "allowed-states.")
        return {
            layer: self._choices(value.get(layer, list(RESOLVED_STATES)), f"allowed-states.{layer}", RESOLVED_STATES)
            for layer in LAYER_NAMES
        }

    def _suppressions(self, value: object) -> Iterator[Suppression]:
        if not isinstance(value, dict):
            raise self._error("suppress", f"{value!r} is not accepted", "a table of finding ids, e.g. DSA201 = { ... }")
        for finding_id, entries in value.items():
            if finding_id not in FINDINGS_BY_ID:
                near = difflib.get_close_matches(finding_id.upper(), FINDINGS_BY_ID, n=3)
                raise self._error(f"suppress.{finding_id}", "no such finding", f"a finding id, e.g. {', '.join(near)}")
            for entry in entries if isinstance(entries, list) else [entries]:
                yield self._suppression(finding_id, entry)

    def _suppression(self, finding_id: str, entry: object) -> Suppression:
        where = f"suppress.{finding_id}."
        if not isinstance(entry, dict):
            example = '{ reason = "why", expires = 2030-01-31 }'
            raise self._error(where.rstrip("."), f"{entry!r} is not accepted", example)
        self._known_keys(entry, _SUPPRESSION_KEYS, where)
        reason, expires = entry.get("reason"), entry.get("expires")
        if not isinstance(reason, str) or not reason.strip():
            raise self._error(f"{where}reason", "a reason is required" if reason is None else f"{reason!r}", "a text")
        if not isinstance(expires, date) or isinstance(expires, datetime):
            problem = "an expiry date is required" if expires is None else f"{expires!r} is not a date"
            raise self._error(f"{where}expires", problem, "a TOML date without quotes, e.g. 2030-01-31")
        targets = self._texts(entry, "targets", where)
        self._check_targets(targets, f"{where}targets")
        return Suppression(
            id=finding_id,
            reason=reason.strip(),
            expires=expires,
            targets=targets,
            models=self._texts(entry, "models", where),
        )

    def _check_targets(self, targets: tuple[str, ...], key: str) -> None:
        for text in targets:
            try:
                target_from_text(text)
            except ValueError as error:
                raise PolicyError(f"{self.file}: {key}: {str(error).removeprefix('--target ')}") from error
