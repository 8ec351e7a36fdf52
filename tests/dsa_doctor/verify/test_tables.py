import json

from dsa_doctor.verify import (
    Record,
    closing_lines,
    detail_lines,
    judge,
    judge_record,
    machine_lines,
    report_json,
    row_lines,
)

MACHINE = {
    "gpu": "NVIDIA A100-SXM4-80GB",
    "capability": "8.0",
    "torch": "2.11.0+cu130",
    "cuda": "13.0",
    "triton": "3.6.0",
    "triton_override_arch": "",
}
WRONG = Record(
    "wheel",
    "top_k_per_row_prefill: context from 1 to 2k + 1",
    "wheel_topk",
    "a context between k and 2k",
    "fail",
    12.34,
    17.0,
    0.0,
    "the 2048 largest of 2049 values (row 5)",
    "2048 selected, 17 of them too small",
)
RIGHT = Record("far", "flat bf16 cache past 2^31", "sparse_mla", "offsets", "pass", 3.2, 0.00213, 0.008)


def report(*records):
    return judge(MACHINE, [judge_record(record) for record in records], 41.6)


def test_a_long_name_goes_on_below():
    lines = row_lines(judge_record(WRONG))
    assert lines[0].split()[:2] == ["FAILED", "wheel_topk"]
    assert lines[0].endswith("1.7e+01    12.3")
    assert len(lines) == 2
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].strip() == "to 2k + 1"


def test_a_failure_says_what_was_expected_and_what_came():
    text = "\n".join(detail_lines(report(RIGHT, WRONG)))
    assert "FAILED wheel_topk: top_k_per_row_prefill: context from 1 to 2k + 1 [DSA902]" in text
    assert "expected the 2048 largest of 2049 values (row 5)" in text
    assert "got 2048 selected, 17 of them too small (error 17, limit 0)" in text
    assert "past 2^31" not in text


def test_the_sentence():
    assert closing_lines(report(RIGHT)) == ["All 1 cases passed in 42 s."]
    lines = closing_lines(report(RIGHT, WRONG))
    assert lines[0] == "1 of 2 cases failed in 42 s; 0 could not be judged, 0 were skipped."
    assert "DSA902: Top-k op that can select the wrong tokens. See docs/checks/DSA902.md." in " ".join(lines)
    assert closing_lines(report()) == ["Not verified: nothing ran (0 of 0 cases were skipped)."]


def test_the_machine():
    assert machine_lines(MACHINE, None, quick=True) == [
        "NVIDIA A100-SXM4-80GB, compute capability 8.0",
        "torch 2.11.0+cu130, Triton 3.6.0, CUDA 13.0",
        "--quick: small shapes, which show less.",
    ]
    emulated = " ".join(machine_lines(MACHINE | {"triton_override_arch": "sm80"}, "580", quick=False))
    assert "This is not a run on a GPU of sm80." in emulated
    assert machine_lines({}, "580", quick=False) == ["No process of the self-test came up."]


def test_json_has_every_case():
    whole = json.loads(report_json(report(RIGHT, WRONG), "580", quick=False))
    assert whole["machine"]["gpu"] == "NVIDIA A100-SXM4-80GB"
    assert [case["finding"] for case in whole["cases"]] == ["", "DSA902"]
    assert whole["cases"][0]["error"] == 0.00213
    assert whole["seconds"] == 41.6
