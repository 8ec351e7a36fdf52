"""Compute capability 12.x: when FlashInfer's sparse-MLA kernels lack a shape, or are known to hang."""

from dsa_doctor.catalog.capability import is_consumer_blackwell
from dsa_doctor.facts.schema import Sm120Kernels
from dsa_doctor.resolver.judgement import Judged, Judgement, finding, judged
from dsa_doctor.verdict.schema import Finding

_FORCE = "export DSA_DOCTOR_PLUGIN=force   # dsa-doctor's own kernels in their place"
_UPGRADE = "a vLLM that pins a newer FlashInfer, or a newer flashinfer-python where vLLM accepts it"
_PREBUILT = "flashinfer-jit-cache"


def with_flashinfer(case: Judgement, backend: str | None, native: Judged) -> Judged:
    """Return layer 2 with what FlashInfer's sources say: unresolved without a kernel, warned of hangs.

    Only a backend that runs on FlashInfer's kernels for 12.x is concerned.
    """
    if not is_consumer_blackwell(case.capability) or backend is None or not backend.startswith("FLASHINFER"):
        return native
    kernels = case.facts.flashinfer_sm120.value
    if kernels is None:
        if case.facts.flashinfer_sm120.status == "absent":
            return native  # vLLM's selector has looked for the package itself
        summary = f"Whether FlashInfer's kernels for this GPU hang is unknown: {case.facts.flashinfer_sm120.cause}."
        return _with(native, (finding("DSA215", "skip", summary),))
    lacking = _lacking(case, kernels)
    if lacking is not None:
        remedy = _remedy(case)
        found = finding("DSA212", "fail", lacking, evidence=(_version(case),), remedy=remedy)
        return judged("attention", "unresolved", lacking, (found,))
    return _with(native, _hangs(case, kernels))


def _with(native: Judged, more: tuple[Finding, ...]) -> Judged:
    layer = native.layer
    ids = tuple(dict.fromkeys((*layer.finding_ids, *(one.id for one in more))))
    return Judged(layer.model_copy(update={"finding_ids": ids}), (*native.findings, *more))


def _lacking(case: Judgement, kernels: Sm120Kernels) -> str | None:
    heads, topk = case.query.num_heads, case.model.index_topk
    if case.family is None or case.family.sm120_kernels is None:
        return None
    if case.model.kv_lora_rank and case.model.qk_rope_head_dim == 0 and not kernels.rope_free:
        return "This FlashInfer has no sparse-MLA kernel for rows without rope on compute capability 12.x."
    shapes = kernels.shapes.get(case.family.sm120_kernels)
    if shapes is None:
        return None
    what = f"FlashInfer has no sparse-MLA kernel for {heads} heads per rank and top-k {topk} on 12.x"
    if shapes.pairs:
        if (heads, topk) in shapes.pairs:
            return None
        served = sorted({pair[0] for pair in shapes.pairs if pair[1] == topk})
        return f"{what}; heads per rank that it has: {', '.join(map(str, served)) or 'none'}."
    if shapes.most_heads is None or shapes.least_topk is None:
        return None
    if heads <= shapes.most_heads and topk >= shapes.least_topk:
        return None
    return f"{what}; it has up to {shapes.most_heads} heads, and top-k from {shapes.least_topk} on."


def _hangs(case: Judgement, kernels: Sm120Kernels) -> tuple[Finding, ...]:
    found = []
    if kernels.barrier == "livelocks":
        summary = "The sparse-MLA kernels of this FlashInfer can livelock on 12.x: the server stands still under load."
        evidence = (
            "its headers lack bar_arrive_alt: a thread may arrive twice in one phase of a barrier (FlashInfer #3700)",
            _version(case),
        )
        found.append(finding("DSA215", "warn", summary, evidence=evidence, remedy=_remedy(case)))
    if kernels.swap_ab == "hangs":
        summary = "The prefill with swapped operands of this FlashInfer can hang on 12.x near the end of a kernel."
        evidence = ("its header does not retire threads that no barrier counts (FlashInfer #5048)", _version(case))
        found.append(finding("DSA215", "warn", summary, evidence=evidence, remedy=_remedy(case)))
    if kernels.barrier == "unrecognised":
        summary = (
            "Whether FlashInfer's barriers on 12.x are mended (FlashInfer #3700) was not recognised in its headers."
        )
        found.append(finding("DSA215", "warn", summary, evidence=(_version(case),)))
    prebuilt = _prebuilt(case)
    if prebuilt is not None:
        found.append(prebuilt)
    if not found:
        summary = "FlashInfer's sparse-MLA kernels for 12.x have the shape, and the mends of the hangs that are known."
        evidence = (f"barriers: {kernels.barrier}; swapped prefill: {kernels.swap_ab}", _version(case))
        return (finding("DSA215", "pass", summary, evidence=evidence),)
    return tuple(found)


def _prebuilt(case: Judgement) -> Finding | None:
    """Kernels built elsewhere stand for the headers: those of another version may lack what the headers have."""
    packages = case.facts.software.value.packages if case.facts.software.value is not None else {}
    built, own = packages.get(_PREBUILT), packages.get("flashinfer-python")
    if built is None or own is None or built.partition("+")[0] == own:
        return None
    summary = (
        f"{_PREBUILT} {built} holds kernels of another version than flashinfer-python {own}, whose headers were read."
    )
    return finding("DSA215", "warn", summary, remedy=(f"pip uninstall {_PREBUILT}   # or install it for {own}",))


def _version(case: Judgement) -> str:
    packages = case.facts.software.value.packages if case.facts.software.value is not None else {}
    return f"flashinfer-python {packages.get('flashinfer-python', 'of unknown version')}"


def _remedy(case: Judgement) -> tuple[str, ...]:
    by_plugin = case.family is not None and case.family.key == "mla" and case.settings.registered
    return (_UPGRADE, _FORCE) if by_plugin else (_UPGRADE,)
