"""The verdict and the facts as JSON: one object, data alone."""

import json
from typing import Any

from pydantic import BaseModel

from dsa_doctor.verdict.schema import Verdict


def render_json(data: BaseModel) -> str:
    """Return `data` as indented JSON, ended by a newline."""
    return data.model_dump_json(indent=2) + "\n"


def verdict_schema() -> dict[str, Any]:
    """Return the JSON Schema of the verdict, as kept in docs/schemas/verdict.schema.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Verdict.model_json_schema(mode="serialization"),
    }


def schema_text() -> str:
    """Return the JSON Schema as the repository keeps it."""
    return json.dumps(verdict_schema(), indent=2) + "\n"
