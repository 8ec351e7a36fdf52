"""The exact lines that would let a failing run pass, for the policy file that is in force."""

import json
from collections.abc import Sequence
from datetime import date, timedelta

from dsa_doctor.catalog.targets import find_gpu
from dsa_doctor.policy.load import OWN_FILE
from dsa_doctor.policy.report import GatedVerdict
from dsa_doctor.policy.schema import Policy, Suppression
from dsa_doctor.verdict.schema import TargetInfo

SUGGESTED_DAYS = 30
"""How long a suggested suppression lasts."""

REASON_TO_FILL_IN = "say why"


def downgrade_place(policy: Policy) -> str:
    """Return where the lines belong, in words."""
    return f"{policy.source or OWN_FILE}, under [{policy.suppress_table}]"


def downgrade_lines(
    verdicts: Sequence[GatedVerdict], failing: Sequence[set[str]], policy: Policy, *, today: date
) -> tuple[str, ...]:
    """Return one line per finding id to suppress.

    A line is limited to the targets and models that fail, where others of the run pass. Where the file already has a
    line for the id, the new one replaces it and keeps what is still in force.

    Args:
        verdicts: all verdicts of the run.
        failing: for each of them, the ids to suppress.
        policy: the policy in force.
        today: the day from which the suggested expiry is counted.
    """
    lines = []
    for finding_id in sorted(set().union(*failing)):
        hit = [verdict for verdict, ids in zip(verdicts, failing, strict=True) if finding_id in ids]
        new = Suppression(
            id=finding_id,
            reason=REASON_TO_FILL_IN,
            expires=today + timedelta(days=SUGGESTED_DAYS),
            targets=_narrowed(_targets(hit), _targets(verdicts)),
            models=_narrowed(_models(hit), _models(verdicts)),
        )
        kept = [one for one in policy.suppressions if one.id == finding_id and not one.expired(today)]
        tables = [_inline_table(one) for one in (*kept, new)]
        value = tables[0] if len(tables) == 1 else f"[{', '.join(tables)}]"
        lines.append(f"{finding_id} = {value}")
    return tuple(lines)


def _targets(verdicts: Sequence[GatedVerdict]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_spelled(one.target) for one in verdicts if one.target is not None))


def _models(verdicts: Sequence[GatedVerdict]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.model.name for one in verdicts if one.model is not None))


def _narrowed(failing: tuple[str, ...], judged: tuple[str, ...]) -> tuple[str, ...]:
    return failing if set(failing) < set(judged) else ()


def _spelled(target: TargetInfo) -> str:
    known = find_gpu(target.name)
    return known.alias if known is not None else target.sm


def _inline_table(one: Suppression) -> str:
    parts = [f"{name} = {_array(value)}" for name, value in (("targets", one.targets), ("models", one.models)) if value]
    parts += [f"reason = {_text(one.reason)}", f"expires = {one.expires.isoformat()}"]
    return f"{{ {', '.join(parts)} }}"


def _array(values: tuple[str, ...]) -> str:
    return f"[{', '.join(_text(value) for value in values)}]"


def _text(value: str) -> str:
    """Return a TOML basic string; JSON's escapes are TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
