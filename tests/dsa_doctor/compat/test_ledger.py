"""Every place of vLLM that a probe relies on is where the ledger says, in every release that it names."""

from pathlib import Path

import pytest

from dsa_doctor.compat.ledger import RELIANCES, Reliance, state_of
from dsa_doctor.compat.sources import SourceTree
from tests.releases import RELEASES, release_folder


@pytest.mark.parametrize("version", RELEASES)
def test_every_target_is_in_place(version: str) -> None:
    tree = SourceTree(release_folder(version))
    moved = {one.target: state for one in RELIANCES if (state := state_of(tree, one)) != "present"}
    assert set(moved) == {one.target for one in RELIANCES if version not in one.releases}, moved


def test_the_ledger_covers_the_tested_releases() -> None:
    assert len({one.target for one in RELIANCES}) == len(RELIANCES)
    assert all(one.why and set(one.releases) <= set(RELEASES) for one in RELIANCES)


def test_a_moved_or_changed_target_is_noticed(tmp_path: Path) -> None:
    module = tmp_path / "vllm" / "place.py"
    module.parent.mkdir()
    module.write_text(
        "class Owner:\n    def method(self):\n        return 1\n\n    def other(self):\n        return 2\n"
    )
    tree = SourceTree(tmp_path)

    def state(name: str, expects: str = "") -> str:
        return state_of(tree, Reliance(f"vllm.place:{name}", "rules", "a test", expects=expects))

    assert state("Owner.method", "return 1") == "present"
    assert state("Owner.method", "return 2").startswith("changed:")
    assert state("Owner.renamed") == "missing"
    assert state("method") == "missing"
