"""Families are one file each, and the plugin's modules import one another in one direction."""

import ast
import re
from pathlib import Path

import pytest

from dsa_doctor.compat.patches import SHARED_PATCHES
from dsa_doctor.plugin.families import FAMILIES, all_patches

PLUGIN = Path(__file__).parents[3] / "dsa_doctor" / "plugin"


def imports_of(file: Path) -> set[str]:
    """The plugin's modules that a module imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dsa_doctor.plugin"):
            below = (node.module or "").removeprefix("dsa_doctor.plugin").removeprefix(".")
            found |= {below} if below else {alias.name for alias in node.names}
            if below == "families":
                found |= {f"families.{alias.name}" for alias in node.names}
    return found


def test_no_module_of_the_plugin_imports_in_a_circle() -> None:
    modules = {
        ".".join(file.relative_to(PLUGIN).with_suffix("").parts).removesuffix(".__init__"): imports_of(file)
        for file in PLUGIN.rglob("*.py")
    }
    edges = {name: {one for one in found if one in modules and one != name} for name, found in modules.items()}
    assert sum(map(len, edges.values())) > 20, "the imports were not found"
    while True:
        leaves = {name for name, needs in edges.items() if not needs}
        if not leaves:
            break
        edges = {name: needs - leaves for name, needs in edges.items() if name not in leaves}
    assert edges == {}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_is_named_by_its_own_file_alone(family) -> None:
    named = {
        file.relative_to(PLUGIN).as_posix()
        for file in PLUGIN.rglob("*.py")
        for architecture in family.model_classes
        if re.search(rf"\b{architecture}\b", file.read_text())
    }
    assert named <= {f"families/{family.name}.py", f"families/{family.name}_models.py"}


def test_families_share_entries_of_the_ledger_and_never_give_a_target_two() -> None:
    entries = {patch.target: patch for patch in SHARED_PATCHES}
    for patch in (patch for family in FAMILIES for patch in family.patches):
        assert entries.setdefault(patch.target, patch) is patch
    assert set(entries.values()) == set(all_patches())
