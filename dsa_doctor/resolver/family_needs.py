"""Which steps of a family's path a GPU cannot take, in the order in which a start meets them."""

from dsa_doctor.catalog.capability import deep_gemm_supports, triton_has_e4m3
from dsa_doctor.facts.schema import FamilyNeed
from dsa_doctor.resolver.judgement import Judgement
from dsa_doctor.resolver.picks import pick_of


def deep_gemm_supported(case: Judgement) -> bool:
    """Whether DeepGEMM has kernels for the GPU: vLLM's own word where it was asked, else DeepGEMM's documentation."""
    said = case.deep_gemm_said
    return deep_gemm_supports(case.capability) if said is None else said


def failing(case: Judgement, layer: str | None = None) -> list[str]:
    """Return the steps that fail on the GPU, in words: of one layer, or of both without."""
    return [_in_words(case, need) for need in _failing(case) if layer is None or need.layer == layer]


def steps(case: Judgement) -> tuple[str, ...]:
    """Return every step that fails, numbered, with its layer: evidence for what stands in the way in all."""
    return tuple(
        f"{number}. {need.layer}: {_in_words(case, need)}" for number, need in enumerate(_failing(case), start=1)
    )


def compiled_where_it_serves(case: Judgement) -> FamilyNeed | None:
    """Return the step of the model's path whose kernels nvcc compiles on the machine that serves; None without one."""
    if not case.model.hyper_connections:
        return None
    return next((one for one in _of_family(case) if one.needs == "cuda_compiler"), None)


def _failing(case: Judgement) -> list[FamilyNeed]:
    return [one for one in _of_family(case) if _lacks(case, one)]


def _of_family(case: Judgement) -> list[FamilyNeed]:
    fingerprint = case.facts.fingerprint.value
    every = fingerprint.family_needs or () if fingerprint is not None else ()
    return [one for one in every if case.family is not None and one.family == case.family.key]


def _lacks(case: Judgement, need: FamilyNeed) -> bool:
    if need.needs == "deep_gemm":
        return not deep_gemm_supported(case)
    if need.needs == "e4m3":
        return not triton_has_e4m3(case.capability)
    return need.needs == "backend" and _backend_refuses(case)


def _backend_refuses(case: Judgement) -> bool:
    """Whether every attention class that the family may pick says that it does not take the capability."""
    pick = pick_of(case)
    return pick is not None and bool(pick.candidates) and all(one.supported is False for one in pick.candidates)


def _in_words(case: Judgement, need: FamilyNeed) -> str:
    missing = {
        "deep_gemm": f"DeepGEMM has no kernels for {case.capability.sm}",
        "e4m3": f"{case.capability.sm} has no conversion to e4m3",
    }
    if need.needs in missing:
        return f"{need.place} {need.what}; {missing[need.needs]}"
    pick = pick_of(case)
    candidates = pick.candidates if pick is not None else ()
    names = " or ".join(one.attention_class.rpartition(".")[2] for one in candidates)
    return f"{need.place} picks {names}, which does not take compute capability {case.capability}"
