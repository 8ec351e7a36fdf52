import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from dsa_doctor.verify import as_human, as_json, verify_target
from dsa_kernels.aot.table import TableError, TableRow

GOOD = TableRow("op", "bf16", "kernel", 80, 4, 2, 128, 0, 56_320, 166_912, True, True, "")
BAD = replace(GOOD, variant="fp8", spill_bytes=8, ok=False, reason="spills 8 bytes a thread")


def test_a_sound_table():
    table = verify_target("8.0", lambda capability: [GOOD] if capability == 80 else [])
    assert table.ok
    assert table.target == "sm80"
    shown = json.loads(as_json(table))
    assert shown["ok"] is True
    assert shown["rows"][0]["registers"] == 128
    assert "all 1 kernel variants" in as_human(table)[1]


def test_one_bad_variant_spoils_the_table():
    table = verify_target("sm80", lambda capability: [GOOD, BAD])
    assert not table.ok
    assert "1 of 2" in as_human(table)[1]
    assert json.loads(as_json(table))["rows"][1]["reason"] == "spills 8 bytes a thread"


def test_nothing_compiled_is_no_proof():
    assert not verify_target("sm80", lambda capability: []).ok

    def fail(capability):
        raise TableError("no triton")

    table = verify_target("sm80", fail)
    assert not table.ok
    assert "no triton" in as_human(table)[1]


def test_unknown_target_names_the_known_ones():
    with pytest.raises(ValueError, match="sm80"):
        verify_target("sm70", lambda capability: [])


@pytest.mark.slow
def test_the_real_compiler_on_one_op():
    code = (
        "from functools import partial; from dsa_kernels.aot.table import compile_table;"
        "from dsa_doctor.verify import verify_target, as_json;"
        "print(as_json(verify_target('sm80', partial(compile_table, jobs=1, op='sparse_mla_fwd'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    table = json.loads(done.stdout)
    assert table["ok"], [row["reason"] for row in table["rows"] if not row["ok"]]
    assert {row["shared_limit"] for row in table["rows"]} == {166_912}


def test_without_torch_the_target_is_read_and_the_reason_said(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch, it was hidden')\n")
    environment = {**os.environ, "PYTHONPATH": os.fspath(tmp_path)}

    def verify(target):
        command = [sys.executable, "-m", "dsa_doctor", "verify", "--target", target]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    done = verify("a100")
    assert done.returncode == 3
    assert done.stderr == ""
    assert "nothing could be compiled" in done.stdout
    assert "it was hidden" in done.stdout
    assert verify("7.5").returncode == 2
