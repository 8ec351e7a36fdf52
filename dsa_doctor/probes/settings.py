"""Environment variables of this process that change what vLLM would do, if it were started from here."""

import os

from dsa_doctor.compat.settings import ALWAYS, known_variables, selects
from dsa_doctor.compat.sources import SourceTree
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Settings
from dsa_doctor.probes.environment import Environment
from dsa_doctor.probes.gpus import without_identifiers
from dsa_doctor.redaction import redact

_LONGEST_VALUE = 300


def probe(environment: Environment) -> Observation[Settings]:
    """Return the settings of the running environment; unknown for any other, whose server is started elsewhere."""
    if not environment.own:
        cause = "the settings under which another interpreter or a wheel will serve are not known here"
        return Observation[Settings].unknown(cause)
    package = environment.package_dir("vllm")
    read = known_variables(SourceTree(package.parent)) if package is not None else frozenset()
    looked_at = (*ALWAYS, *sorted(name for name in read if selects(name) and name not in ALWAYS))
    unread = tuple(sorted(name for name in os.environ if selects(name) and name not in read)) if read else ()
    variables = {name: _clean(os.environ[name]) for name in (*looked_at, *unread) if name in os.environ}
    return Observation[Settings].ok(Settings(looked_at=looked_at, variables=variables, unread=unread))


def _clean(value: str) -> str:
    return redact(without_identifiers(value))[:_LONGEST_VALUE]
