"""Verdicts on families that pick their attention class themselves, from what the installed vLLM's sources say."""

from functools import cache
from pathlib import Path

import pytest

from dsa_doctor.catalog.capability import Capability
from dsa_doctor.catalog.geometry import geometry_from_config
from dsa_doctor.catalog.models import find_model
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Csrc, CudaToolkit, Facts, Fingerprint
from dsa_doctor.installation import this_installation
from dsa_doctor.probes import fingerprint
from dsa_doctor.probes.environment import Environment
from dsa_doctor.resolver import Request, Target, resolve
from dsa_doctor.resolver.plugin_gate import environment_gate
from tests.dsa_doctor import facts_library as library
from tests.releases import RELEASES, release_folder

NAMES = {
    "8.0": "NVIDIA A100 80GB",
    "8.6": "NVIDIA RTX A6000",
    "8.9": "NVIDIA L40S",
    "9.0": "NVIDIA H100",
    "10.0": "NVIDIA B200",
    "11.0": "NVIDIA Thor",
    "12.0": "NVIDIA RTX PRO 6000",
}
NATIVE = ["native", "native", "native"]
LOST = ["upstream", "unresolved", "unresolved"]


def model(architecture="DeepseekV4ForCausalLM", model_type="deepseek_v4", **more):
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": 4096,
        "num_hidden_layers": 43,
        "num_attention_heads": 64,
        "num_key_value_heads": 1,
        "head_dim": 512,
        "vocab_size": 129280,
        "q_lora_rank": 1024,
        "qk_rope_head_dim": 64,
        "index_topk": 512,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "n_routed_experts": 256,
        "num_experts_per_tok": 6,
        "moe_intermediate_size": 2048,
        **more,
    }
    return geometry_from_config(config, name="the model", source="test")


V4 = model()
V41 = model("DeepseekV41ForCausalLM", "deepseek_v41")


@cache
def sources(version):
    return fingerprint.probe(Environment(python=None, search_path=(release_folder(version),)))


def judge(capability, which=V4, *, version=RELEASES[-1], facts=None, **options):
    found = facts or library.facts(
        answers=(library.answer(capability, None, deep_gemm_supported=capability[:2] in ("9.", "10", "12")),),
        fingerprint=sources(version),
        plugin=True,
    )
    target = Target(name=NAMES[capability], capability=capability, source="--target", count=8)
    return resolve(found, model=which, target=target, request=Request(**options))


def states(verdict):
    return [layer.state for layer in verdict.layers]


def by_id(verdict, finding_id):
    return next(one for one in verdict.findings if one.id == finding_id)


@pytest.mark.parametrize("which", [V4, V41], ids=["v4", "v41"])
@pytest.mark.parametrize("capability", NAMES)
def test_native_where_vllm_s_own_class_takes_the_gpu_and_unresolved_elsewhere(capability, which):
    verdict = judge(capability, which, plugin_mode="off")
    native = capability in ("9.0", "10.0", "12.0")
    assert states(verdict)[1:] == (NATIVE[1:] if native else LOST[1:])
    assert (verdict.exit_code & 24) == (0 if native else 24)
    assert by_id(verdict, "DSA904").status == "pass"
    if native:
        evidence = by_id(verdict, "DSA202").evidence
        assert any("_select_dsv4_attn_cls, which does not ask vLLM's backend selector" in line for line in evidence)


def gate(version):
    return environment_gate(
        capability=Capability(8, 0), mode="auto", registered=True, triton=True, fingerprint=sources(version)
    )


@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9"])
@pytest.mark.parametrize("version", RELEASES)
def test_the_plugin_serves_v4_on_8_x_from_its_first_release_on(capability, version):
    verdict = judge(capability, version=version)
    if version == RELEASES[0]:
        assert states(verdict)[1:] == LOST[1:]
        assert by_id(verdict, "DSA914").status == "fail"
        assert any(
            "DeepseekV4SparseMLAMetadataBuilder.build: missing" in one for one in by_id(verdict, "DSA914").evidence
        )
        environment = gate(version)
        assert environment.serves
        assert environment.moved.keys() == {"deepseek_v4", "deepseek_v41", "glm5_next"}
        return
    assert states(verdict)[1:] == ["plugin", "plugin"]
    assert verdict.exit_code == 0
    served = by_id(verdict, "DSA203")
    assert any(line.startswith("replaced: 1. attention:") for line in served.evidence)
    assert all(one.id != "DSA919" for one in verdict.findings)  # a Hopper GPU has served a tiny model of it
    configuration = verdict.configuration
    assert (configuration.attention_backend, configuration.kv_cache_dtype) == ("TRITON_MLA_SPARSE", "auto")
    assert configuration.block_size is None
    assert {"compressor", "mHC product", "output rope", "indexer logits"} <= configuration.fallbacks.keys()


@pytest.mark.parametrize(
    ("capability", "version", "status"),
    [("9.0", "0.26.0", "warn"), ("9.0", "0.28.0", "warn"), ("8.0", "0.28.0", "pass"), ("9.0", "0.30.0", None),
     ("8.0", "0.33.0", None), ("8.0", "0.26.0", None)],
)  # fmt: skip
def test_windows_that_vllm_rotates_by_yarn_are_told_where_something_serves(capability, version, status):
    flash = find_model("DeepSeek-V4-Flash").geometry()
    told = [one.status for one in judge(capability, flash, version=version).findings if one.id == "DSA947"]
    assert told == ([status] if status else [])


def test_v41_has_its_own_rope():
    flash = find_model("DeepSeek-V4.1-Flash").geometry()
    assert all(one.id != "DSA947" for one in judge("9.0", flash, version="0.28.0").findings)


def test_a_family_that_no_gpu_has_run_says_so():
    unproven = by_id(judge("8.0", V41), "DSA919")
    assert (unproven.status, unproven.remedy[0].split()[:2]) == ("warn", ["dsa-doctor", "verify"])
    assert "No GPU has run" in unproven.summary


def test_native_wins_over_the_plugin_and_force_asks_for_it():
    native = judge("9.0")
    assert states(native)[1:] == NATIVE[1:]
    assert all(one.id != "DSA919" for one in native.findings)
    assert states(judge("9.0", plugin_mode="force"))[1:] == ["plugin", "plugin"]


@pytest.mark.parametrize(
    ("which", "options", "words"),
    [
        (V4, {"kv_cache_dtype": "fp8_ds_mla"}, "no KV cache of dtype fp8_ds_mla"),
        (V41, {"kv_cache_dtype": "fp8"}, "no KV cache of dtype fp8"),
        (model("DeepseekV4ForConditionalGeneration"), {}, "the text model alone is served"),
    ],
)
def test_what_of_v4_the_plugin_refuses_is_said(which, options, words):
    verdict = judge("8.0", which, **options)
    assert states(verdict)[1:] == LOST[1:]
    assert words in by_id(verdict, "DSA914").summary


def test_the_op_that_stores_plain_rows_is_needed_where_the_plugin_serves():
    plain = "_C::fused_deepseek_v4_qnorm_rope_kv_rope_full_cache_bf16_insert"
    hopper = tuple(
        one.model_copy(update={"machine_code": ("sm_90a",), "ptx": ()}) if one.op == plain else one
        for one in library.stock_csrc().ops
    )
    csrc = Observation[Csrc].ok(library.stock_csrc(ops=hopper))
    given = {"answers": (library.answer("8.0", None),), "fingerprint": sources(RELEASES[-1]), "csrc": csrc}
    verdict = judge("8.0", facts=library.facts(plugin=True, **given))
    assert states(verdict)[0] == "unresolved"
    assert plain in by_id(verdict, "DSA102").summary
    assert states(judge("8.0", facts=library.facts(plugin=True, **given), plugin_mode="off"))[0] != "unresolved"
    lost = tuple(one for one in library.stock_csrc().ops if one.op != plain)
    given["csrc"] = Observation[Csrc].ok(library.stock_csrc(ops=lost))
    assert states(judge("8.0", facts=library.facts(plugin=True, **given)))[0] == "unknown"


def test_a_backend_of_vllm_s_own_is_not_replaced_by_the_plugin():
    asked = judge("8.0", backend="FLASHMLA_SPARSE_DSV4")
    assert states(asked)[1] == "unresolved"
    assert states(judge("8.0", backend="TRITON_MLA_SPARSE"))[1] == "plugin"


@pytest.mark.parametrize(
    ("which", "first"),
    [
        (V4, "vllm.model_executor.kernels.mhc.tilelang.mhc_pre_broadcast_tilelang"),
        (V41, "vllm.models.deepseek_v41.nvidia.model._select_dsv4_attn_cls"),
    ],
)
def test_the_first_step_that_fails_is_named_with_vllm_s_symbol(which, first):
    verdict = judge("8.0", which, plugin_mode="off")
    found = by_id(verdict, "DSA201")
    assert first in found.summary
    assert any(line.startswith(f"1. attention: {first}") for line in found.evidence)
    assert any("9.0" in line and "12.0" in line for line in found.remedy)
    assert any("fails as well" in line for line in by_id(verdict, "DSA301").evidence)
    assert not any(this_installation().install in line for one in verdict.findings for line in one.remedy)


def test_the_backends_are_those_that_v4_takes():
    listed = {one.name: one.accepted for one in judge("8.0").backends}
    assert listed == {
        "FLASHMLA_SPARSE_DSV4": False,
        "FLASHINFER_MLA_SPARSE_DSV4": False,
        "FLASHINFER_MLA_SPARSE": False,
        "FLASHINFER_MLA_SPARSE_SM120": False,
        "TRITON_MLA_SPARSE": True,
    }
    assert not any(one.accepted for one in judge("8.0", plugin_mode="off").backends)
    taken = [one for one in judge("9.0").backends if one.accepted]
    assert [(one.name, one.reasons[0].startswith("taken")) for one in taken] == [("FLASHMLA_SPARSE_DSV4", True)]


def test_the_configuration_is_the_family_s():
    assert judge("9.0").configuration.attention_backend == "FLASHMLA_SPARSE_DSV4"
    assert judge("9.0").configuration.block_size is None
    assert judge("10.0", V41).configuration.attention_backend == "auto"  # mega attention, where the topology allows it


def test_a_backend_asked_for_by_name():
    refused = judge("9.0", backend="FLASHINFER_MLA_SPARSE")
    assert states(refused)[1] == "unresolved"
    assert any("is not a DeepSeek V4 attention backend" in line for line in by_id(refused, "DSA207").evidence)
    assert states(judge("9.0", backend="FLASHMLA_SPARSE"))[1] == "native"
    assert states(judge("12.0", backend="FLASHMLA_SPARSE"))[1] == "unresolved"
    assert states(judge("9.0", backend="TRITON_MLA_SPARSE"))[1] == "unresolved"


@pytest.mark.parametrize(("dtype", "state"), [("auto", "native"), ("fp8", "native"), ("bfloat16", "unresolved")])
def test_the_cache_dtypes_are_the_class_s(dtype, state):
    verdict = judge("9.0", kv_cache_dtype=dtype)
    assert states(verdict)[1] == state
    assert verdict.exit_code == (0 if state == "native" else 8)


def test_a_family_that_this_release_lacks():
    verdict = judge("9.0", V41, version="0.28.0")
    assert states(verdict)[1] == "unresolved"
    assert by_id(verdict, "DSA904").status == "fail"
    assert "pip install -U vllm" in by_id(verdict, "DSA904").remedy


def test_facts_that_hold_nothing_of_the_family_promise_nothing():
    text = library.h100_facts().model_dump_json(exclude={"settings"})
    verdict = judge("9.0", facts=Facts.model_validate_json(text))
    assert states(verdict)[1] == "unknown"
    assert by_id(verdict, "DSA904").status == "unknown"
    assert verdict.exit_code & 32
    unread = library.h100_facts(fingerprint=Observation[Fingerprint].unknown("it broke"))
    assert states(judge("9.0", facts=unread))[1] == "unknown"


def test_a_draft_is_its_family_s():
    verdict = judge("8.0", model("DSparkDraftModel"), plugin_mode="off")
    assert states(verdict)[1:] == LOST[1:]
    assert by_id(verdict, "DSA904").status == "pass"
    served = by_id(judge("9.0"), "DSA904").evidence
    assert any(line.startswith("DSparkDraftModel, which drafts: vllm.models.deepseek_v4") for line in served)


@pytest.mark.parametrize("capability", ["8.0", "9.0"])
def test_a_registered_class_whose_path_is_not_known_is_unknown(capability):
    registry = sources(RELEASES[-1]).value.registered
    architecture = next(one for one, at in registry.items() if "hy_v4" in at and "MTP" not in one)
    verdict = judge(capability, model(architecture, "hy_v4"))
    assert states(verdict)[1:] == ["unknown", "unknown"]
    assert architecture in verdict.layers[1].reason
    assert by_id(verdict, "DSA904").status == "pass"
    assert verdict.exit_code & 32


def test_an_architecture_that_nothing_registers():
    verdict = judge("9.0", model("NobodysForCausalLM", "nobody"))
    assert by_id(verdict, "DSA904").status == "fail"
    assert verdict.exit_code != 0


def test_ops_of_the_family_are_looked_for():
    ops = library.stock_csrc().ops
    lacking = "_C::fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert"
    without = tuple(one for one in ops if one.op != lacking)
    facts = library.h100_facts(
        fingerprint=sources(RELEASES[-1]), csrc=Observation[Csrc].ok(library.stock_csrc(ops=without))
    )
    verdict = judge("9.0", facts=facts)
    assert states(verdict)[0] == "unknown"
    assert "fused_deepseek_v4_qnorm_rope_kv_rope_quant_insert" in by_id(verdict, "DSA102").summary
    glm = library.h100_facts(csrc=Observation[Csrc].ok(library.stock_csrc(ops=without)))
    assert (
        resolve(
            glm,
            model=model("GlmMoeDsaForCausalLM", "glm_moe_dsa", kv_lora_rank=512, qk_nope_head_dim=192),
            target=Target(name="NVIDIA H100", capability="9.0", source="--target"),
            request=Request(),
        )
        .layers[0]
        .state
        == "native"
    )


GLM53 = find_model("GLM-5.3-Flash").geometry()
NO_NVCC = Observation[CudaToolkit].absent("no CUDA toolkit: CUDA_HOME and CUDA_PATH are not set")


def with_toolkit(toolkit, version=RELEASES[-1], capability="8.0"):
    answers = (library.answer(capability, None, deep_gemm_supported=capability == "9.0"),)
    return library.facts(answers=answers, fingerprint=sources(version), plugin=True, cuda_toolkit=toolkit)


def test_a_server_whose_mhc_no_compiler_can_build_is_told_before_it_starts():
    """On the GPU itself it fails and the exit code says so; for a GPU elsewhere it is a warning about this machine."""
    target = Target(name=NAMES["8.0"], capability="8.0", source="this machine", count=8)
    facts = with_toolkit(NO_NVCC)
    here = resolve(facts, model=V4, target=target, request=Request())
    assert states(here)[1] == "plugin"
    found = by_id(here, "DSA945")
    assert found.status == "fail"
    assert "no nvcc" in found.summary
    assert any("mhc" in one or "DecoderLayer" in one for one in found.evidence)
    assert found.remedy == ("pip install 'tilelang[nvcc]'   # or a CUDA toolkit",)
    assert here.exit_code == 32
    elsewhere = judge("8.0", facts=facts)
    assert (by_id(elsewhere, "DSA945").status, elsewhere.exit_code) == ("warn", 0)


def test_glm53_mixes_its_streams_by_the_same_kernels():
    """On the facts of a real installation, whose selector was asked for its layers."""
    file = Path(__file__).parents[2] / "data" / "facts-vllm-0.33.0.json"
    real = Facts.model_validate_json(file.read_bytes()).model_copy(update={"cuda_toolkit": NO_NVCC})
    verdict = judge("9.0", GLM53, facts=real)
    assert states(verdict)[1] == "native"
    assert by_id(verdict, "DSA945").status == "warn"


@pytest.mark.parametrize("version", RELEASES[1:])
def test_the_compiler_is_asked_for_in_every_release_and_natively_too(version):
    assert by_id(judge("8.0", facts=with_toolkit(NO_NVCC, version)), "DSA945").status == "warn"
    native = judge("9.0", facts=with_toolkit(NO_NVCC, version, "9.0"))
    assert states(native) == NATIVE
    assert by_id(native, "DSA945").status == "warn"


def test_nvcc_without_a_cxx_compiler_is_told_and_with_one_nothing_is():
    def told(host_compiler):
        made = CudaToolkit(found_by="PATH", nvcc_version="13.0.88", host_compiler=host_compiler)
        verdict = judge("8.0", facts=with_toolkit(Observation[CudaToolkit].ok(made)))
        return [one.summary for one in verdict.findings if one.id == "DSA945"]

    assert told(True) == told(None) == []  # older facts do not say it
    (summary,) = told(False)
    assert "nvcc finds no C++ compiler" in summary
    unknown = judge("8.0", facts=with_toolkit(Observation[CudaToolkit].unknown("the probe broke")))
    assert by_id(unknown, "DSA945").status == "unknown"


def test_no_compiler_is_asked_for_where_nothing_serves_or_nothing_is_mixed():
    facts = with_toolkit(NO_NVCC)
    unserved = judge("8.0", facts=facts.model_copy(update={"settings": library.settings(DSA_DOCTOR_PLUGIN="off")}))
    assert states(unserved)[1] == "unresolved"
    assert "DSA945" not in [one.id for one in unserved.findings]
    mla = judge("8.0", find_model("GLM-5-FP8").geometry(), facts=facts)
    assert "DSA945" not in [one.id for one in mla.findings]
