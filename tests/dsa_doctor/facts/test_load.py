"""Facts files from anywhere: read whatever wrote them, or refused by a sentence."""

import contextlib
import functools
import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from dsa_doctor.facts.load import facts_from_text, read_facts
from dsa_doctor.inputs import Options, UsageError, load_facts
from dsa_doctor.preflight import judge_fleet
from dsa_doctor.reading import ReadingError
from tests.dsa_doctor import facts_library

DATA = Path(__file__).parents[2] / "data" / "facts-h100-vllm-0.26.0.json"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda data: zstandard.ZstdCompressor().compress(data)])
def test_a_facts_file_is_the_same_in_every_encoding_and_compression(tmp_path, encoding, pack):
    path = tmp_path / "facts"
    path.write_bytes(pack(DATA.read_text().encode(encoding)))
    assert read_facts(path) == facts_from_text(DATA.read_text())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "not a facts file, but a list where an object is needed"),
        ('{"model_type": "glm_moe_dsa"}', "not a facts file, but a model's configuration"),
        ('{"layers": [], "exit_code": 0}', "not a facts file, but a report of `dsa-doctor check`"),
        ('{"weight_map": {}}', "not a facts file, but an index of safetensors files"),
        ("{}", "not a facts file ("),
        ('{"gpus": 1}', "not a facts file ("),
        ("[" * 100_000, "nested deeper than 100 levels"),
        ('{"gpus": NaN}', "NaN is not a number"),
    ],
)
def test_what_is_no_facts_file_is_said(text, said):
    with pytest.raises(ReadingError) as caught:
        facts_from_text(text)
    assert said in str(caught.value)


def test_a_newer_schema_is_said():
    content = json.loads(DATA.read_text())
    content["schema_version"] = "2.\x1b[2J"
    with pytest.raises(ReadingError, match=r"schema version 2\.\\u001b"):
        facts_from_text(json.dumps(content))


def test_the_option_the_file_and_what_is_accepted_are_named(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(
        UsageError, match=r"^--facts .*a\.json: not a facts file .*Accepted: a file made by `dsa-doctor"
    ):
        load_facts(tmp_path / "a.json")
    with pytest.raises(UsageError, match=r"^--facts /dev/zero: cannot be read \(it is a device"):
        load_facts(Path("/dev/zero"))


def test_standard_input_is_judged_as_a_file_is():
    def judge(*arguments, **options):
        return subprocess.run(
            [sys.executable, "-m", "dsa_doctor", "check", "GLM-5-FP8", "-t", "a100", "-f", "json", *arguments],
            capture_output=True, check=False, timeout=120, env={**os.environ, "COLUMNS": "200"}, **options,
        )  # fmt: skip

    from_file = judge("--facts", str(DATA))
    from_pipe = judge("--facts", "-", input=gzip.compress(DATA.read_bytes()))
    assert from_pipe.stdout == from_file.stdout != b""
    assert from_pipe.returncode == from_file.returncode
    nothing = judge("--facts", "-", stdin=subprocess.DEVNULL)
    assert nothing.returncode == 2
    assert b"--facts -: not a facts file (is empty)" in nothing.stderr


def test_what_this_version_writes_it_reads():
    facts = facts_library.facts(facts_library.gpu("NVIDIA A100-SXM4-80GB", "8.0"))
    assert facts_from_text(facts.model_dump_json()) == facts


HOSTILE = (
    None, -1, 0, 2**63, 1.5, True, "", "x", "9.9.9", "-1.0", "8.0", "99.0", "\x1b[2J", "a\nb", [], {}, "sm_80", "sm_",
    "1" * 300, [""], "ok", "unknown", "absent", ["a\nb"],
)  # fmt: skip


def places(value, place=()):
    """Yield the place of every value in a document."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from places(child, (*place, key))


def test_facts_that_no_machine_would_give_are_refused_or_judged(tmp_path):
    """A value in the wrong place is refused by the schema, or does no harm: the resolver raises nothing."""
    content = json.loads(DATA.read_text())
    content["selector"]["value"]["answers"] = content["selector"]["value"]["answers"][:40]
    text, chance, judged = json.dumps(content), random.Random(7), 0
    everywhere = [place for place in places(content) if place]
    path = tmp_path / "facts.json"
    while judged < 60:
        mutated = json.loads(text)
        *parents, last = chance.choice(everywhere)
        functools.reduce(lambda inner, key: inner[key], parents, mutated)[last] = chance.choice(HOSTILE)
        path.write_text(json.dumps(mutated))
        with contextlib.suppress(UsageError):
            load_facts(path)
            judged += 1
            for target in ([], ["a100"]):
                judge_fleet(["GLM-5-FP8"], target, Options(), facts_file=path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("gpus", "value", "gpus", 0, "capability"), "9.0.0"),
        (("gpus", "value", "gpus", 0, "capability"), "sm90\n"),
        (("gpus", "value", "gpus", 0, "memory_bytes"), -1),
        (("csrc", "value", "extensions", 0, "images", 0, "architecture"), "sm_"),
        (("csrc", "value", "ops", 0, "machine_code"), ["sm_80", "all"]),
        (("selector", "value", "answers", 0, "query", "capability"), "8"),
    ],
)
def test_architectures_and_capabilities_are_checked_where_they_come_in(place, value):
    content = json.loads(DATA.read_text())
    functools.reduce(lambda inner, key: inner[key], place[:-1], content)[place[-1]] = value
    with pytest.raises(ReadingError, match=r"not a facts file \(" + r"\.".join(str(part) for part in place)):
        facts_from_text(json.dumps(content))
