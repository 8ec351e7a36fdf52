import os
import sys

import pytest

from tests.guards import path_left_as_it_was
from tests.once import once_in


def test_a_folder_left_on_the_path_is_named_and_taken_away():
    before = list(sys.path)
    with pytest.raises(AssertionError, match="/left/behind"), path_left_as_it_was():
        sys.path.append("/left/behind")
    assert sys.path == before
    with pytest.raises(AssertionError, match="another order"), path_left_as_it_was():
        sys.path.reverse()
    assert sys.path == before


def test_what_monkeypatch_puts_back_is_left_as_it_was(monkeypatch, tmp_path):
    """The guard around every test looks after monkeypatch has put things back, or this test would end in an error."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, "/elsewhere"])


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process alone has every core")
def test_a_worker_computes_with_the_threads_it_was_given():
    torch = pytest.importorskip("torch")
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])


def test_the_first_asks_and_the_others_read(tmp_path):
    asked = []

    def ask():
        asked.append(None)
        return {"rows": [1, 2]}

    assert [once_in(tmp_path)("table", ask) for _ in range(2)] == [{"rows": [1, 2]}] * 2
    assert len(asked) == 1
    once_in(tmp_path)("another", ask)
    assert len(asked) == 2


def test_an_answer_that_failed_is_asked_again(tmp_path):
    def fail():
        raise OSError("no answer")

    with pytest.raises(OSError, match="no answer"):
        once_in(tmp_path)("table", fail)
    assert once_in(tmp_path)("table", lambda: 7) == 7
