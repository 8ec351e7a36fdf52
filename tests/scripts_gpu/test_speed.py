"""The speed script without a GPU: its cases and its proof are replaced by scripts that answer at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu" / "speed.py"
FAKE_CASE = """
import json, os, sys, time
asked, ready, turn, answer = sys.argv[1:]
settings = json.load(open(asked))
if settings["case"] == {failing!r}:
    print("RuntimeError: no such luck")
    sys.exit(1)
open(ready, "w").close()
while not os.path.exists(turn):
    time.sleep(0.01)
measured = open(os.path.join(os.path.dirname(asked), "..", "measured"), "a")
measured.write(settings["case"] + " begins ")
measured.flush()
time.sleep(0.3)
measured.write("ends ")
measured.close()
slow = 2.0 if settings["case"] == "emulated" else 1.0
shape = {{
    "context": 2048,
    "requests": 8,
    "prefill_s": {{"median": 0.5, "min": 0.4, "max": 0.6}},
    "token_s": {{"median": 1e-3 * slow, "min": 1e-3 * slow, "max": 1.5e-3 * slow}},
    "kernels": {{"{ours}": [200.0, 3], "nvjet_gemm": [300.0, 5]}},
    "busy_us": 450.0,
}}
json.dump({{
    "backend": ["TRITON_MLA_SPARSE"],
    "compiled_while_serving": ["dsa_kernels.x:late"] if settings["case"] == "forced" else [],
    "shapes": [shape],
    "order": open(measured.name).read(),
}}, open(answer, "w"))
"""


def speed(folder: Path, *options: str, proof: int = 0, failing: str = "") -> tuple[int, str, dict[str, object]]:
    """Run the script with fakes; return its status, output and JSON."""
    (folder / "case.py").write_text(FAKE_CASE.format(ours="logits_kernel", failing=failing))
    (folder / "proof.py").write_text(f"import sys; print('the proof speaks'); sys.exit({proof})")
    starter = (
        f"import sys; sys.path[:0] = [{str(SCRIPT.parent)!r}]; import speed; from pathlib import Path; "
        f"speed.CASE, speed.PROOF = Path({str(folder / 'case.py')!r}), Path({str(folder / 'proof.py')!r}); "
        "speed.our_kernels = lambda: frozenset({'logits_kernel'}); sys.exit(speed.main())"
    )
    command = [sys.executable, "-c", starter, "--out", str(folder / "out"), "--timeout", "90", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr, json.loads((folder / "out" / "speed.json").read_text())


def test_cases_are_measured_in_turn_and_compared_with_native(tmp_path: Path) -> None:
    status, output, kept = speed(tmp_path)
    assert status == 0, output
    assert "the proof speaks" in output
    rows = [line.split(" | ") for line in output.splitlines() if line.startswith("| 2,048")]
    assert [row[2] for row in rows] == ["native", "forced", "emulated"]
    assert [row[7] for row in rows] == ["1.00", "1.00", "2.00"]
    assert rows[0][3:5] == ["0.500 (0.400 to 0.600)", "32,768"]
    assert rows[2][6] == "2.000 (2.000 to 3.000)"
    assert rows[0][8:] == ["8,000", "8", "200", "300", "550 |"]
    assert rows[2][10:] == ["200", "300", "1,550 |"]
    assert "of ours compiled while serving: dsa_kernels.x:late" in output
    order = kept["cases"]["emulated"]["order"].split()  # type: ignore[index]
    assert order == ["native", "begins", "ends", "forced", "begins", "ends", "emulated", "begins", "ends"]


def test_without_the_proof_no_figure_is_shown(tmp_path: Path) -> None:
    status, output, kept = speed(tmp_path, proof=1)
    assert status == 1
    assert "these figures do not count" in output
    assert "| 2,048" not in output
    assert kept["proved"] is False


def test_a_case_that_fails_leaves_the_others(tmp_path: Path) -> None:
    status, output, _ = speed(tmp_path, "--no-proof", failing="native")
    assert status == 1
    assert "native FAILED: RuntimeError: no such luck" in output
    rows = [line.split(" | ") for line in output.splitlines() if line.startswith("| 2,048")]
    assert [row[2] for row in rows] == ["forced", "emulated"]
    assert {row[7] for row in rows} == {"–"}


@pytest.mark.parametrize(("model", "heads", "hidden"), [("GLM-5", 8, 6144), ("DeepSeek-V3.2", 16, 7168)])
def test_a_rank_has_its_heads_and_its_part_of_every_expert(scripts, model: str, heads: int, hidden: int) -> None:
    config = scripts("rank_shape").rank_config(model, 8, 5, 4096)
    assert (config["num_attention_heads"], config["hidden_size"]) == (heads, hidden)
    assert (config["n_routed_experts"], config["moe_intermediate_size"]) == (256, 256)
    assert config["index_topk"] == 2048
    assert config["index_n_heads"] == {"GLM-5": 32, "DeepSeek-V3.2": 64}[model]
    assert config["num_hidden_layers"] == 5
    assert "quantization_config" not in config
    with pytest.raises(ValueError, match=r"model: got 'X', accepted: GLM-5, DeepSeek-V3\.2"):
        scripts("rank_shape").rank_config("X", 8, 5, 4096)


def test_the_names_of_our_kernels_are_read_from_their_sources(scripts) -> None:
    names = scripts("speed").our_kernels()
    assert {"attend_kernel", "merge_kernel", "select_kernel", "ragged_mma_kernel"} <= names
    assert "sparse_mla_fwd" not in names


def test_kernels_side_by_side_are_busy_once(scripts) -> None:
    events = [("a", 0.0, 10.0), ("b", 5.0, 8.0), ("a", 8.0, 12.0), ("c", 20.0, 21.0)]
    found = scripts("speed_case").summed(events)
    assert found.kernels == {"a": (14.0, 2), "b": (3.0, 1), "c": (1.0, 1)}
    assert found.busy_us == 13.0


def test_a_step_is_what_a_longer_profile_has_more(scripts, monkeypatch) -> None:
    module = scripts("speed_case")
    runs = [module.Profile({"a": (90.0, 18), "b": (8.0, 8)}, 95.0), module.Profile({"a": (10.0, 2)}, 10.0)]
    monkeypatch.setattr(module, "profiled", lambda run: runs.pop(0))
    step = module.one_step(lambda tokens: 0.0)
    assert step == {"kernels": {"a": [10.0, 2.0], "b": [1.0, 1.0]}, "busy_us": 85.0 / 8}
