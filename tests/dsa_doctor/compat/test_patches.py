"""The ledger on the real sources of five releases; each entry notices when its target moves."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dsa_doctor.compat.patches import OP_PATCHES, PERSISTENT_TOPK, Patch, states_of
from dsa_doctor.compat.sources import SourceTree
from dsa_doctor.plugin.families import FAMILIES, all_patches, patch_targets
from tests.releases import RELEASES, release_folder

PATCHES = all_patches()
SINCE = {"deepseek_v4": "0.28.0", "deepseek_v41": "0.30.0", "glm5_next": "0.30.0"}
"""Families that the plugin serves from a later release on than the oldest."""
FILES = sorted(
    {one for patch in PATCHES for one in (patch.module, patch.origin) if one}
    | {place.partition(":")[0] for patch in PATCHES for place in patch.elsewhere}
    | {"vllm.model_executor.layers.indexer_topk"}
)


@pytest.fixture(scope="module", params=[RELEASES[0], RELEASES[1], RELEASES[-1]])
def sources(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the ledger reads, of the oldest and of the newest release."""
    folder = tmp_path_factory.mktemp("sources")
    for module in FILES:
        relative = Path(*module.split(".")).with_suffix(".py")
        original = release_folder(request.param) / relative
        if original.is_file():
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(original, folder / relative)
    return folder


def later(version: str) -> set[str]:
    """Targets that only families need which a release does not have yet."""
    ahead = {name for name, first in SINCE.items() if RELEASES.index(version) < RELEASES.index(first)}
    needed = {patch.target for family in FAMILIES if family.name not in ahead for patch in family.patches}
    return {patch.target for family in FAMILIES if family.name in ahead for patch in family.patches} - needed


@pytest.mark.parametrize("version", RELEASES)
def test_every_target_is_present(version: str) -> None:
    states = patch_targets(release_folder(version))
    moved = {target: state for target, state in states.items() if state != "present"}
    assert moved.keys() <= later(version), moved
    assert bool(moved) is bool(later(version))  # the release of a family is its first one
    assert len(states) == len(PATCHES) + len(OP_PATCHES)


def place_of(sources: Path, patch: Patch) -> str:
    """The first of the patch's places that these sources have, as they are now."""
    tree = SourceTree(sources)
    return next(
        place
        for place in (patch.target, *patch.elsewhere)
        if states_of(tree, (replace(patch, target=place, elsewhere=()),))[place] == "present"
    )


def rename(sources: Path, module: str, name: str) -> tuple[Path, str]:
    """Rename a name in a module's file; return the file and its original text."""
    file = (sources / Path(*module.split("."))).with_suffix(".py")
    original = file.read_text()
    file.write_text(re.sub(rf"\b{re.escape(name)}\b", f"moved_{name}", original))
    return file, original


MOVABLE = [patch for patch in PATCHES if not patch.optional]


@pytest.mark.parametrize("patch", MOVABLE, ids=lambda patch: f"{patch.target} {patch.kind}")
def test_a_renamed_target_is_noticed(sources: Path, patch: Patch) -> None:
    if patch_targets(sources)[patch.target] != "present":
        pytest.skip("a family that came later; test_every_target_is_present says which")
    module, _, whole = place_of(sources, patch).partition(":")
    name = whole.rpartition(".")[2]
    if name in ("__init__", "__call__"):  # the class goes, and its method with it
        name = whole.partition(".")[0]
    whole_states = patch_targets(sources)
    file, original = rename(sources, module, name)
    try:
        states = patch_targets(sources)
        # What may be elsewhere is found there; that nobody calls it by its old name is seen by the entry of its caller.
        assert states[patch.target] == "missing" or (patch.elsewhere and states != whole_states)
    finally:
        file.write_text(original)
    assert patch_targets(sources)[patch.target] == "present"


@pytest.mark.parametrize(
    "patch", [patch for patch in PATCHES if patch.kind == "function" and patch.exact], ids=lambda patch: patch.target
)
def test_a_new_parameter_is_noticed(sources: Path, patch: Patch) -> None:
    if patch_targets(sources)[patch.target] != "present":
        pytest.skip("a family that came later; test_every_target_is_present says which")
    place = place_of(sources, patch)
    module, (owner, _, name) = patch.origin or place.partition(":")[0], place.partition(":")[2].rpartition(".")
    if patch.optional and SourceTree(sources).parameters(module, place.partition(":")[2]) is None:
        pytest.skip("this release does not have it, and may")
    file = (sources / Path(*module.split("."))).with_suffix(".py")
    original = file.read_text()
    owned = re.search(rf"^class {owner}\b", original, re.MULTILINE)
    header = re.compile(rf"def {re.escape(name)}\(\s*").search(original, owned.start() if owner and owned else 0)
    assert header is not None
    file.write_text(original[: header.end()] + "surprise, " + original[header.end() :])
    try:
        state = patch_targets(sources)[patch.target]
        assert state.startswith("changed: its parameters are (surprise, ")
        assert "accepted: (" in state
    finally:
        file.write_text(original)


def test_a_body_without_its_call_is_noticed(sources: Path) -> None:
    (patch,) = [one for one in PATCHES if one.body is not None and "fused" in one.body]
    file, original = rename(sources, patch.module, "fused_indexer_q_rope_quant")
    try:
        assert patch_targets(sources)[patch.target].startswith("changed: its body no longer holds")
    finally:
        file.write_text(original)


def test_a_call_of_another_top_k_op_is_noticed(sources: Path) -> None:
    changed = [
        rename(sources, module, "persistent_topk")
        for module in ("vllm.model_executor.layers.sparse_attn_indexer", "vllm.model_executor.layers.indexer_topk")
        if SourceTree(sources).text(module) is not None
    ]
    try:
        assert patch_targets(sources)[PERSISTENT_TOPK.target].startswith("changed")
    finally:
        for file, original in changed:
            file.write_text(original)


def test_an_empty_folder_has_no_target(tmp_path: Path) -> None:
    states = patch_targets(tmp_path)
    optional = {patch.target for patch in (*PATCHES, *OP_PATCHES) if patch.optional}
    assert {target for target, state in states.items() if state == "present"} == optional


@pytest.mark.parametrize("patch", [*PATCHES, *OP_PATCHES], ids=lambda patch: f"{patch.target} {patch.kind}")
def test_every_entry_says_why_and_until_when(patch: Patch) -> None:
    assert patch.why
    assert patch.upstream
    assert patch.until
    assert patch.kind != "function" or patch.signatures or patch in OP_PATCHES
