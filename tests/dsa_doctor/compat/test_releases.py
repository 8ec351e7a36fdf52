"""A new vLLM release is one more entry of one line; what moved in it is named by the ledgers."""

import importlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsa_doctor.compat import ledger, releases
from dsa_doctor.compat.sources import SourceTree
from dsa_doctor.plugin.families import patch_targets
from tests.releases import RELEASES, release_folder

INVENTED = "9.99.0"


@pytest.fixture
def with_an_invented_release(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(releases, "VERIFIED", (*releases.VERIFIED, INVENTED))
    importlib.reload(ledger)
    yield
    monkeypatch.undo()
    importlib.reload(ledger)


@pytest.mark.usefixtures("with_an_invented_release")
def test_every_entry_says_by_itself_whether_the_new_release_has_it() -> None:
    newest = RELEASES[-1]
    for one in ledger.RELIANCES:
        assert (INVENTED in one.releases) == (newest in one.releases), one.target
    assert releases.newest() == INVENTED
    assert releases.image().endswith(f":v{INVENTED}")
    assert releases.since("0.30.0")[-1] == INVENTED
    assert INVENTED not in releases.before("0.30.0")


@pytest.mark.slow
@pytest.mark.usefixtures("with_an_invented_release")
def test_what_moved_in_the_new_release_is_named(tmp_path: Path) -> None:
    shutil.copytree(release_folder(RELEASES[-1]) / "vllm", tmp_path / "vllm", copy_function=os.link)
    file = tmp_path / "vllm" / "utils" / "deep_gemm.py"
    text = file.read_text()
    file.unlink()  # the original, which shares the file, stays as it is
    file.write_text(text.replace("def fp8_fp4_mqa_logits(", "def mqa_logits_of_tomorrow("))
    tree = SourceTree(tmp_path)
    seen = [one for one in ledger.RELIANCES if INVENTED in one.releases]
    moved = {one.target for one in seen if ledger.state_of(tree, one) != "present"}
    assert moved <= {"vllm.utils.deep_gemm:fp8_fp4_mqa_logits"}
    states = {target for target, state in patch_targets(tmp_path).items() if state != "present"}
    consumers = ("vllm.model_executor.layers.sparse_attn_indexer", "vllm.models.glm5next.nvidia.sparse_indexer")
    assert states == {f"{module}:fp8_fp4_mqa_logits" for module in consumers}


def test_a_release_that_is_not_verified_is_an_error() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        releases.since("0.29.0")
