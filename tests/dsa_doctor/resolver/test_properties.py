"""Properties that hold for any facts."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_doctor.catalog.findings import FINDINGS_BY_ID
from dsa_doctor.catalog.models import KNOWN_MODELS
from dsa_doctor.catalog.targets import KNOWN_GPUS
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import (
    Csrc,
    CudaToolkit,
    DeepGemm,
    Facts,
    Fingerprint,
    GpuInventory,
    Selector,
    Software,
)
from dsa_doctor.resolver import Request, Target, query_for, resolve
from tests.dsa_doctor import facts_library as library

MODELS = [known.geometry() for known in KNOWN_MODELS]
STATUSES = st.sampled_from(["ok", "absent", "unknown"])


def observed(kind, value):
    """Draw an observation of `value`, or its absence, or an unknown."""
    return STATUSES.map(
        lambda status: kind.ok(value) if status == "ok" else getattr(kind, status)(f"the probe says {status}")
    )


@st.composite
def cases(draw):
    model = draw(st.sampled_from(MODELS))
    gpu = draw(st.sampled_from(KNOWN_GPUS))
    source = draw(st.sampled_from(["--target", "this machine", "facts file"]))
    request = Request(
        tensor_parallel_size=draw(st.sampled_from([1, 2, 4, 8])),
        kv_cache_dtype=draw(st.sampled_from(["auto", "bfloat16", "fp8", "fp8_ds_mla"])),
        backend=draw(st.sampled_from([None, "TRITON_MLA_SPARSE", "FLASHMLA_SPARSE"])),
        plugin_mode=draw(st.sampled_from(["auto", "off", "force"])),
    )
    query = query_for(model, gpu.capability, request)
    chosen = draw(st.sampled_from([None, "FLASHMLA_SPARSE", "TRITON_MLA_SPARSE"]))
    supported = draw(st.sampled_from([None, True, False]))
    answer = library.answer(str(gpu.capability), chosen, deep_gemm_supported=supported).model_copy(
        update={"query": query}
    )
    answers = draw(st.sampled_from([(), (answer,)]))
    fingerprint = library.fingerprint(
        in_tree_triton_mla_sparse=draw(st.booleans()),
        topk_persistent_gate=draw(st.sampled_from(["capability", "none", "absent", "unrecognised"])),
        topk_overflow_fix=draw(st.sampled_from([None, True, False])),
        kv_b_proj_int32_bug=draw(st.booleans()),
        patch_targets=draw(
            st.dictionaries(st.text(min_size=1, max_size=5), st.sampled_from(["present", "missing"]), max_size=3)
        ),
    )
    architectures = tuple(draw(st.sets(st.sampled_from(library.STOCK_ARCHITECTURES))))
    csrc = library.stock_csrc(
        extensions=(library.extension("vllm._C_stable_libtorch", architectures), library.extension("vllm._moe_C"))
    )
    software = library.software(
        plugin=draw(st.booleans()),
        torch_cuda=draw(st.sampled_from([None, "13.0"])),
        without=tuple(draw(st.sets(st.sampled_from(["vllm", "torch", "triton"])))),
    )
    facts = Facts(
        dsa_doctor_version="0.1.0",
        gpus=draw(observed(Observation[GpuInventory], library.inventory(library.A100).value)),
        software=draw(observed(Observation[Software], software)),
        cuda_toolkit=draw(observed(Observation[CudaToolkit], CudaToolkit(found_by="PATH"))),
        deep_gemm=draw(
            observed(Observation[DeepGemm], library.deep_gemm(draw(st.sampled_from([True, False, None]))).value)
        ),
        csrc=draw(observed(Observation[Csrc], csrc)),
        selector=draw(observed(Observation[Selector], Selector(answers=answers))),
        fingerprint=draw(observed(Observation[Fingerprint], fingerprint)),
        vllm_import=draw(observed(Observation[str], "0.32.0")),
    )
    target = Target(name=gpu.name, capability=str(gpu.capability), source=source, count=8)
    return facts, model, target, request


@settings(max_examples=400, deadline=None)
@given(cases())
def test_any_facts_give_one_consistent_verdict(case):
    facts, model, target, request = case
    verdict = resolve(facts, model=model, target=target, request=request)

    assert verdict == resolve(facts, model=model, target=target, request=request)
    assert [layer.layer for layer in verdict.layers] == ["csrc", "attention", "indexer"]
    assert {finding.id for finding in verdict.findings} <= set(FINDINGS_BY_ID)
    assert all(FINDINGS_BY_ID[finding.id].layer == finding.layer for finding in verdict.findings)
    found = {finding.id for finding in verdict.findings}
    for layer in verdict.layers:
        assert layer.reason
        assert layer.finding_ids
        assert set(layer.finding_ids) <= found
    states = {layer.layer: layer.state for layer in verdict.layers}
    unknown = "unknown" in states.values()
    bits = sum(bit for name, bit in (("csrc", 4), ("attention", 8), ("indexer", 16)) if states[name] == "unresolved")
    failing = any(one.layer == "runtime" and one.status == "fail" for one in verdict.findings)
    assert verdict.exit_code == bits + (32 if unknown or (bits == 0 and failing) else 0)
    assert (verdict.configuration is not None) == (bits == 0 and not unknown)
    if states["attention"] == "plugin" or states["indexer"] == "plugin":
        assert facts.software.value.vllm_plugins, "the plugin serves only where it is registered"
        assert set(facts.fingerprint.value.patch_targets.values()) == {"present"}
        assert request.plugin_mode != "off"
        assert request.plugin_mode == "force" or target.capability.startswith("8.")


@settings(max_examples=100, deadline=None)
@given(cases())
def test_facts_survive_the_file(case):
    facts, model, target, request = case
    again = Facts.model_validate_json(facts.model_dump_json())
    assert again == facts
    assert resolve(again, model=model, target=target, request=request) == resolve(
        facts, model=model, target=target, request=request
    )
