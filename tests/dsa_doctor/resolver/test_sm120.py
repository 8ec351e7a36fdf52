"""12.x and 11.0: what FlashInfer's installed sources say, and true sentences where nothing of ours serves."""

import pytest

from dsa_doctor.catalog.models import find_model
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Facts, Sm120Kernels, Sm120Shapes, Software
from dsa_doctor.resolver import Request, Target, resolve
from tests.dsa_doctor import facts_library as library

GLM = find_model("GLM-5-FP8").geometry()
FLASH = find_model("GLM-5.3-Flash").geometry()
PRO = Target(name="NVIDIA RTX PRO 6000 Blackwell", capability="12.0", source="--target", count=8)
PAIRS = tuple((heads, topk) for heads in (8, 16, 32, 64, 128) for topk in (512, 1024, 2048))
OLD = Sm120Kernels(barrier="livelocks", swap_ab="absent", rope_free=False, shapes={"DSV3_2": Sm120Shapes(pairs=PAIRS)})
BOUNDS = Sm120Shapes(most_heads=128, least_topk=1)
NEW = Sm120Kernels(
    barrier="alternates", swap_ab="retires", rope_free=True, shapes={"DSV3_2": BOUNDS, "GLM53_NOPE": BOUNDS}
)


def judge(kernels, model=GLM, *, packages=None, plugin=True, chosen="FLASHINFER_MLA_SPARSE_SM120", **options):
    request = Request(**options)
    answer = library.answer("12.0", chosen, deep_gemm_supported=True)
    answer = answer.model_copy(update={"query": library.query_for(model, PRO.parsed, request)})
    software = library.software(plugin=plugin)
    software = software.model_copy(update={"packages": {**software.packages, **(packages or {})}})
    facts = library.facts(
        answers=(answer,),
        software=Observation[Software].ok(software),
        flashinfer_sm120=kernels if isinstance(kernels, Observation) else Observation[Sm120Kernels].ok(kernels),
    )
    return resolve(facts, model=model, target=PRO, request=request)


def of(verdict, finding_id):
    return [(one.status, one.summary) for one in verdict.findings if one.id == finding_id]


def test_a_livelock_is_warned_of_and_the_plugin_is_offered():
    verdict = judge(OLD, packages={"flashinfer-python": "0.6.14"})
    assert [layer.state for layer in verdict.layers] == ["native"] * 3
    ((status, summary),) = of(verdict, "DSA215")
    assert (status, "livelock" in summary) == ("warn", True)
    found = next(one for one in verdict.findings if one.id == "DSA215")
    assert any("bar_arrive_alt" in line for line in found.evidence)
    assert "flashinfer-python 0.6.14" in found.evidence
    assert any("DSA_DOCTOR_PLUGIN=force" in line for line in found.remedy)
    without = next(one for one in judge(OLD, plugin=False).findings if one.id == "DSA215")
    assert not any("DSA_DOCTOR_PLUGIN" in line for line in without.remedy)


def test_mended_kernels_pass():
    assert [status for status, _ in of(judge(NEW), "DSA215")] == ["pass"]
    hanging = judge(NEW.model_copy(update={"swap_ab": "hangs"}))
    assert [status for status, _ in of(hanging, "DSA215")] == ["warn"]
    unread = judge(NEW.model_copy(update={"barrier": "unrecognised"}))
    assert [status for status, _ in of(unread, "DSA215")] == ["warn"]


@pytest.mark.parametrize(
    ("kernels", "ranks", "state"),
    [(OLD, 8, "native"), (OLD, 1, "native"), (OLD, 16, "unresolved"), (NEW, 16, "native"), (NEW, 8, "native")],
)
def test_heads_per_rank_without_a_kernel(kernels, ranks, state):
    verdict = judge(kernels, tensor_parallel_size=ranks)
    assert verdict.layers[1].state == state
    assert verdict.exit_code == (8 if state == "unresolved" else 0)
    if state == "unresolved":
        ((status, summary),) = of(verdict, "DSA212")
        assert status == "fail"
        assert "4 heads per rank and top-k 2048" in summary
        assert "8, 16, 32, 64, 128" in summary


def test_rows_without_rope_need_a_kernel_of_their_own():
    assert judge(OLD, FLASH).layers[1].state == "unresolved"
    assert "without rope" in judge(OLD, FLASH).layers[1].reason
    assert judge(NEW, FLASH).layers[1].state == "native"


def test_what_is_not_known_is_said():
    assert [status for status, _ in of(judge(Observation[Sm120Kernels].unknown("unread")), "DSA215")] == ["skip"]
    old = Facts.model_validate_json(library.facts().model_dump_json(exclude={"flashinfer_sm120"}))
    assert old.flashinfer_sm120.status == "unknown"
    assert of(judge(Observation[Sm120Kernels].absent("no flashinfer")), "DSA215") == []


def test_kernels_built_elsewhere_of_another_version():
    packages = {"flashinfer-python": "0.7.2.post1", "flashinfer-jit-cache": "0.6.14+cu129"}
    statuses = of(judge(NEW, packages=packages), "DSA215")
    assert [status for status, _ in statuses] == ["warn"]
    assert "flashinfer-jit-cache 0.6.14+cu129" in statuses[0][1]
    same = {**packages, "flashinfer-jit-cache": "0.7.2.post1+cu129"}
    assert [status for status, _ in of(judge(NEW, packages=same), "DSA215")] == ["pass"]


def test_other_gpus_are_not_concerned():
    verdict = resolve(
        library.h100_facts(flashinfer_sm120=Observation[Sm120Kernels].ok(OLD)),
        model=GLM,
        target=Target(name="NVIDIA H100", capability="9.0", source="--target"),
        request=Request(),
    )
    assert of(verdict, "DSA215") == []


@pytest.mark.parametrize(
    ("capability", "sentence"),
    [
        ("9.0", "native paths win on compute capability 9.0"),
        ("10.0", "native paths win on compute capability 10.0"),
        ("11.0", "compile for compute capability 11.0, and none has run there"),
        ("12.1", "it acts only when asked"),
    ],
)
def test_why_the_plugin_does_not_act(capability, sentence):
    facts = library.facts(answers=(library.answer(capability, None),), plugin=True)
    target = Target(name="a GPU", capability=capability, source="--target", count=8)
    verdict = resolve(facts, model=GLM, target=target, request=Request())
    (plugin,) = [one for one in verdict.backends if one.name == "TRITON_MLA_SPARSE"]
    assert sentence in plugin.reasons[0]
    assert ("native paths" in plugin.reasons[0]) == (capability in ("9.0", "10.0"))


def states(verdict):
    return [layer.state for layer in verdict.layers]


def test_the_plugin_serves_who_names_it_whatever_vllm_has():
    verdict = judge(NEW, backend="TRITON_MLA_SPARSE")
    assert states(verdict)[1:] == ["plugin", "plugin"]
    assert verdict.configuration.attention_backend == "TRITON_MLA_SPARSE"
    assert "No GPU of compute capability 12.0 has run" in of(verdict, "DSA919")[0][1]
    assert states(judge(NEW, backend="TRITON_MLA_SPARSE", plugin_mode="off"))[1] == "unresolved"
    assert states(judge(NEW, backend="FLASHINFER_MLA_SPARSE_SM120"))[1] == "native"
    assert states(judge(NEW, plugin_mode="force"))[1:] == ["plugin", "plugin"]
    assert states(judge(NEW)) == ["native"] * 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_plugin_serves_a_cache_that_no_backend_of_vllms_takes(dtype):
    assert states(judge(NEW, kv_cache_dtype=dtype, chosen=None))[1:] == ["plugin", "plugin"]
    assert states(judge(NEW, kv_cache_dtype=dtype))[1] == "native", "vLLM has one"
    assert states(judge(NEW, kv_cache_dtype=dtype, chosen=None, plugin=False))[1] == "unresolved"


@pytest.mark.parametrize("dtype", ["auto", "fp8", "fp8_ds_mla"])
def test_another_cache_asks_for_nothing(dtype):
    verdict = judge(NEW, kv_cache_dtype=dtype, chosen=None)
    assert states(verdict)[1] == "unresolved"
    assert "acts only when asked" in of(verdict, "DSA914")[0][1]
