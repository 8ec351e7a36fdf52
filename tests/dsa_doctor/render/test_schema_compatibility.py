"""The JSON schemas are as committed, and differ from the released ones by added fields alone.

After a deliberate addition:

    DSA_DOCTOR_UPDATE_GOLDEN=1 pytest tests/dsa_doctor/render/test_schema_compatibility.py

docs/schemas/*.schema.json then change; docs/schemas/released/ holds what readers rely on, and is only ever added to.
"""

import copy
import json
import os
from pathlib import Path

import jsonschema
import pytest

from dsa_doctor.policy.report import Report, SingleReport
from dsa_doctor.render.json import schema_text
from dsa_doctor.verdict.schema import Verdict
from tests.dsa_doctor.render.test_golden import INPUTS, load
from tests.dsa_doctor.reports import report, verdict

SCHEMAS = Path(__file__).parents[3] / "docs" / "schemas"
RELEASED = SCHEMAS / "released"
UPDATE = bool(os.environ.get("DSA_DOCTOR_UPDATE_GOLDEN"))


def report_schema_text() -> str:
    schema = Report.model_json_schema(mode="serialization")
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


CURRENT = {"verdict": schema_text, "report": report_schema_text}


@pytest.mark.parametrize("name", CURRENT)
def test_the_committed_schema_is_the_codes(name):
    path = SCHEMAS / f"{name}.schema.json"
    if UPDATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CURRENT[name]())
    assert json.loads(path.read_text()) == json.loads(CURRENT[name]())


def incompatibilities(old, new, where="", old_root=None, new_root=None):
    """Return what a reader of documents of the old schema could trip over in documents of the new one."""
    old_root, new_root = old_root or old, new_root or new
    old, new = resolved(old, old_root), resolved(new, new_root)
    found = []
    for name, field in old.get("properties", {}).items():
        if name not in new.get("properties", {}):
            found.append(f"{where}/{name}: removed")
        else:
            found += incompatibilities(field, new["properties"][name], f"{where}/{name}", old_root, new_root)
    found += [
        f"{where}/{name}: no longer always there"
        for name in set(old.get("required", ())) - set(new.get("required", ()))
    ]
    for key in ("items", "additionalProperties"):
        if isinstance(old.get(key), dict):
            found += incompatibilities(old[key], new.get(key) or {}, f"{where}/{key}", old_root, new_root)
    if "type" in old and old["type"] != new.get("type"):
        found.append(f"{where}: type {old['type']} became {new.get('type')}")
    if not set(kinds(old, old_root)) >= set(kinds(new, new_root)):
        found.append(f"{where}: a reader meets {set(kinds(new, new_root)) - set(kinds(old, old_root))}")
    for old_part, new_part in zip(old.get("anyOf", ()), new.get("anyOf", ()), strict=False):
        found += incompatibilities(old_part, new_part, where, old_root, new_root)
    if set(new.get("enum", ())) - set(old.get("enum", new.get("enum", ()))):
        found.append(f"{where}: new values {sorted(set(new['enum']) - set(old['enum']))}")
    return found


def resolved(schema, root):
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def kinds(schema, root):
    return [resolved(part, root).get("type", "enum") for part in schema.get("anyOf", ())]


@pytest.mark.parametrize("path", sorted(RELEASED.glob("*.json")), ids=lambda path: path.name)
def test_fields_are_only_added(path):
    name = path.name.split("-")[0]
    assert incompatibilities(json.loads(path.read_text()), json.loads(CURRENT[name]())) == []


def test_there_is_a_released_schema_of_each():
    assert {path.name for path in RELEASED.glob("*.json")} >= {"verdict-1.0.schema.json", "report-1.0.schema.json"}


def changed(change):
    schema = copy.deepcopy(json.loads(schema_text()))
    change(schema)
    return incompatibilities(json.loads(schema_text()), schema)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one["properties"].pop("backends"), "/backends: removed"),
        (lambda one: one["$defs"]["Finding"]["properties"].pop("remedy"), "/findings/items/remedy: removed"),
        (lambda one: one["properties"]["exit_code"].update(type="string"), "/exit_code: type integer became string"),
        (lambda one: one["required"].remove("layers"), "/layers: no longer always there"),
        (lambda one: one["$defs"]["Layer"]["properties"]["state"]["enum"].append("new"), "new values ['new']"),
        (lambda one: one["$defs"]["TargetInfo"]["properties"].pop("sm"), "/target/sm: removed"),
    ],
)
def test_a_breaking_change_is_noticed(change, said):
    assert any(said in one for one in changed(change))


def test_an_added_field_is_no_breaking_change():
    def add(schema):
        schema["properties"]["new"] = {"type": "string"}
        schema["$defs"]["Finding"]["properties"]["new"] = {"type": "string"}

    assert changed(add) == []


@pytest.mark.parametrize("name", INPUTS)
def test_documents_of_earlier_days_are_still_read(name):
    found = load(name)
    jsonschema.validate(found.model_dump(mode="json"), json.loads(schema_text()))


def test_documents_validate_against_what_was_released():
    for path in sorted(RELEASED.glob("*.json")):
        schema = json.loads(path.read_text())
        document = verdict() if path.name.startswith("verdict") else report(verdict(), verdict(target="h100"))
        jsonschema.validate(document.model_dump(mode="json"), schema)


def test_every_document_is_a_verdict_with_more_fields():
    assert set(Verdict.model_fields) <= set(SingleReport.model_fields)
