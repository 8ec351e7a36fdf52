"""A fleet judged from one gathering of the installed stock vLLM, against a table that was reviewed by hand."""

import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib import metadata

import pytest

from dsa_doctor.catalog import lookup
from dsa_doctor.catalog.models import KNOWN_MODELS
from dsa_doctor.inputs import Options, UsageError
from dsa_doctor.launch import launch_options, run
from dsa_doctor.launch.options import KnownOptions
from dsa_doctor.policy import Policy
from dsa_doctor.policy.report import SingleReport
from dsa_doctor.preflight import judge_fleet, preflight
from dsa_doctor.probes import gpus
from tests.dsa_doctor import facts_library as library
from tests.dsa_doctor.reports import facts_for, report

# Reviewed against vLLM 0.32.0's sources: the order of sparse backends per capability in platforms/cuda.py and their
# supports_* methods; support_deep_gemm() (9.0, 10.x, 12.x); the indexer's guard; the wheel's architectures.
# Columns: the plugin installed, and switched off. Cells: csrc/attention/indexer, exit code, backend.
SERVED = ("upstream/plugin/plugin 0 TRITON_MLA_SPARSE", "upstream/unresolved/unresolved 24 -")
REFUSED = ("upstream/unresolved/unresolved 24 -", "upstream/unresolved/unresolved 24 -")


def native(backend):
    return (f"native/native/native 0 {backend}",) * 2


BLACKWELL = {"b200": native("FLASHINFER_MLA_SPARSE"), "5090": native("FLASHINFER_MLA_SPARSE_SM120")}
AMPERE_AND_ADA = {"a100": SERVED, "a10": SERVED, "l40s": SERVED, "4090": SERVED}
BF16_CACHE = {**AMPERE_AND_ADA, "h100": native("FLASH_ATTN_MLA_SPARSE"), **BLACKWELL}
TABLE = {
    "GLM-5-FP8": BF16_CACHE,
    "GLM-5.2-FP8": BF16_CACHE,
    "DeepSeek-V3.2": BF16_CACHE,
    # Its metadata forces an fp8 cache, which FlashAttention's sparse backend has not.
    "GLM-5.1-NVFP4": {**AMPERE_AND_ADA, "h100": native("FLASHINFER_MLA_SPARSE_SM90"), **BLACKWELL},
    # KV rows of 512 values; the plugin does not serve its pooled indexer.
    "GLM-5.3-Flash": {
        **dict.fromkeys(AMPERE_AND_ADA, REFUSED),
        "h100": native("FLASHINFER_MLA_SPARSE_SM90"),
        **BLACKWELL,
    },
}
TARGETS = tuple(BF16_CACHE)


def row(verdict):
    states = "/".join(layer.state for layer in verdict.layers)
    backend = verdict.configuration.attention_backend if verdict.configuration is not None else "-"
    return f"{states} {verdict.exit_code} {backend}"


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """Facts of the installed vLLM, gathered once by the real command."""
    version = metadata.version("vllm")
    if not version.startswith("0.32."):
        pytest.skip(f"the table was reviewed for vLLM 0.32, and {version} is installed")
    path = tmp_path_factory.mktemp("facts") / "facts.json"
    done = subprocess.run([sys.executable, "-m", "dsa_doctor", "facts"], capture_output=True, timeout=400, check=True)
    path.write_bytes(done.stdout)
    return path


@pytest.mark.slow
def test_the_table_of_seven_targets_and_five_models(installed):
    assert (len(TARGETS), len(TABLE)) == (7, 5)
    expected = {
        (model, target, plugin): TABLE[model][target][plugin]
        for model in TABLE
        for target in TARGETS
        for plugin in (0, 1)
    }
    found = {}
    for plugin, mode in enumerate(("auto", "off")):
        verdicts = judge_fleet(list(TABLE), TARGETS, Options(plugin_mode=mode), facts_file=installed)
        for (model, target), verdict in zip(((m, t) for m in TABLE for t in TARGETS), verdicts, strict=True):
            assert verdict.model.name == model
            found[model, target, plugin] = row(verdict)
    assert found == expected


def answers(models, targets):
    return tuple(facts_for(model, target).selector.value.answers[0] for model in models for target in targets)


def test_a_fleet_gives_what_each_combination_gives_alone(tmp_path):
    models, targets = ("GLM-5-FP8", "DeepSeek-V3.2", "no such model"), ("a100", "h100", "4090")
    facts = library.facts(answers=answers(models[:2], targets), plugin=True)
    path = tmp_path / "facts.json"
    path.write_text(facts.model_dump_json())
    together = judge_fleet(models, targets, Options(), facts_file=path)
    alone = [preflight(model, Options(target=target), facts_file=path) for model in models for target in targets]
    assert all(one.from_file for one in together)
    assert together == alone
    assert {one.exit_code for one in together} == {0, 32}


def test_several_models_on_this_machines_gpus(tmp_path):
    facts = library.a100_facts(answers=answers(("GLM-5-FP8", "DeepSeek-V3.2"), ("a100",)))
    path = tmp_path / "facts.json"
    path.write_text(facts.model_dump_json())
    together = judge_fleet(["GLM-5-FP8", "DeepSeek-V3.2"], [], Options(), facts_file=path)
    assert [one.exit_code for one in together] == [24, 24]
    assert {one.target.source for one in together} == {"facts file"}
    path.write_text(library.facts().model_dump_json())
    nowhere = judge_fleet(["GLM-5-FP8", "DeepSeek-V3.2"], [], Options(), facts_file=path)
    assert [one.findings[0].id for one in nowhere] == ["DSA911", "DSA911"]


def test_vllm_is_asked_once_for_all_combinations(monkeypatch):
    asked = []

    def gather(environment, *, selector, fingerprint, keeper, inventory):
        asked.append(selector)
        return library.facts(answers=answers(("GLM-5-FP8", "DeepSeek-V3.2"), ("a100", "h100")))

    monkeypatch.setattr("dsa_doctor.preflight.gather", gather)
    judged = judge_fleet(["GLM-5-FP8", "DeepSeek-V3.2"], ["a100", "h100"], Options())
    assert len(judged) == 4
    assert len(asked) == 1
    assert len(asked[0].keywords["queries"]) == 4


@pytest.mark.parametrize(
    ("targets", "options", "said"),
    [
        (["a100", "v200"], Options(), "--target 'v200' is not known"),
        (["a100", "h100"], Options(tensor_parallel_size=7), "does not divide the 64 attention heads"),
    ],
)
def test_wrong_usage(tmp_path, targets, options, said):
    path = tmp_path / "facts.json"
    path.write_text(library.facts().model_dump_json())
    with pytest.raises(UsageError, match=said):
        judge_fleet(["GLM-5-FP8"], targets, replace(options, target="ignored"), facts_file=path)


@pytest.mark.slow
def test_a_fleet_that_demands_native_kernels_fails_where_the_plugin_serves(installed):
    verdicts = judge_fleet(["GLM-5-FP8", "DeepSeek-V3.2"], ["a100", "l40s", "h100"], Options(), facts_file=installed)
    demanding = Policy().model_copy(
        update={"allowed_states": {"csrc": ("native", "upstream"), "attention": ("native",), "indexer": ("native",)}}
    )
    assert report(*verdicts).exit_code == 0
    judged = report(*verdicts, policy=demanding)
    assert [one.exit_code for one in judged.verdicts] == [24, 24, 0, 24, 24, 0]
    assert judged.exit_code == 24


@pytest.mark.slow
def test_a_wheel_that_is_not_installed_is_judged_like_the_installed_one(tmp_path, vllm_dir):
    version = metadata.version("vllm")
    wheel = tmp_path / f"vllm-{version.split('+')[0]}-cp38-abi3-manylinux_2_28_x86_64.whl"
    site = vllm_dir.parent
    (info,) = site.glob("vllm-*.dist-info")
    wanted = ("_C_stable_libtorch", "_moe_C_stable_libtorch")
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted([*vllm_dir.rglob("*"), *info.iterdir()]):
            if path.suffix in {".py", ".json"} or path.parent == info or path.name.startswith(wanted):
                archive.write(path, path.relative_to(site))
    done = subprocess.run(
        [sys.executable, "-m", "dsa_doctor", "check", "--wheel", wheel, "--target", "a100", "--format", "json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=400,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    judged = SingleReport.model_validate_json(done.stdout)
    assert judged.environment == wheel.name
    assert judged.software.vllm == version
    assert row(judged) == SERVED[0], done.stderr
    assert done.returncode == 0
    assert not list(tmp_path.glob("dsa-doctor-*")), "the unpacked wheel is removed"


def test_a_launch_looks_up_its_model_once_and_the_gpus_once(monkeypatch):
    """The Hub is asked for a model that is not known: once for check, plan and command together."""
    looked_up, probed = [], []
    known, here = KNOWN_MODELS[0].geometry(), library.a100_facts().gpus
    monkeypatch.setattr(lookup, "find_geometry", lambda text: looked_up.append(text) or known)
    monkeypatch.setattr(gpus, "probe", lambda: probed.append(1) or here)

    def gather(environment, *, selector, fingerprint, keeper, inventory):
        assert inventory.value == here.value
        return library.a100_facts()

    monkeypatch.setattr("dsa_doctor.preflight.gather", gather)
    judged = run.judge(launch_options("somebody/some-model", {}, ()))
    assert judged.verdict.model.name == known.name
    unasked = KnownOptions(frozenset(), {}, "not asked")
    prepared = run.make_ready(launch_options(known.name, {}, ()), replace(judged, known=unasked), force=True).prepared
    assert prepared.model is judged.model.geometry
    assert (looked_up, probed) == (["somebody/some-model"], [1])
