"""Keeps what probes observed, and gives it back for as long as it would be observed again.

An entry is found by a digest of everything that can change the answer and can be told beforehand (`identity`), and is
believed only if the files that the run had loaded and the variables that it had read are still the same (`trace`).
Only whole answers are kept: never an unknown, never the outcome of a run in which a child failed.
"""

import os
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from dsa_doctor.cache.identity import identity, key_of
from dsa_doctor.cache.store import Store
from dsa_doctor.cache.trace import Trace, digest_of_files, digest_of_variables
from dsa_doctor.facts.observation import Observation
from dsa_doctor.probes.environment import Environment

T = TypeVar("T")

SWITCH = "DSA_DOCTOR_CACHE"
_RACY_NANOSECONDS = 2_000_000_000
"""A file changed so shortly before a run may be changed again within the same tick of its file system's clock."""


class Entry(BaseModel, Generic[T]):
    """The content of one entry; read back strictly, since anybody may have written it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    made: datetime
    folders: dict[str, list[str]]
    """Names of loaded files, by folder."""
    files: str
    """Digest of those files."""
    variables: list[str]
    """Names of the variables that were read."""
    values: str
    """Digest of their values."""
    value: T

    def paths(self) -> list[str]:
        """Return the loaded files."""
        return [f"{folder}/{name}" for folder, names in self.folders.items() for name in names]


class Keeper:
    """Reads and writes entries of one store. Threads may share it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._identities: dict[Environment, dict[str, Any]] = {}

    def observation(
        self,
        name: str,
        environment: Environment,
        model: type[T],
        probe: Callable[[Trace], Observation[T]],
    ) -> Observation[T]:
        """Return the kept observation of a probe, or ask it and keep what it says where that is a whole answer.

        Args:
            name: the probe.
            environment: what it examines.
            model: type of the observation's value.
            probe: asks; it fills the trace that it is given.
        """
        question = {"probe": name}
        found = self.read(environment, question, model)
        if found is not None:
            return Observation[T].ok(found.value).model_copy(update={"kept_from": found.made})
        trace, started = Trace(), time.time_ns()
        observed = probe(trace)
        if observed.status == "ok" and observed.value is not None:
            self.write(environment, question, model, observed.value, trace, started_ns=started)
        return observed

    def read(self, environment: Environment, question: dict[str, Any], model: type[T]) -> Entry[T] | None:
        """Return the entry that answers a question, or None where there is none that holds."""
        key = self._key(environment, question)
        content = self.store.get(key) if key is not None else None
        if key is None or content is None:
            return None
        try:
            entry = Entry[model].model_validate_json(content)  # type: ignore[valid-type]
        except (ValidationError, ValueError, RecursionError):
            return None
        holds = (
            entry.key == key
            and entry.made <= datetime.now(timezone.utc)
            and digest_of_files(entry.paths()) == entry.files
            and digest_of_variables(entry.variables) == entry.values
        )
        return entry if holds else None

    def write(
        self,
        environment: Environment,
        question: dict[str, Any],
        model: type[T],
        value: T,
        trace: Trace,
        *,
        started_ns: int,
        made: datetime | None = None,
    ) -> bool:
        """Keep a value, unless a child broke or something changed while it was made; returns whether it is kept.

        Args:
            environment: what was examined.
            question: what was asked, as for `read`.
            model: type of the value.
            value: what was answered.
            trace: what the run looked at.
            started_ns: when the run began, in nanoseconds since the epoch.
            made: when the oldest part of the value was observed; None is now.
        """
        key = self._key(environment, question)
        if trace.broke or key is None or self._changed_since(environment):
            return False
        files = digest_of_files(trace.files, not_since_ns=started_ns - _RACY_NANOSECONDS)
        if files is None:
            return False
        folders: dict[str, list[str]] = {}
        for path in sorted(trace.files):
            folder, _, name = path.rpartition("/")
            folders.setdefault(folder, []).append(name)
        entry = Entry[model](  # type: ignore[valid-type]
            key=key,
            made=made or datetime.now(timezone.utc),
            folders=folders,
            files=files,
            variables=sorted(trace.variables),
            values=digest_of_variables(trace.variables),
            value=value,
        )
        return self.store.put(key, entry.model_dump_json().encode())

    def _key(self, environment: Environment, question: dict[str, Any]) -> str | None:
        if environment.temporary:
            return None
        with self._lock:
            if environment not in self._identities:
                try:
                    self._identities[environment] = identity(environment)
                except OSError:
                    return None
            return key_of({**self._identities[environment], "question": question})

    def _changed_since(self, environment: Environment) -> bool:
        try:
            return identity(environment) != self._identities[environment]
        except OSError:
            return True


def keeper_from_environment(*, wanted: bool = True) -> Keeper | None:
    """Return the user's keeper; None with --no-cache, with DSA_DOCTOR_CACHE=off, or without a home.

    Raises:
        ValueError: DSA_DOCTOR_CACHE has another value than on, off or none.
    """
    value = os.environ.get(SWITCH, "").strip().lower()
    if value not in {"", "on", "off"}:
        raise ValueError(f"{SWITCH}={value!r} is not accepted. Accepted: on (the default), off.")
    store = Store.of_user() if wanted and value != "off" else None
    return Keeper(store) if store is not None else None
