"""The fields of the JSON documents, from their schemas."""

import ast
import inspect
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from dsa_doctor.explain.schema import EXPLANATION_SCHEMA_VERSION, Explanation
from dsa_doctor.facts.observation import Fact
from dsa_doctor.facts.schema import FACTS_SCHEMA_VERSION, Facts
from dsa_doctor.policy.report import Report
from dsa_doctor.verdict.schema import VERDICT_SCHEMA_VERSION, Verdict
from generator.tables import code, page, table

_DOCUMENTS: tuple[tuple[str, str, str, str, type[BaseModel]], ...] = (
    (
        "Verdict",
        "dsa-doctor check --format json",
        "[verdict.schema.json](schemas/verdict.schema.json)",
        VERDICT_SCHEMA_VERSION,
        Verdict,
    ),
    (
        "Report of several verdicts",
        "dsa-doctor check MODEL... --target A --target B --format json",
        "[report.schema.json](schemas/report.schema.json)",
        VERDICT_SCHEMA_VERSION,
        Report,
    ),
    ("Explanation of a log", "dsa-doctor explain --format json", "", EXPLANATION_SCHEMA_VERSION, Explanation),
    ("Facts", "dsa-doctor facts", "", FACTS_SCHEMA_VERSION, Facts),
)


def schemas_page() -> str:
    """Return the documents, and the fields of each object that they hold."""
    parts = [
        "Within a major `schema_version` fields are only added; a test compares the schemas with the released ones."
        " Every object is shown once, where it is first used. An `Observation of X` is an object `Observation` whose"
        " `value` is an X.",
        table(
            ("Document", "Printed by", "JSON Schema", "`schema_version`"),
            ((name, code(command), schema, version) for name, command, schema, version, _ in _DOCUMENTS),
        ),
    ]
    shown: set[str] = set()
    for name, _, _, _, model in _DOCUMENTS:
        schema = model.model_json_schema(mode="serialization")
        given = {schema["title"]: schema, **schema.get("$defs", {})}
        objects = {title.partition("_")[0]: one for title, one in given.items()}
        fresh = {title: one for title, one in objects.items() if title not in shown and "properties" in one}
        shown |= set(fresh)
        parts.append(f"## {name}")
        for title, one in fresh.items():
            parts += [f"### {title}", one.get("description", ""), _fields(title, one)]
    return page("JSON documents", *filter(None, parts))


def _fields(title: str, schema: dict[str, Any]) -> str:
    required, meanings = schema.get("required", ()), _meanings(title)
    rows = [
        (code(name), _type(field), "yes" if name in required else "", meanings.get(name, ""))
        for name, field in schema["properties"].items()
    ]
    return table(("Field", "Type", "Required", "Meaning"), rows)


def _meanings(title: str) -> dict[str, str]:
    """Return what the strings below the fields of a class say, those of its bases included."""
    found: dict[str, str] = {}
    for one in reversed(_class(title).__mro__):
        if not (issubclass(one, Fact) and one.__module__.startswith("dsa_doctor.")):
            continue
        body = ast.parse(inspect.getsource(one)).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(field.target)] = str(text.value.value)
    return found


def _class(title: str) -> type[Fact]:
    return next(one for one in _subclasses(Fact) if one.__name__ == title)


def _subclasses(base: type[Fact]) -> Iterator[type[Fact]]:
    for one in base.__subclasses__():
        yield one
        yield from _subclasses(one)


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name, _, parameter = field["$ref"].rsplit("/", 1)[-1].strip("_").partition("_")
        return f"{name} of {parameter}" if parameter else name
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(map(_type, field["anyOf"])))
    if "enum" in field:
        return ", ".join(code(str(one)) for one in field["enum"])
    if "const" in field:
        return code(str(field["const"]))
    kind = field.get("type", "any")
    if kind == "array":
        items = field.get("items") or field.get("prefixItems")
        inner = ", ".join(map(_type, items)) if isinstance(items, list) else _type(items or {})
        return f"list of {inner}"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"object of {_type(field['additionalProperties'])}"
    return str(kind)
