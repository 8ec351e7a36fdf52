"""The tables of a policy file, as pydantic checks them, and its errors as sentences."""

import difflib
import unicodedata
from datetime import date
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from dsa_doctor.catalog.findings import FINDINGS_BY_ID
from dsa_doctor.catalog.targets import target_from_text
from dsa_doctor.policy.schema import GATED_LAYERS, LAYER_NAMES, RESOLVED_STATES, ResolvedState
from dsa_doctor.reading import ReadingError, check_name, one_line
from dsa_doctor.verdict.schema import FindingLayer

_PLACEHOLDERS = frozenset({
    "a", "asap", "asdf", "bar", "baz", "because", "blah", "dummy", "example", "expires", "explain", "explanation",
    "fill", "fixme", "foo", "here", "in", "it", "later", "me", "my", "na", "nil", "no", "none", "null", "of", "ok",
    "okay", "placeholder", "please", "qwerty", "reason", "reasons", "say", "some", "someday", "something", "sometime",
    "tba", "tbc", "tbd", "temp", "temporary", "test", "testing", "text", "the", "this", "tmp", "to", "todo",
    "undefined", "unknown", "why", "wip", "write", "x", "xx", "xxx", "xxxx", "y", "yes", "your", "z",
})  # fmt: skip
"""Words of which alone no reason is made; "say why" is what a suggested line holds."""

_FEWEST_CHARACTERS = 3


def _named(text: str) -> str:
    try:
        check_name(text)
    except ReadingError as error:
        raise PydanticCustomError("name", "{problem}", {"problem": str(error)}) from error
    return text


def _target(text: str) -> str:
    try:
        target_from_text(text)
    except ValueError as error:
        raise PydanticCustomError("sentence", "{said}", {"said": str(error).removeprefix("--target ")}) from error
    return text


def _finding(text: str) -> str:
    if text not in FINDINGS_BY_ID:
        near = difflib.get_close_matches(text.upper(), FINDINGS_BY_ID, n=3) or list(FINDINGS_BY_ID)[:3]
        said = f"no such finding. Accepted: a finding id, e.g. {', '.join(near)}."
        raise PydanticCustomError("sentence", "{said}", {"said": said})
    return text


def _reason(text: str) -> str:
    """Refuse what says nothing: the point of a reason is that somebody can judge it later."""
    bare = "".join(one if unicodedata.category(one)[0] in "LN" else " " for one in text.casefold())
    if len(set(bare.replace(" ", ""))) < _FEWEST_CHARACTERS or set(bare.split()) <= _PLACEHOLDERS:
        raise PydanticCustomError("placeholder", "{shown} is a placeholder", {"shown": repr(text)})
    return text


def _for_every_layer(value: object) -> object:
    """Return the allowed states per layer, where one list is given for all of them."""
    return dict.fromkeys(LAYER_NAMES, value) if isinstance(value, list) else value


def _entries(value: object) -> object:
    """Return a list of entries per finding, where most have one."""
    if not isinstance(value, dict):
        return value
    return {key: one if isinstance(one, list) else [one] for key, one in value.items()}


_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_named)]
_Target = Annotated[_Text, AfterValidator(_target)]
_Reason = Annotated[_Text, AfterValidator(_reason)]
_Finding = Annotated[str, AfterValidator(_finding)]


class Table(BaseModel):
    """A table whose keys are all known; the description of a field says what it accepts."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SuppressionTable(Table):
    """One entry of [suppress]."""

    reason: _Reason = Field(description="a text that says why it is tolerated")
    expires: date = Field(description="a TOML date without quotes, e.g. 2030-01-31")
    targets: list[_Target] = Field(default=[], description="a list of names")
    models: list[_Text] = Field(default=[], description="a list of names")


def _states() -> Any:
    accepted = f"a list of at least one of {', '.join(RESOLVED_STATES)}"
    return Field(default=list(RESOLVED_STATES), min_length=1, description=accepted)


class StatesTable(Table):
    """Allowed states by layer."""

    csrc: list[ResolvedState] = _states()
    attention: list[ResolvedState] = _states()
    indexer: list[ResolvedState] = _states()


class PolicyTable(Table):
    """The whole policy, under its keys in the file."""

    models: list[_Text] = Field(default=[], description="a list of names")
    targets: list[_Target] = Field(default=[], description="a list of names")
    required_layers: list[FindingLayer] = Field(
        default=list(GATED_LAYERS),
        alias="required-layers",
        min_length=1,
        description=f"a list of at least one of {', '.join(GATED_LAYERS)}",
    )
    allowed_states: Annotated[StatesTable, BeforeValidator(_for_every_layer)] = Field(
        default=StatesTable(),
        alias="allowed-states",
        description=f"a list of at least one of {', '.join(RESOLVED_STATES)}, or a table of such lists by layer",
    )
    strict: bool = Field(default=False, description="true or false")
    suppress: Annotated[dict[_Finding, list[SuppressionTable]], BeforeValidator(_entries)] = Field(
        default={}, description='a table of finding ids, e.g. DSA201 = { reason = "why", expires = 2030-01-31 }'
    )


def problems(error: ValidationError) -> list[str]:
    """Return one sentence per problem, unknown keys first: a mistyped key is missing under its right name too."""
    found = error.errors(include_url=False)
    return [_sentence(one) for one in sorted(found, key=lambda one: one["type"] != "extra_forbidden")]


def _sentence(error: ErrorDetails) -> str:
    names = [part for part in error["loc"] if isinstance(part, str) and part != "[key]"]
    key = one_line(".".join(names))
    table, accepted = _schema_of(names)
    kind, shown = error["type"], one_line(repr(error.get("input")))[:200]
    if kind == "sentence":
        return f"{key}: {error['msg']}"
    if kind == "extra_forbidden":
        keys = [field.alias or name for name, field in table.model_fields.items()]
        near = difflib.get_close_matches(names[-1].replace("_", "-").lower(), keys, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{key}: unknown key{hint}. Accepted: {', '.join(keys)}."
    if kind == "missing":
        problem = {"reason": "a reason is required", "expires": "an expiry date is required"}[names[-1]]
    elif kind in {"placeholder", "name"}:
        problem = error["msg"]
    else:
        problem = f"{shown} is not accepted"
    return f"{key}: {problem}. Accepted: {accepted}."


def _schema_of(names: list[str]) -> tuple[type[Table], str]:
    """Return the table that holds the last of the keys, and what that key accepts."""
    table: type[Table]
    if names[0] == "suppress" and len(names) > 1:
        table, rest = SuppressionTable, names[2:]
        accepted = '{ reason = "why", expires = 2030-01-31 }, or a list of such tables'
    elif names[0] == "allowed-states" and len(names) > 1:
        table, rest, accepted = StatesTable, names[1:], ""
    else:
        table, rest, accepted = PolicyTable, names, ""
    fields = {field.alias or name: field.description or "" for name, field in table.model_fields.items()}
    return table, fields.get(rest[0], "") if rest else accepted
