import pytest

from dsa_doctor.verify import Record, judge, judge_record


def record(status, op="topk", group="topk", **more):
    return Record(group, "a case", op, "trouble", status, **more)


@pytest.mark.parametrize(
    ("op", "group", "finding"),
    [("sparse_mla", "far", "DSA214"), ("topk", "far", "DSA309"), ("wheel_topk", "wheel", "DSA902")],
)
@pytest.mark.parametrize("status", ["fail", "error", "crash"])
def test_what_failed_names_its_finding(op, group, finding, status):
    assert judge_record(record(status, op, group)).finding == finding


@pytest.mark.parametrize("status", ["pass", "unknown", "skipped"])
def test_what_did_not_fail_names_none(status):
    assert judge_record(record(status)).finding == ""


def test_a_group_that_did_not_start_names_its_first_op():
    assert judge_record(Record("mla-fp8", "", "", "", "crash")).finding == "DSA214"


def test_an_op_without_code_for_this_gpu():
    broken = record(
        "error", "wheel_topk", "wheel", got="AcceleratorError: CUDA error: no kernel image is available for"
    )
    assert judge_record(broken).finding == "DSA102"


def test_unknown_and_nothing_are_not_ok():
    def report(*statuses):
        return judge({}, [judge_record(record(status)) for status in statuses], 1.0)

    assert report("pass", "skipped").ok
    assert not report("pass", "unknown").ok
    assert not report("pass", "crash").ok
    assert not report("skipped").ok
    assert not report().ok


def test_order_and_findings():
    cases = [
        judge_record(record("fail")),
        judge_record(record("fail", "sparse_mla", "far")),
        judge_record(record("fail")),
    ]
    report = judge({}, cases, 1.0)
    assert [case.record.group for case in report.cases] == ["far", "topk", "topk"]
    assert report.findings == ("DSA214", "DSA309")
