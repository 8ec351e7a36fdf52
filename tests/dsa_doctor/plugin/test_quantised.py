"""Quantised GlmMoeDsa and DeepseekV32 at compute capability 8.0: what real releases of vLLM load, and DSA917 beside it.

Models are constructed on the meta device and their checkpoints loaded, in one process per release.
"""

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest

from dsa_doctor.catalog.geometry import geometry_from_config
from dsa_doctor.compat.quantization import quantization_support
from dsa_doctor.compat.sources import SourceTree
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Fingerprint, QuantizationSupport
from dsa_doctor.resolver import Request, Target, resolve
from dsa_doctor.verdict.schema import Finding
from tests.dsa_doctor import facts_library as library
from tests.dsa_doctor.plugin.contract import Answers, run_once
from tests.dsa_doctor.plugin.quantised_cases import CASES, NEWEST, OLDEST
from tests.dsa_doctor.plugin.tiny_models import tiny_config
from tests.once import Once
from tests.releases import RELEASES, release_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ARCHITECTURES = ("GlmMoeDsaForCausalLM", "DeepseekV32ForCausalLM")
NOT_STORED = ("_bias", "g_idx", "_idx_sort_indices", ".k_scale", ".q_scale", ".v_scale", ".prob_scale")
"""Parameters that vLLM makes for what a checkpoint may hold besides weights, with a default for each."""
SHARED = {"model": (), "draft": ("model.embed_tokens.", ".shared_head.head.")}
"""Embedding and output head of the draft are the model's."""


def config_of(name: str, architecture: str) -> dict[str, Any]:
    section = CASES[name].section
    return tiny_config(architecture, **({"quantization_config": section} if section is not None else {}))


@pytest.fixture(scope="module", params=(OLDEST, NEWEST))
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def every(release: str, once: Once) -> Answers:
    """One process per release loads everything."""
    steps: dict[str, tuple[str, dict[str, Any]]] = {"register": ("register", {})}
    for architecture in ARCHITECTURES:
        sparse = tiny_config(architecture)
        dense = {key: value for key, value in sparse.items() if not key.startswith("index_")}
        dense |= {"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3"}
        asked = {name: ("load", {"config": config_of(name, architecture)}) for name in CASES}
        asked["null"] = ("load", {"config": {**sparse, "index_topk": None}, "stored": sparse})
        asked["dense"] = ("load", {"config": dense, "stored": sparse})
        steps |= {f"{architecture} {name}": step for name, step in asked.items()}
    return run_once(f"quantised-{release}", once, release_folder(release), "8.0", steps)


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def loaded(every: Answers, architecture: str) -> Callable[[str], Any]:
    """What became of a case of this architecture."""
    return lambda name: every.value(f"{architecture} {name}")


@functools.cache
def support_of(release: str) -> QuantizationSupport | None:
    return quantization_support(SourceTree(release_folder(release)))


def finding(release: str, config: dict[str, Any]) -> Finding | None:
    """Return DSA917 as `check` gives it for a release on an A100."""
    observed = Observation[Fingerprint].ok(library.fingerprint(quantization=support_of(release)))
    verdict = resolve(
        library.a100_facts(fingerprint=observed, plugin=True),
        model=geometry_from_config(json.loads(json.dumps(config)), name="tiny", source="test"),
        target=Target(name="A100", capability="8.0", source="--target"),
        request=Request(),
    )
    return next((one for one in verdict.findings if one.id == "DSA917"), None)


@pytest.mark.parametrize("name", CASES)
def test_vllm_loads_it_or_says_why_not(loaded: Callable[[str], Any], release: str, name: str) -> None:
    answer = loaded(name)
    for part in ("model", "draft"):
        expected = CASES[name].error(part, release)
        if expected is not None:
            assert expected in answer[part]["error"]
            break
        assert "error" not in answer[part], answer[part]
        missed = [one for one in answer[part]["missed"] if not one.endswith(NOT_STORED)]
        assert [one for one in missed if not any(part_of in one for part_of in SHARED[part])] == []
        assert answer[part]["backends"] == ["TRITON_MLA_SPARSE"]
        assert answer[part]["projections"] == ["ProjectionInModelDtype"]


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_says_what_vllm_does(
    loaded: Callable[[str], Any], release: str, architecture: str, name: str
) -> None:
    answer, found = loaded(name), finding(release, config_of(name, architecture))
    fails = {part for part in answer if "error" in answer[part]}
    said = {"fail": {"model"}, "warn": {"draft"}}[found.status] if found is not None else set()
    assert said == fails, (found, answer)


def test_a_checkpoint_is_run_dense_under_another_config_json(loaded: Callable[[str], Any]) -> None:
    """As docs/explanation/dense-or-sparse.md says; the indexer's tensors are passed over."""
    model = loaded("dense")["model"]
    assert (model["backends"], model["indexers"], model["missed"]) == (["TRITON_MLA"], 0, [])


def test_index_topk_cannot_be_null(loaded: Callable[[str], Any]) -> None:
    assert "NoneType" in loaded("null")["model"]["error"]


def test_the_releases_are_the_oldest_and_the_newest() -> None:
    assert (RELEASES[0], RELEASES[-1]) == (OLDEST, NEWEST)
