"""DeepSeek-V4's layers on every release that it is served from, and which of vLLM's Triton kernels work by themselves.

The kernels are those that the layers launched, with the types that they were launched with, compiled ahead of time for
compute capability 8.x. What is refused there is what the plugin replaces; an upstream change shows in either set.
"""

from typing import Any

import pytest

from tests.dsa_doctor.plugin.layer_child import answers_of
from tests.dsa_doctor.plugin.test_deepseek_v4_numbers import CHILD, NOISE, config
from tests.once import Once
from tests.releases import RELEASES, release_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = [[[1, 0, 30]], [[1, 30, 31], [0, 0, 138]], [[0, 138, 140], [1, 31, 33]]]
REPLACED = ("invrope", "indexerq", "insertindexer")
"""Parts of the names of kernels that convert to e4m3: of the output's rope, the indexer's query and its keys."""
NEEDED = (
    "swaindices", "c128atopk", "compressedslotmapping", "qkvrmsnorm", "savepartialstates", "shortcontext",
    "computeglobaltopk", "mtpinputrmsnorm", "mtpsharedhead",
)  # fmt: skip
"""Of those that work there by themselves: metadata, norms, the compressors' states, a selection's rows, the draft."""


@pytest.fixture(scope="module", params=RELEASES[1:])
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def layers(release: str, once: Once) -> dict[str, Any]:
    asked = {"config": config(), "lengths": [140, 40], "steps": STEPS, "faults": [], "launches": True}
    return dict(once(f"v4-layers-{release}", lambda: answers_of(CHILD, release_folder(release), asked)))


@pytest.fixture(scope="module")
def compiled(release: str, layers: dict[str, Any], once: Once) -> dict[str, dict[str, list[str]]]:
    """By target and kernel, what the compiler said; nothing where it compiled."""
    asked = {"launches": layers["launches"], "targets": [80, 86, 89]}
    module = "tests.dsa_doctor.plugin.launched_kernels"
    return dict(
        once(f"v4-kernels-{release}", lambda: answers_of(module, release_folder(release), asked, TRITON_INTERPRET="0"))
    )


def plain(name: str) -> str:
    """Return a kernel's name alike, whether a function has it or a class that holds the function."""
    return name.replace("_", "").lower()


def test_the_layers_are_transformers_on_every_release(release: str, layers: dict[str, Any]) -> None:
    """The sliding-window layers of 0.28 too, which vLLM itself rotates by YaRN."""
    for layer in layers["right"]:
        assert max(layer["errors"]) < NOISE, layer["ratio"]
        assert max(layer["regrets"], default=0) < 0.15


def test_what_the_path_needs_compiles_for_8_x(compiled: dict[str, dict[str, list[str]]]) -> None:
    for target in ("80", "86"):
        works = {plain(name) for name, said in compiled[target].items() if not any(said)}
        for kernel in NEEDED:
            assert any(kernel in name for name in works), (kernel, works)


def test_what_is_refused_for_8_x_is_what_the_plugin_replaces(compiled: dict[str, dict[str, list[str]]]) -> None:
    """Where one of them compiles one day, its patch can go; where another does not, the plugin must replace it."""
    for target in ("80", "86"):
        refused = {name: said for name, said in compiled[target].items() if any(said)}
        assert len(refused) == len(REPLACED)
        for name, said in refused.items():
            assert any(part in plain(name) for part in REPLACED), (name, said)
            assert all("fp8e4nv not supported in this architecture" in one for one in said)
    assert not [name for name, said in compiled["89"].items() if any(said)]
