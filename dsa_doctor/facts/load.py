"""Reads a facts file, as `dsa-doctor facts` writes it; it may come from any machine, so nothing in it is trusted."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dsa_doctor.facts.schema import FACTS_SCHEMA_VERSION, Facts
from dsa_doctor.reading import ReadingError, one_line, parse_json, read_file

MAX_FACTS = 32 << 20
"""Bytes, decompressed; the largest file seen has 170,000."""

_OTHERS = (
    ("a model's configuration", {"model_type", "architectures", "num_hidden_layers"}),
    ("a report of `dsa-doctor check`", {"verdicts", "layers", "exit_code"}),
    ("an index of safetensors files", {"weight_map"}),
)
"""Documents that are taken for facts, by keys of which one is enough."""


def read_facts(path: Path) -> Facts:
    """Return the facts of a file, which may be compressed (gzip, bzip2, xz, zstd) or `-`, standard input.

    Raises:
        ReadingError: it cannot be read, is not JSON, or is not a facts file of a schema that this version reads.
    """
    return facts_from_text(read_file(path, limit=MAX_FACTS))


def facts_from_text(text: str) -> Facts:
    """Return the facts of a document.

    Raises:
        ReadingError: see `read_facts`.
    """
    try:
        content = parse_json(text)
    except ReadingError as error:
        raise ReadingError(f"not a facts file ({error})") from error
    if (what := _other_document(content)) is not None:
        raise ReadingError(f"not a facts file, but {what}")
    try:
        facts = Facts.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise ReadingError(f"not a facts file ({one_line(where)[:200]}: {one_line(first['msg'])[:200]})") from error
    if facts.schema_version.split(".")[0] != FACTS_SCHEMA_VERSION.split(".")[0]:
        raise ReadingError(
            f"schema version {one_line(facts.schema_version)[:20]}, and this dsa-doctor reads {FACTS_SCHEMA_VERSION}; "
            "gather the facts again, or use the dsa-doctor that wrote them"
        )
    return facts


def _other_document(content: Any) -> str | None:
    if not isinstance(content, dict):
        return f"a {type(content).__name__} where an object is needed"
    if "gpus" in content:
        return None
    return next((what for what, keys in _OTHERS if keys & content.keys()), None)
