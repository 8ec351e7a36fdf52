"""The verdicts of machines that matter, from handwritten facts."""

from dataclasses import replace

import pytest

from dsa_doctor.catalog.models import find_model
from dsa_doctor.catalog.targets import target_from_text
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Csrc, CudaToolkit, DeepGemm, Fingerprint, Selector, Software, TritonFp8Kernel
from dsa_doctor.installation import this_installation
from dsa_doctor.probes.environment import Environment
from dsa_doctor.probes.selector import probe as probe_selector
from dsa_doctor.resolver import Request, Target, resolve
from dsa_doctor.resolver.plugin_gate import GateDecision, model_gate
from tests.dsa_doctor import facts_library as library

GLM = find_model("GLM-5-FP8").geometry()


def target(name: str = "a100", source: str = "--target") -> Target:
    known = target_from_text(name)
    return Target(name=known.name, capability=str(known.capability), source=source, count=8)


def judge(facts, where=None, model=GLM, **options):
    return resolve(facts, model=model, target=where or target(), request=Request(**options))


def states(verdict):
    return [layer.state for layer in verdict.layers]


def by_id(verdict, finding_id):
    return next(finding for finding in verdict.findings if finding.id == finding_id)


def ids(verdict):
    return {finding.id for finding in verdict.findings}


def test_a100_with_a_stock_wheel():
    verdict = judge(library.a100_facts())
    assert states(verdict) == ["upstream", "unresolved", "unresolved"]
    assert verdict.exit_code == 8 + 16
    assert "dsv3_fused_a_gemm" in verdict.layers[0].reason
    assert "although it is installed" in verdict.layers[2].reason
    assert by_id(verdict, "DSA104").status == "pass"
    assert by_id(verdict, "DSA301").evidence[0].startswith("installed: the copy vendored in vLLM")
    assert by_id(verdict, "DSA901").status == "fail"
    assert "DSA901" in verdict.layers[2].finding_ids
    assert verdict.configuration is None
    rejected = {backend.name: backend for backend in verdict.backends}
    assert not rejected["FLASHMLA_SPARSE"].accepted
    assert rejected["FLASHMLA_SPARSE"].reasons == ("sparse not supported",)
    assert not rejected["TRITON_MLA_SPARSE"].accepted
    assert this_installation().install in by_id(verdict, "DSA201").remedy


def test_h100_is_native_three_times():
    verdict = judge(library.h100_facts(), target("h100"))
    assert states(verdict) == ["native", "native", "native"]
    assert verdict.exit_code == 0
    assert verdict.configuration.attention_backend == "FLASHMLA_SPARSE"
    assert not verdict.configuration.uses_plugin
    assert "DSA901" not in ids(verdict)


def test_a100_with_the_plugin():
    verdict = judge(library.a100_facts(plugin=True))
    assert states(verdict) == ["upstream", "plugin", "plugin"]
    assert verdict.exit_code == 0
    assert verdict.configuration.attention_backend == "TRITON_MLA_SPARSE"
    assert verdict.configuration.uses_plugin
    assert verdict.configuration.block_size == 64
    assert {by_id(verdict, one).status for one in ("DSA901", "DSA902", "DSA913")} == {"pass"}


def test_the_plugin_never_displaces_a_native_path():
    verdict = judge(library.h100_facts(plugin=True), target("h100"))
    assert states(verdict) == ["native", "native", "native"]
    assert "native paths win" in verdict.backends[-1].reasons[0]


def test_force_serves_where_the_native_path_would():
    verdict = judge(library.h100_facts(plugin=True), target("h100"), plugin_mode="force", backend="TRITON_MLA_SPARSE")
    assert states(verdict) == ["native", "plugin", "plugin"]


def test_the_plugin_switched_off():
    verdict = judge(library.a100_facts(plugin=True), plugin_mode="off")
    assert verdict.exit_code == 24
    assert "unset DSA_DOCTOR_PLUGIN" in by_id(verdict, "DSA914").remedy


def test_a_moved_patch_target_is_named():
    moved = library.fingerprint(patch_targets={"vllm.a.b": "present", "vllm.c.d": "missing"})
    verdict = judge(library.a100_facts(plugin=True, fingerprint=Observation[Fingerprint].ok(moved)))
    assert verdict.exit_code == 24
    assert by_id(verdict, "DSA914").status == "fail"
    assert by_id(verdict, "DSA914").evidence == ("vllm.c.d: missing",)


@pytest.mark.parametrize(
    ("states", "served"),
    [
        ({"all": "present", "old": "present", "new": "present"}, True),
        ({"all": "present", "old": "present", "new": "missing"}, True),
        ({"all": "present", "old": "missing", "new": "present"}, False),
        ({"all": "missing", "old": "present", "new": "present"}, False),
        ({"all": "present", "old": "missing", "new": "missing"}, False),
    ],
)
def test_what_another_family_lacks_does_not_keep_the_plugin_from_serving(states, served):
    families = {"deepseek_v32": ("old",), "another": ("new",)}
    found = library.fingerprint(patch_targets=states, patch_families=families)
    verdict = judge(library.a100_facts(plugin=True, fingerprint=Observation[Fingerprint].ok(found)))
    assert (verdict.exit_code == 0) is served
    if not served:
        lacking = tuple(f"{target}: missing" for target, state in states.items() if state == "missing")
        assert by_id(verdict, "DSA914").evidence == lacking


def test_unverified_patch_targets_are_not_taken_as_good():
    unverified = Observation[Fingerprint].ok(library.fingerprint(patch_targets={}))
    assert judge(library.a100_facts(plugin=True, fingerprint=unverified)).exit_code == 24


def test_blackwell_consumer_needs_to_ask_for_the_plugin():
    facts = library.facts(answers=(library.answer("12.0", None),), plugin=True)
    assert judge(facts, target("5090")).exit_code == 24
    remedy = by_id(judge(facts, target("5090")), "DSA914").remedy
    assert remedy[0] == "--attention-backend TRITON_MLA_SPARSE"
    assert remedy[1].startswith("export DSA_DOCTOR_PLUGIN=force")
    assert judge(facts, target("5090"), plugin_mode="force").exit_code == 0


def judge_flash(settings=None, request=None, **read):
    answers = (library.answer("8.0", None, model="GLM-5.3-Flash"), library.answer("8.0", None))
    fingerprint = Observation[Fingerprint].ok(library.fingerprint(**read))
    facts = library.a100_facts(plugin=True, answers=answers, fingerprint=fingerprint)
    facts = facts.model_copy(update={"settings": library.settings(**(settings or {}))})
    assert judge(facts).exit_code == 0, "the other families do not depend on it"
    return judge(facts, model=find_model("GLM-5.3-Flash").geometry(), **(request or {}))


OWN = {"deepseek_v32": ("a:b",), "glm5_next": ("c:d", "e:f")}


def test_glm_5_3_flash_is_served_where_its_own_targets_are_present():
    verdict = judge_flash(patch_targets=dict.fromkeys(("a:b", "c:d", "e:f"), "present"), patch_families=OWN)
    assert states(verdict) == ["upstream", "plugin", "plugin"]
    assert verdict.configuration.block_size is None, "vLLM sizes the blocks of a hybrid model"
    assert verdict.configuration.fallbacks["indexer query"] == "dsa_kernels.hadamard_quantize_fp8"
    assert "kpool_decode_update" in verdict.configuration.fallbacks["pooled index keys"]


@pytest.mark.parametrize(
    ("request_", "remedy"),
    [
        ({"pipeline_parallel_size": 2}, "--pipeline-parallel-size 1"),
        ({"decode_context_parallel_size": 2}, "--decode-context-parallel-size 1"),
        ({"enforce_eager": False}, "leave out VLLM_USE_BREAKABLE_CUDAGRAPH=0"),
    ],
)
def test_what_the_server_would_refuse_leaves_the_layers_unresolved(request_, remedy):
    present = dict.fromkeys(("a:b", "c:d", "e:f"), "present")
    settings = {"VLLM_USE_BREAKABLE_CUDAGRAPH": "0"} if "enforce_eager" in request_ else {}
    verdict = judge_flash(settings, request_, patch_targets=present, patch_families=OWN)
    assert states(verdict) == ["upstream", "unresolved", "unresolved"]
    assert remedy in by_id(verdict, "DSA914").remedy


@pytest.mark.parametrize("faults", [None, (), ("chunks",), ("chunks", "distance")])
def test_keys_that_are_pooled_from_other_tokens_are_told(faults):
    read = {"patch_targets": dict.fromkeys(("a:b", "c:d", "e:f"), "present"), "patch_families": OWN}
    served = judge_flash(pool_faults=faults, **read)
    told = [one for one in served.findings if one.id == "DSA946"]
    assert [(one.status, len(one.evidence)) for one in told] == ([("pass", len(faults))] if faults else [])
    fingerprint = Observation[Fingerprint].ok(library.fingerprint(pool_faults=faults))
    answers = (library.answer("9.0", "FLASHMLA_SPARSE", model="GLM-5.3-Flash", deep_gemm_supported=True),)
    native = judge(
        library.h100_facts(answers=answers, fingerprint=fingerprint),
        target("h100"),
        model=find_model("GLM-5.3-Flash").geometry(),
    )
    told = [one for one in native.findings if one.id == "DSA946"]
    assert [one.status for one in told] == (["warn"] if faults else [])
    assert native.exit_code == 0


@pytest.mark.parametrize(("value", "warned"), [("0", True), ("1", False)])
def test_whole_graphs_are_refused_at_start_and_told_before(value, warned):
    present = dict.fromkeys(("a:b", "c:d", "e:f"), "present")
    settings = {"VLLM_USE_BREAKABLE_CUDAGRAPH": value}
    verdict = judge_flash(settings=settings, patch_targets=present, patch_families=OWN)
    said = [one.summary for one in verdict.findings if one.id == "DSA916" and one.status == "warn"]
    assert any("refuses GLM-5.3-Flash at start" in one for one in said) == warned


@pytest.mark.parametrize(
    ("read", "words"),
    [
        ({}, "its patch targets for GLM-5.3-Flash in this vLLM were not verified"),
        (
            {"patch_targets": {"a:b": "present", "c:d": "missing", "e:f": "present"}, "patch_families": OWN},
            "1 of its patch targets for GLM-5.3-Flash moved in this vLLM",
        ),
    ],
)
def test_glm_5_3_flash_is_refused_where_they_are_not(read, words):
    verdict = judge_flash(**read)
    assert verdict.exit_code == 24
    assert words in by_id(verdict, "DSA914").summary


def test_rows_without_rope_have_no_fp8_layout():
    gate = GateDecision(outcome="serves", reason="")
    flash = find_model("GLM-5.3-Flash").geometry()
    assert model_gate(gate, model=flash, kv_cache_dtype="bfloat16").serves
    for dtype in ("fp8", "fp8_ds_mla", "float16"):
        refused = model_gate(gate, model=flash, kv_cache_dtype=dtype)
        assert f"no KV cache of dtype {dtype}" in refused.reason
    pooled = flash.model_copy(update={"index_kpool": 32})
    assert "pools 32 of 128" in model_gate(gate, model=pooled, kv_cache_dtype="auto").reason


def test_in_tree_backend_is_upstream():
    own = Observation[Fingerprint].ok(library.fingerprint(in_tree_triton_mla_sparse=True))
    facts = library.a100_facts(plugin=True, fingerprint=own, answers=(library.answer("8.0", "TRITON_MLA_SPARSE"),))
    verdict = judge(facts)
    assert verdict.layers[1].state == "upstream"
    assert [backend.name for backend in verdict.backends].count("TRITON_MLA_SPARSE") <= 1


def test_a_backend_by_name_works_or_is_unresolved():
    facts = library.a100_facts(plugin=True, answers=(library.answer("8.0", None, backend="FLASHMLA_SPARSE"),))
    verdict = judge(facts, backend="FLASHMLA_SPARSE")
    assert verdict.layers[1].state == "unresolved"
    assert by_id(verdict, "DSA207").status == "fail"


def test_the_plugin_by_name_without_the_plugin():
    verdict = judge(library.a100_facts(), backend="TRITON_MLA_SPARSE")
    assert by_id(verdict, "DSA207").status == "fail"
    assert "no entry point" in verdict.layers[1].reason


@pytest.mark.parametrize("dtype", ["fp8", "fp8_e5m2"])
def test_an_unsupported_kv_cache_dtype(dtype):
    facts = library.a100_facts(plugin=True, answers=(library.answer("8.0", None, kv_cache_dtype=dtype),))
    verdict = judge(facts, kv_cache_dtype=dtype)
    assert verdict.layers[1].state == "unresolved"
    assert "--kv-cache-dtype bfloat16" in by_id(verdict, "DSA914").remedy


def test_a_kv_cache_dtype_forced_by_the_checkpoint_is_served_as_bfloat16():
    model = find_model("GLM-5.1-NVFP4").geometry()
    facts = library.a100_facts(plugin=True, answers=(library.answer("8.0", None, kv_cache_dtype="fp8_e4m3"),))
    verdict = judge(facts, model=model)
    assert verdict.exit_code == 0
    assert verdict.configuration.kv_cache_dtype == "bfloat16"
    assert by_id(verdict, "DSA903").status == "warn"


@pytest.mark.parametrize("failure", ["no_cuda_toolkit", "no_driver_or_cuda_torch"])
def test_installed_is_not_importable(failure):
    """On the GPU's own machine a failing import is a failure; for a GPU elsewhere it is a warning."""
    facts = library.h100_facts(deep_gemm=library.deep_gemm(importable=False, failure=failure))
    here = judge(facts, target("h100", "this machine"))
    assert here.layers[2].state == "unresolved"
    assert here.exit_code == 16
    assert by_id(here, "DSA303").status == "fail"
    elsewhere = judge(facts, target("h100"))
    assert elsewhere.layers[2].state == "native"
    assert by_id(elsewhere, "DSA303").status == "warn"


def test_a_broken_deep_gemm_is_broken_everywhere():
    facts = library.h100_facts(deep_gemm=library.deep_gemm(importable=False, failure="broken"))
    verdict = judge(facts, target("h100"))
    assert verdict.layers[2].state == "unresolved"
    assert "--force-reinstall" in by_id(verdict, "DSA303").remedy[0]


@pytest.mark.parametrize(
    ("gate", "state"), [("none", "unresolved"), ("unrecognised", "unknown"), ("capability", "upstream")]
)
def test_the_seed_op_without_code_is_no_fault_only_where_vllm_asks_the_capability(gate, state):
    facts = library.a100_facts(
        fingerprint=Observation[Fingerprint].ok(library.fingerprint(dsv3_fused_a_gemm_gate=gate))
    )
    assert judge(facts).layers[0].state == state


def test_a_question_that_broke_says_nothing():
    broke = library.answer("9.0", None, broke=True, error="TypeError: unexpected keyword")
    verdict = judge(library.h100_facts(answers=(broke,)), target("h100"))
    assert verdict.layers[1].state == "unknown"
    assert "TypeError" in verdict.layers[1].reason


def test_kernels_of_another_family_are_not_on_the_path():
    kernels = (
        TritonFp8Kernel(kernel="mine", file="a.py", guarded=False, architectures=("GlmMoeDsaForCausalLM",)),
        TritonFp8Kernel(
            kernel="other", file="b.py", guarded=False, architectures=("Glm5NextForConditionalGeneration",)
        ),
    )
    fingerprint = Observation[Fingerprint].ok(library.fingerprint(triton_fp8_kernels=kernels))
    assert by_id(judge(library.a100_facts(fingerprint=fingerprint)), "DSA901").evidence == ("mine in a.py",)


def test_importable_unknown_is_unknown():
    facts = library.h100_facts(deep_gemm=library.deep_gemm(importable=None))
    verdict = judge(facts, target("h100", "this machine"))
    assert verdict.layers[2].state == "unknown"
    assert verdict.exit_code == 32


def test_deep_gemm_not_installed():
    verdict = judge(library.h100_facts(deep_gemm=Observation[DeepGemm].absent("no copy")), target("h100"))
    assert by_id(verdict, "DSA302").status == "fail"
    assert verdict.exit_code == 16


def test_vllm_word_on_deep_gemm_beats_the_table():
    answer = library.answer("9.0", "FLASHMLA_SPARSE", deep_gemm_supported=False)
    verdict = judge(library.h100_facts(answers=(answer,)), target("h100"))
    assert verdict.layers[2].state == "unresolved"


def test_a_wheel_without_code_for_the_gpu():
    extensions = (
        library.extension("vllm._C_stable_libtorch", ("sm_90", "sm_100")),
        library.extension("vllm._moe_C_stable_libtorch"),
    )
    verdict = judge(library.a100_facts(csrc=Observation[Csrc].ok(library.stock_csrc(extensions=extensions))))
    assert verdict.layers[0].state == "unresolved"
    assert verdict.exit_code & 4
    assert "no kernel image" in by_id(verdict, "DSA101").summary


def test_an_undefined_symbol():
    broken = library.extension("vllm._C_stable_libtorch", unresolved_symbols=("dsv3_fused_a_gemm",))
    csrc = library.stock_csrc(extensions=(broken, library.extension("vllm._moe_C_stable_libtorch")))
    verdict = judge(library.a100_facts(csrc=Observation[Csrc].ok(csrc)))
    assert verdict.exit_code & 4
    assert "dsv3_fused_a_gemm" in by_id(verdict, "DSA103").summary


def test_an_op_without_code_for_the_gpu():
    ops = tuple(
        op.model_copy(update={"machine_code": ("sm_90a",)}) if op.op == "_C::rms_norm" else op
        for op in library.stock_csrc().ops
    )
    verdict = judge(library.a100_facts(csrc=Observation[Csrc].ok(library.stock_csrc(ops=ops))))
    assert "_C::rms_norm" in by_id(verdict, "DSA102").summary
    assert verdict.exit_code & 4


def test_ptx_counts_as_code():
    ops = tuple(
        op.model_copy(update={"machine_code": ("sm_75",), "ptx": ("sm_80",)}) if op.op == "_C::rms_norm" else op
        for op in library.stock_csrc().ops
    )
    verdict = judge(library.h100_facts(csrc=Observation[Csrc].ok(library.stock_csrc(ops=ops))), target("h100"))
    assert verdict.layers[0].state == "native"


def test_a_missing_extension():
    ops = tuple(
        op.model_copy(update={"extension": None, "machine_code": ()}) if op.op.startswith("_moe_C") else op
        for op in library.stock_csrc().ops
    )
    csrc = library.stock_csrc(extensions=(library.extension("vllm._C_stable_libtorch"),), ops=ops)
    verdict = judge(library.a100_facts(csrc=Observation[Csrc].ok(csrc)))
    assert "_moe_C" in by_id(verdict, "DSA105").summary
    assert verdict.exit_code & 4


def test_one_op_that_is_nowhere_is_unknown_rather_than_missing():
    ops = tuple(
        op.model_copy(update={"extension": None, "machine_code": ()}) if op.op == "_C::rms_norm" else op
        for op in library.stock_csrc().ops
    )
    verdict = judge(library.h100_facts(csrc=Observation[Csrc].ok(library.stock_csrc(ops=ops))), target("h100"))
    assert verdict.layers[0].state == "unknown"
    assert verdict.exit_code == 32


def test_damage_off_the_path_is_a_warning():
    extensions = (*library.stock_csrc().extensions, library.extension("vllm._qutlass_C", problem="truncated"))
    csrc = library.stock_csrc(extensions=extensions)
    verdict = judge(library.h100_facts(csrc=Observation[Csrc].ok(csrc)), target("h100"))
    assert verdict.exit_code == 0
    assert by_id(verdict, "DSA105").status == "warn"


def test_a_schema_without_an_implementation():
    ops = tuple(
        op.model_copy(update={"registered_for_cuda": False}) if op.op == "_C::rms_norm" else op
        for op in library.stock_csrc().ops
    )
    verdict = judge(library.h100_facts(csrc=Observation[Csrc].ok(library.stock_csrc(ops=ops))), target("h100"))
    assert by_id(verdict, "DSA106").status == "fail"
    assert verdict.exit_code == 4


def test_unknown_selector_is_never_green():
    broken = Observation[Selector].unknown("the selector probe died of SIGSEGV", evidence=("Fatal Python error",))
    verdict = judge(library.h100_facts(selector=broken), target("h100"))
    assert verdict.layers[1].state == "unknown"
    assert verdict.exit_code == 32
    assert by_id(verdict, "DSA204").evidence == ("Fatal Python error",)


def test_facts_without_the_asked_answer_are_unknown():
    verdict = judge(library.h100_facts(), target("h100"), tensor_parallel_size=4)
    assert verdict.layers[1].state == "unknown"
    assert "16 heads per rank" in verdict.layers[1].reason


def test_no_vllm():
    bare = Observation[Software].ok(library.software(without=("vllm",)))
    verdict = judge(library.a100_facts(software=bare))
    assert states(verdict) == ["unknown"] * 3
    assert verdict.exit_code == 32
    assert ids(verdict) == {"DSA908"}


def test_a_model_without_dsa_is_told_so_and_not_green():
    dense = GLM.model_copy(update={"name": "Llama", "uses_dsa": False, "index_topk": 0})
    verdict = judge(library.h100_facts(), target("h100"), model=dense)
    assert ids(verdict) == {"DSA912"}
    assert verdict.exit_code == 32


def test_an_architecture_that_vllm_does_not_know_is_not_green():
    unknown = Observation[Fingerprint].ok(library.fingerprint(model_classes={}))
    verdict = judge(library.h100_facts(fingerprint=unknown), target("h100"))
    assert by_id(verdict, "DSA904").status == "fail"
    assert verdict.exit_code == 32


def test_torch_without_cuda():
    cpu = Observation[Software].ok(library.software(torch_cuda=None))
    here = judge(library.h100_facts(software=cpu), target("h100", "this machine"))
    assert by_id(here, "DSA909").status == "fail"
    assert here.exit_code != 0
    elsewhere = judge(library.h100_facts(software=cpu), target("h100"))
    assert by_id(elsewhere, "DSA909").status == "warn"
    assert elsewhere.exit_code == 0


@pytest.mark.parametrize("model", ["GLM-5-FP8", "GLM-5.3-Flash", "DeepSeek-V4-Flash", "DeepSeek-V4.1-Flash"])
def test_a_flag_for_the_top_k_op_is_advised_only_where_something_serves_the_indexer(model):
    geometry = find_model(model).geometry()
    unserved = by_id(judge(library.a100_facts(), model=geometry), "DSA902")
    assert (unserved.status, unserved.remedy) == ("warn", ())
    old = Observation[Fingerprint].ok(library.fingerprint(topk_overflow_fix=False))
    served = by_id(judge(library.h100_facts(fingerprint=old), target("h100"), model=geometry), "DSA902")
    assert (served.status, served.remedy) == ("warn", ("--sparse-indexer-topk-backend per_row",))


def test_no_cuda_toolkit_where_deep_gemm_compiles():
    verdict = judge(library.h100_facts(cuda_toolkit=Observation[CudaToolkit].absent("none found")), target("h100"))
    assert by_id(verdict, "DSA905").status == "warn"


def test_int32_projection_only_with_quantised_weights_below_sm89():
    bug = Observation[Fingerprint].ok(library.fingerprint(kv_b_proj_int32_bug=True))
    assert by_id(judge(library.a100_facts(fingerprint=bug)), "DSA906").status == "warn"
    assert by_id(judge(library.a100_facts(fingerprint=bug, plugin=True)), "DSA906").status == "pass"
    assert "DSA906" not in ids(judge(library.h100_facts(fingerprint=bug), target("h100")))
    bf16 = find_model("GLM-5").geometry()
    assert "DSA906" not in ids(judge(library.a100_facts(fingerprint=bug), model=bf16))


def test_heads_that_the_ranks_do_not_divide():
    with pytest.raises(
        ValueError, match=r"--tensor-parallel-size 7 does not divide the 64 attention heads.*Accepted: 1"
    ):
        judge(library.a100_facts(), tensor_parallel_size=7)


@pytest.mark.parametrize(
    ("selector", "imported", "import_is_tried"),
    [
        (Observation[Selector].unknown("the selector probe was not run"), Observation[str].unknown("not run"), False),
        (Observation[Selector].unknown("no interpreter"), Observation[str].unknown("no interpreter"), False),
        (Observation[Selector].absent("vllm cannot be imported"), Observation[str].absent("no"), True),
        (Observation[Selector].unknown("no answer within 180 s", seconds=180.0), Observation[str].unknown("no"), True),
        (Observation[Selector].unknown("died", evidence=("Fatal",)), Observation[str].unknown("no"), True),
    ],
)
def test_an_import_is_advised_only_where_one_failed(selector, imported, import_is_tried):
    verdict = judge(library.a100_facts(selector=selector, vllm_import=imported))
    (line,) = by_id(verdict, "DSA204").remedy
    assert line.startswith("python -c 'import vllm'") == import_is_tried


@pytest.mark.parametrize("seconds", [0.0, 20.0])
def test_who_wants_nothing_run_is_not_told_to_run_it(tmp_path, seconds):
    (tmp_path / "vllm").mkdir()
    files = replace(Environment.current(), search_path=(tmp_path,)).files_alone()
    selector, imported = probe_selector(files, (library.answer("8.0", None).query,))
    late = selector.model_copy(update={"seconds": seconds})
    verdict = judge(library.a100_facts(selector=late, vllm_import=imported))
    (line,) = by_id(verdict, "DSA204").remedy
    assert line.startswith("the same command without --no-execute ")
    assert "dsa-doctor facts" in line
