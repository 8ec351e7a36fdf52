import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from dsa_doctor.explain import Explanation

CORPUS = Path(__file__).parent.parent / "explain" / "corpus"


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    code = "import sys; from dsa_doctor.cli.app import main; sys.argv = ['dsa-doctor', *sys.argv[1:]]; main()"
    command = [sys.executable, "-c", code, "explain", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("log", "code"),
    [
        ("healthy-serving.log", 0),
        ("abi-torch-jit.log", 4),
        ("selector-ada-nope.log", 8),
        ("deepgemm-metadata-vllm.log", 16),
        ("deepgemm-several-files.log", 24),
        ("dense-oom.log", 32),
    ],
)
def test_exit_codes(log, code):
    assert run(str(CORPUS / log)).returncode == code


def test_json_of_the_input_has_the_promised_shape():
    done = run("-", "--format", "json", "--target", "a100", stdin=(CORPUS / "selector-a800-fp8-cache.log").read_bytes())
    data = json.loads(done.stdout)
    jsonschema.validate(data, Explanation.model_json_schema(mode="serialization"))
    for finding in data["findings"]:
        assert {"id", "layer", "line", "evidence", "summary", "remedy"} <= set(finding)
        assert finding["layer"] in {"csrc", "attention", "indexer", "runtime"}
        assert finding["plugin"]["resolves"] is True
    assert data["context"]["capability"] == "8.0"
    assert done.stderr == b""


def test_human_report_names_line_remedy_and_next():
    text = run(str(CORPUS / "selector-ada-nope.log"), "--verbose").stdout.decode()
    assert "DSA201" in text
    assert "line 6" in text
    assert "rejected FLASHMLA_SPARSE: compute capability not supported" in text
    assert "next: DSA301" in text


def test_redact_prints_the_whole_log_and_explains_nothing():
    log = b"start\nHF_TOKEN=hf_abcdefgh1234 num_tokens=8\n(W pid=1) end"
    done = run("--redact", stdin=log)
    assert done.returncode == 0
    assert done.stdout == b"start\nHF_TOKEN=<secret> num_tokens=8\n(W pid=1) end"


def test_what_is_no_log_is_wrong_usage():
    done = run("-", stdin=b"\x7fELF" + bytes(200))
    assert done.returncode == 2
    assert b"ELF" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("no-such-file.log",), ("/",), ("-", "--target", "nonsense"), ("-", "--facts", "no")]
)
def test_what_cannot_be_read_is_wrong_usage(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_the_page_of_a_finding_is_an_object_where_json_is_asked_for():
    done = run("dsa301", "--format", "json")
    page = json.loads(done.stdout)
    assert (done.returncode, page["id"], page["layer"]) == (0, "DSA301", "indexer")
    assert page["page"] == run("DSA301").stdout.decode()


def test_no_line_ends_in_blanks():
    done = run(stdin=b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n" * 3)
    assert done.stdout
    assert not [line for line in done.stdout.decode().splitlines() if line.endswith(" ")]
