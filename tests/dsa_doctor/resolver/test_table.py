"""States, exit code, configuration and findings of many verdicts, without their words: what changes is a changed line.

    DSA_DOCTOR_UPDATE_GOLDEN=1 pytest -n 0 tests/dsa_doctor/resolver/test_table.py

draws verdicts.txt anew; read the difference before you commit it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsa_doctor.catalog.models import find_model
from dsa_doctor.catalog.targets import target_from_text
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Csrc, DeepGemm, Facts, Fingerprint, GpuInventory, Selector
from dsa_doctor.inputs import Options, load_facts
from dsa_doctor.preflight import preflight
from dsa_doctor.resolver import Request, Target, resolve
from dsa_doctor.verdict.schema import Verdict
from tests.dsa_doctor import facts_library as library

GOLDEN = Path(__file__).with_name("verdicts.txt")
WHEELS = sorted((Path(__file__).parents[2] / "data").glob("facts-vllm-*.json"))
MODELS = ("GLM-5-FP8", "DeepSeek-V3.2", "GLM-5.3-Flash", "DeepSeek-V4-Flash")
REQUESTS = {
    "as it is": Request(),
    "one rank": Request(tensor_parallel_size=1),
    "16 ranks": Request(tensor_parallel_size=16),
    "fp8 cache": Request(kv_cache_dtype="fp8"),
    "fp8_ds_mla cache": Request(kv_cache_dtype="fp8_ds_mla"),
    "float16": Request(dtype="float16"),
    "blocks of 16": Request(block_size=16),
    "ours by name": Request(backend="TRITON_MLA_SPARSE"),
    "another by name": Request(backend="FLASHMLA_SPARSE"),
    "plugin off": Request(plugin_mode="off"),
    "plugin forced": Request(plugin_mode="force"),
}


def machines() -> dict[str, tuple[str, Facts]]:
    """Return a target and facts by name: what a probe may find, one thing changed at a time."""
    made: dict[str, tuple[str, Facts]] = {
        "A100": ("a100", library.a100_facts()),
        "A100, plugin": ("a100", library.a100_facts(plugin=True)),
        "4090, plugin": ("4090", library.rtx4090_facts(plugin=True)),
        "H100": ("h100", library.h100_facts()),
        "H100, plugin": ("h100", library.h100_facts(plugin=True)),
        "GB10, plugin": ("gb10", library.gb10_facts(plugin=True)),
        "nothing": ("a100", library.facts()),
    }
    unknown, absent = "the probe gave no answer", "not installed"
    changes: dict[str, dict[str, object]] = {
        "GPUs unknown": {"gpus": Observation[GpuInventory].unknown(unknown)},
        "no csrc": {"csrc": Observation[Csrc].absent(absent)},
        "csrc unknown": {"csrc": Observation[Csrc].unknown(unknown)},
        "csrc without ops": {"csrc": Observation[Csrc].ok(library.stock_csrc(ops=()))},
        "csrc for Hopper": {
            "csrc": Observation[Csrc].ok(
                library.stock_csrc(
                    extensions=(library.extension("vllm._C_stable_libtorch", library.HOPPER_ONLY),),
                    ops=tuple(library.op_code(one.op, library.HOPPER_ONLY) for one in library.DSA_OPS),
                )
            )
        },
        "selector unknown": {"selector": Observation[Selector].unknown(unknown)},
        "fingerprint unknown": {"fingerprint": Observation[Fingerprint].unknown(unknown)},
        "a moved patch": {
            "fingerprint": Observation[Fingerprint].ok(
                library.fingerprint(patch_targets={"vllm.platforms.cuda._get_backend_priorities": "missing"})
            )
        },
        "top-k gated": {
            "fingerprint": Observation[Fingerprint].ok(library.fingerprint(topk_persistent_gate="capability"))
        },
        "no DeepGEMM": {"deep_gemm": Observation[DeepGemm].absent(absent)},
        "DeepGEMM broken": {"deep_gemm": library.deep_gemm(importable=False)},
        "DeepGEMM unknown": {"deep_gemm": library.deep_gemm(importable=None)},
        "switched off": {"settings": library.settings(DSA_DOCTOR_PLUGIN="off")},
        "plugins named": {"settings": library.settings(VLLM_PLUGINS="other")},
    }
    for name, change in changes.items():
        made[f"A100, plugin, {name}"] = ("a100", library.a100_facts(plugin=True, **change))
        made[f"H100, {name}"] = ("h100", library.h100_facts(**change))
    return made


def line(name: str, verdict: Verdict) -> str:
    """Return one verdict as a line."""
    states = "/".join(layer.state for layer in verdict.layers)
    chosen = verdict.configuration
    told = "-"
    if chosen is not None:
        told = f"{chosen.attention_backend} {chosen.kv_cache_dtype} {chosen.block_size}"
    findings = " ".join(f"{one.id}:{one.layer}:{one.status}" for one in verdict.findings)
    return f"{name} | {states} {verdict.exit_code} | {told} | {findings}"


def verdicts() -> Iterator[str]:
    """Yield the lines of the table."""
    for name, (where, facts) in machines().items():
        known = target_from_text(where)
        target = Target(name=known.name, capability=str(known.capability), source="--target", count=8)
        requests = REQUESTS if name.count(",") < 2 else {"as it is": Request()}
        for asked, request in requests.items():
            model = find_model("GLM-5-FP8").geometry()
            yield line(f"{name} | {asked}", resolve(facts, model=model, target=target, request=request))
    for wheel in WHEELS:
        load_facts(wheel)  # a file that cannot be read is no verdict
        for where in ("a100", "3090", "4090", "h100", "b200", "5090", "gb10", "thor"):
            for model_name in MODELS:
                for mode in ("off", "auto"):
                    options = Options(target=where, plugin_mode=mode)
                    found = preflight(model_name, options, facts_file=wheel)
                    yield line(f"{wheel.stem} | {where} {model_name} plugin {mode}", found)


def test_the_verdicts_are_those_that_were_read() -> None:
    drawn = "\n".join(verdicts()) + "\n"
    if os.environ.get("DSA_DOCTOR_UPDATE_GOLDEN"):
        GOLDEN.write_text(drawn, encoding="utf-8")
        pytest.skip("drawn anew")
    assert drawn.splitlines() == GOLDEN.read_text(encoding="utf-8").splitlines()
