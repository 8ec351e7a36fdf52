"""The cases of the wheel's top-k pass on right ops, whatever their order and ties, and fail on faulty ones."""

import pytest
import torch

from dsa_kernels.selftest import Place, run_case, wheel, wheel_cases
from dsa_kernels.selftest.case import CannotJudge, NotHere

INF = float("inf")


def select_rows(logits, starts, lengths, k, out):
    """Write the k largest of each row, in an order and with ties of its own; whole rows where they are short."""
    for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        found = torch.arange(length) if length <= k else logits[row, start : start + length].topk(k).indices
        out[row, : found.numel()] = found.flip(0).int()


class Ops:
    """The ops of a wheel; `change` may change (logits, starts, lengths, k) before they select."""

    def __init__(self, change=lambda given: None):
        self.change = change

    def __call__(self, name):
        return getattr(self, name)

    def _select(self, logits, starts, lengths, k, out):
        given = {"logits": logits.clone(), "starts": starts.clone(), "lengths": lengths.clone(), "k": k}
        self.change(given)
        select_rows(given["logits"], given["starts"], given["lengths"], given["k"], out)

    def top_k_per_row_prefill(self, logits, starts, ends, out, rows, stride0, stride1, k):
        assert (rows, stride0, stride1) == (logits.shape[0], *logits.stride())
        self._select(logits, starts, ends - starts, k, out)

    def top_k_per_row_decode(self, logits, next_n, lengths, out, rows, stride0, stride1, k):
        assert (rows, stride0, stride1) == (logits.shape[0], *logits.stride())
        steps = torch.arange(1 - next_n, 1, dtype=torch.int32)
        each = (lengths[:, None] + steps).reshape(-1)
        self._select(logits, torch.zeros_like(each), each, k, out)

    def persistent_topk(self, logits, lengths, out, workspace, k, longest):
        assert logits.shape[0] > wheel.COOPERATIVE_ROWS
        self._workspace_topk(logits, lengths, out, workspace, k, longest)

    def _workspace_topk(self, logits, lengths, out, workspace, k, longest):
        assert lengths.is_contiguous()
        assert workspace.numel() == wheel.WORKSPACE_BYTES
        self._select(logits, torch.zeros_like(lengths), lengths.clamp_max(longest), k, out)

    def cooperative_topk(self, logits, lengths, out, workspace, k, longest):
        assert logits.shape[0] <= wheel.COOPERATIVE_ROWS
        assert logits.stride(0) % 4 == 0
        self._workspace_topk(logits, lengths, out, workspace, k, longest)


@pytest.fixture
def serve(monkeypatch):
    """Run the cases of an op on these ops, and give {kind of case: record}."""
    monkeypatch.setattr(wheel, "has_clusters", lambda device: True)
    monkeypatch.setattr(wheel, "COOPERATIVE_ROWS", 13)  # fewer than vLLM's, for speed

    def run(ops, beginning):
        monkeypatch.setattr(wheel, "op", ops)
        place = Place(torch.device("cpu"), full=False)
        cases = [case for case in wheel_cases.CASES if case.name.startswith(beginning)]
        return {case.name.partition(": ")[2]: run_case(case, place) for case in cases}

    return run


@pytest.mark.parametrize("name", wheel_cases.OPS)
def test_right_ops_pass(serve, name):
    records = serve(Ops(), name)
    assert len(records) >= 4
    assert {record.status for record in records.values()} == {"pass"}, records


def long_as_short(given):
    between = (given["lengths"] > given["k"]) & (given["lengths"] < 2 * given["k"])
    given["lengths"] = torch.where(between, given["k"], given["lengths"])


def coarse(given):
    bits = given["logits"].view(torch.int32)
    given["logits"] = (bits >> 21 << 21).view(torch.float32)


def first_262144(given):
    given["lengths"] = given["lengths"].clamp_max(262_144)


def neighbours_lengths(given):
    if len(given["lengths"]) > 12:
        given["lengths"] = given["lengths"].roll(1)


def no_starts(given):
    given["lengths"] = given["starts"] + given["lengths"]
    given["starts"] = torch.zeros_like(given["starts"])


FAULTS = {
    "context from 1 to 2k + 1": long_as_short,
    "narrow, equal, crowded values": coarse,
    "rows of a million": first_262144,
    "300 rows of all lengths": neighbours_lengths,
}


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("name", wheel_cases.OPS)
def test_its_fault_fails(serve, name, kind):
    record = serve(Ops(FAULTS[kind]), f"{name}: {kind}")[kind]
    assert record.status == "fail"
    assert "largest of" in record.expected


def test_starts_and_draft_tokens(serve):
    assert serve(Ops(no_starts), "top_k_per_row_prefill: starts")["starts above 0"].status == "fail"

    def one_more(given):
        given["lengths"] = given["lengths"] + 1

    assert serve(Ops(one_more), "top_k_per_row_decode: next_n")["next_n 4"].status == "fail"


@pytest.mark.parametrize(
    ("row", "right"),
    [
        ([2, 0, 4], True),
        ([4, 2, 0], True),
        ([2, 0, 5], True),  # a tie
        ([2, 0, 0], False),
        ([2, 0, 1], False),
        ([2, 0, -1], False),
        ([2, 0, 6], False),
        ([2, 0, 700], False),
    ],
)
def test_the_judge_of_a_row(row, right):
    logits = torch.tensor([[5.0, 1.0, 9.0, 1.0, 3.0, 3.0, 99.0, 99.0]])
    found = torch.tensor([row], dtype=torch.int32)
    lengths = torch.tensor([6], dtype=torch.int32)
    assert wheel_cases.judge_selection(found, logits, None, lengths, 3).passed is right


def test_a_short_row_needs_its_padding():
    logits, lengths = torch.zeros(1, 8), torch.tensor([2], dtype=torch.int32)
    for row, right in (([1, 0, -1], True), ([1, 0, 2], False), ([1, -1, -1], False)):
        found = torch.tensor([row], dtype=torch.int32)
        assert wheel_cases.judge_selection(found, logits, None, lengths, 3).passed is right


def test_what_is_missed_is_counted():
    logits = torch.arange(10.0)[None]
    lengths = torch.tensor([10], dtype=torch.int32)
    found = torch.tensor([[9, 7, 6, 5]], dtype=torch.int32)  # 8 is missed, and no other
    outcome = wheel_cases.judge_selection(found, logits, None, lengths, 4)
    assert (outcome.passed, outcome.error) == (False, 1.0)
    assert "1 of the largest missed" in outcome.got


def test_rows_of_persistent_topk(monkeypatch):
    """vLLM calls it with any number of rows where cooperative_topk does not serve the small batches."""
    device = torch.device("cpu")

    def absent(name):
        raise NotHere(name)

    monkeypatch.setattr(wheel, "op", lambda name: None)
    monkeypatch.setattr(wheel, "has_clusters", lambda device: True)
    assert wheel.persistent_rows(device) == 33
    monkeypatch.setattr(wheel, "op", absent)
    assert wheel.persistent_rows(device) == 1
    monkeypatch.setattr(wheel, "has_clusters", lambda device: False)
    monkeypatch.setattr(wheel, "op", lambda name: None)
    assert wheel.persistent_rows(device) == 1


def test_no_vllm_is_skipped(monkeypatch):
    monkeypatch.delenv(wheel.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotHere, match="no vLLM here"):
        wheel.library()


def test_an_extension_that_cannot_be_loaded_is_unknown(monkeypatch, tmp_path):
    (tmp_path / "_C.abi3.so").write_bytes(b"\x7fELF top_k_per_row_prefill(Tensor logits) of no machine")
    (tmp_path / "_C_other.abi3.so").write_bytes(b"")
    monkeypatch.setenv(wheel.FOLDER_VARIABLE, str(tmp_path))
    assert wheel.library().name == "_C.abi3.so"
    wheel.load.cache_clear()
    with pytest.raises(CannotJudge, match=r"_C\.abi3\.so cannot be loaded") as caught:
        wheel.load()
    assert str(tmp_path) not in str(caught.value)


def test_other_arguments_are_not_called(monkeypatch):
    library = torch.library.Library("_C", "FRAGMENT")
    library.define("cooperative_topk(Tensor logits, Tensor lengths) -> ()")
    monkeypatch.setattr(wheel, "load", lambda: "")
    with pytest.raises(CannotJudge, match="takes logits, lengths"):
        wheel.op("cooperative_topk")
    with pytest.raises(NotHere, match="has no persistent_topk"):
        wheel.op("persistent_topk")
    library._destroy()
