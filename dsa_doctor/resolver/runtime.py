"""Layer `runtime`: what else is known to bite on the path, once the three layers are judged."""

from dsa_doctor.catalog.capability import (
    deep_gemm_supports,
    has_native_path,
    has_wide_shared_memory,
    plugin_serves,
    triton_has_e4m3,
)
from dsa_doctor.compat.families import FAMILIES
from dsa_doctor.resolver.family_needs import compiled_where_it_serves
from dsa_doctor.resolver.judgement import Judgement, finding
from dsa_doctor.resolver.loading import judge_loading
from dsa_doctor.resolver.request import stock_kv_cache_dtype
from dsa_doctor.resolver.surroundings import mixed_gpus, settings_findings
from dsa_doctor.verdict.schema import Finding, Layer, State

_ALWAYS_LOOKED_FOR = frozenset(
    one for family in FAMILIES if family.picker is None for one in (*family.architectures, *family.drafts)
)
"""Architectures whose class was a fact before the whole registry was one."""


_NEVER_ON_A_GPU = frozenset({"deepseek_v41"})
"""Families that the plugin serves and that no GPU has run under it; docs/verified.md says what was done instead."""


_POOL_FAULTS = {
    "chunks": "a pool that two chunks of a prompt share gets the key of other tokens",
    "distance": "the open pool at a prompt's end is written over other requests' index keys",
}


def judge_runtime(case: Judgement, layers: tuple[Layer, ...]) -> tuple[Finding, ...]:
    """Return the findings of layer `runtime`; they carry no exit bit of their own."""
    states = {layer.layer: layer.state for layer in layers}
    found = [
        *_triton_e4m3(case, by_plugin=states["indexer"] == "plugin"),
        *_top_k(case, by_plugin=states["indexer"] == "plugin", unserved=states["indexer"] == "unresolved"),
        *_pooled_keys(case, states["indexer"]),
        *_window_rope(case, states["attention"]),
        *_forced_kv_cache(case, by_plugin=states["attention"] == "plugin"),
        *_proof(case, by_plugin=states["attention"] == "plugin"),
        *_model_class(case),
        *judge_loading(case),
        *_cuda_toolkit(case, native=states["indexer"] == "native"),
        *_tilelang(case, served=states["attention"] in {"native", "plugin"}),
        *_int32_projection(case, by_plugin=states["attention"] == "plugin"),
        *_torch_without_cuda(case),
        *mixed_gpus(case),
        *settings_findings(case, layers),
    ]
    return tuple(found)


def _triton_e4m3(case: Judgement, *, by_plugin: bool) -> list[Finding]:
    fingerprint = case.facts.fingerprint.value
    if fingerprint is None or triton_has_e4m3(case.capability):
        return []
    found = []
    unguarded = tuple(
        f"{one.kernel} in {one.file}"
        for one in fingerprint.triton_fp8_kernels
        if not one.guarded and (not one.architectures or case.model.architecture in one.architectures)
    )
    if unguarded:
        subject = "One Triton kernel" if len(unguarded) == 1 else f"{len(unguarded)} Triton kernels"
        verb = "uses" if len(unguarded) == 1 else "use"
        summary = f"{subject} of this vLLM on the DSA path {verb} fp8e4nv, which Triton refuses here"
        if by_plugin:
            found.append(finding("DSA901", "pass", f"{summary}; the plugin avoids that.", evidence=unguarded))
        else:
            found.append(finding("DSA901", "fail", f"{summary}: the first forward pass fails.", evidence=unguarded))
    if fingerprint.fp8_jit_warmup:
        evidence = ("the warm-up of pack_seq_triton with an fp8 argument re-raises its failure",)
        if by_plugin:
            summary = "Start-up compiles a Triton kernel for an fp8 argument; the plugin registers it for bytes."
            found.append(finding("DSA913", "pass", summary, evidence=evidence))
        else:
            summary = "Start-up compiles a Triton kernel for an fp8 argument, which fails on this GPU and stops it."
            found.append(finding("DSA913", "fail", summary, evidence=evidence))
    return found


def _top_k(case: Judgement, *, by_plugin: bool, unserved: bool) -> list[Finding]:
    fingerprint = case.facts.fingerprint.value
    if fingerprint is None or fingerprint.topk_persistent_gate in {"absent", "capability"}:
        return []
    below_native = not deep_gemm_supports(case.capability)
    risks = []
    if below_native and fingerprint.topk_persistent_gate == "none":
        risks.append("persistent_topk has no capability gate; wrong indices on 8.x were reported (vLLM #50576)")
    if below_native and not has_wide_shared_memory(case.capability):
        risks.append("its filtered path wants 128 KiB of shared memory per block, more than this GPU has")
    if fingerprint.topk_overflow_fix is False:
        risks.append("candidates beyond a fixed buffer are dropped (vLLM #51782); the fix is not in this wheel")
    if not risks:
        return []
    if by_plugin:
        summary = "The wheel's top-k op can select wrong tokens here; the plugin selects with an exact one."
        return [finding("DSA902", "pass", summary, evidence=tuple(risks))]
    # Where nothing serves the indexer, a flag that chooses its top-k op changes nothing.
    settable = fingerprint.topk_backend_setting and not unserved
    remedy = ("--sparse-indexer-topk-backend per_row",) if settable else ()
    summary = "The top-k op that this vLLM uses can select wrong tokens without an error."
    return [finding("DSA902", "warn", summary, evidence=tuple(risks), remedy=remedy)]


def _pooled_keys(case: Judgement, indexer: State) -> list[Finding]:
    fingerprint = case.facts.fingerprint.value
    faults = fingerprint.pool_faults if fingerprint is not None else None
    if not faults or case.model.index_kpool < 2 or indexer not in ("native", "plugin"):
        return []
    evidence = tuple(_POOL_FAULTS[fault] for fault in faults)
    if indexer == "plugin":
        summary = "Index keys of this vLLM can be pooled from the wrong tokens; the plugin pools those of the request."
        return [finding("DSA946", "pass", summary, evidence=evidence)]
    summary = "Index keys of this vLLM can be pooled from the wrong tokens, without an error."
    remedy: tuple[str, ...] = (
        "keep prefix caching on and steps of several blocks: chunks of a prompt then end where blocks do",
    )
    if "distance" in faults:
        remedy = ("pip install -U vllm   # 0.31.0 and newer keep a prompt's last pool", *remedy)
    return [finding("DSA946", "warn", summary, evidence=evidence, remedy=remedy)]


def _window_rope(case: Judgement, attention: State) -> list[Finding]:
    fingerprint, compression = case.facts.fingerprint.value, case.model.compression
    if fingerprint is None or not fingerprint.windows_by_yarn or compression is None:
        return []
    if case.family is None or case.family.key != "deepseek_v4" or attention not in ("native", "plugin"):
        return []
    layers = [str(layer) for layer, ratio in enumerate(compression.ratios) if ratio < 2]
    if not layers:
        return []
    evidence = (f"layers with the window alone: {', '.join(layers)}, and the drafts",)
    if attention == "plugin":
        summary = "This vLLM rotates layers of a sliding window by YaRN; the plugin rotates them plainly, as trained."
        return [finding("DSA947", "pass", summary, evidence=evidence)]
    summary = "This vLLM rotates layers of a sliding window by YaRN, which they are not trained with, without an error."
    remedy = ("pip install -U vllm   # 0.30.0 and newer rotate them plainly",)
    return [finding("DSA947", "warn", summary, evidence=evidence, remedy=remedy)]


def _forced_kv_cache(case: Judgement, *, by_plugin: bool) -> list[Finding]:
    forced = case.model.kv_cache_quantization
    if forced is None or case.request.kv_cache_dtype != "auto":
        return []
    summary = f"The checkpoint's metadata asks for a KV cache of dtype {stock_kv_cache_dtype(case.model, case.request)}"
    evidence = (f"quantisation metadata: {forced}", "nothing was given to --kv-cache-dtype")
    if by_plugin:
        summary += "; the plugin serves it as bfloat16."
        return [finding("DSA903", "warn", summary, evidence=evidence, remedy=("--kv-cache-dtype bfloat16",))]
    if triton_has_e4m3(case.capability):
        return [finding("DSA903", "pass", f"{summary}.", evidence=evidence)]
    summary += ", which this GPU has no arithmetic for."
    return [finding("DSA903", "warn", summary, evidence=evidence, remedy=("--kv-cache-dtype bfloat16",))]


def _proof(case: Judgement, *, by_plugin: bool) -> list[Finding]:
    untried = plugin_serves(case.capability) != "default" and not has_native_path(case.capability)
    if not by_plugin or not (untried or case.model.family in _NEVER_ON_A_GPU):
        return []
    where = f" of compute capability {case.capability}" if untried else ""
    summary = f"No GPU{where} has run {case.model.name} under the plugin yet"
    evidence = (
        "done instead: whole models constructed as this GPU would have them, their layers computed on CPUs beside "
        "transformers, and every op on a Hopper GPU (docs/verified.md)",
    )
    remedy = ("dsa-doctor verify   # every op against its reference, on the GPU itself",)
    summary += ": hold its first answers against another server's."
    return [finding("DSA919", "warn", summary, evidence=evidence, remedy=remedy)]


def _model_class(case: Judgement) -> list[Finding]:
    fingerprint, architecture = case.facts.fingerprint.value, case.model.architecture
    if fingerprint is None:
        return []
    chosen = fingerprint.model_classes.get(architecture) or (fingerprint.registered or {}).get(architecture)
    if chosen is not None:
        drafts = case.family.drafts if case.family is not None else ()
        evidence = tuple(f"{one}, which drafts: {at}" for one in drafts if (at := fingerprint.model_classes.get(one)))
        return [finding("DSA904", "pass", f"This vLLM serves {architecture} with {chosen}.", evidence=evidence)]
    known = ", ".join(sorted(fingerprint.model_classes)) or "none"
    evidence = (f"DSA architectures it registers: {known}",)
    if fingerprint.registered is None and architecture not in _ALWAYS_LOOKED_FOR:
        summary = f"Whether this vLLM has a model class for {architecture} is unknown: these facts hold no registry."
        remedy = ("dsa-doctor facts > facts.json   # gathers it",)
        return [finding("DSA904", "unknown", summary, evidence=evidence, remedy=remedy)]
    summary = f"This vLLM registers no model class for {architecture}."
    return [finding("DSA904", "fail", summary, evidence=evidence, remedy=("pip install -U vllm",))]


def _cuda_toolkit(case: Judgement, *, native: bool) -> list[Finding]:
    toolkit = case.facts.cuda_toolkit
    if not native or toolkit.status != "absent":
        return []
    summary = "DeepGEMM compiles its kernels at run time, and no CUDA toolkit was found on this machine."
    remedy = ("install a CUDA toolkit, or set CUDA_HOME to one",)
    local = case.target.is_elsewhere
    return [finding("DSA905", "warn", summary, evidence=toolkit.evidence, remedy=remedy, judge_only=local)]


def _tilelang(case: Judgement, *, served: bool) -> list[Finding]:
    need, toolkit = compiled_where_it_serves(case), case.facts.cuda_toolkit
    if need is None or not served:
        return []
    step = f"{need.place} {need.what}"
    if toolkit.value is None and toolkit.status != "absent":
        summary = f"Whether there is a CUDA compiler for the kernels of mHC is unknown: {toolkit.cause}."
        return [finding("DSA945", "unknown", summary, evidence=(step,), judge_only=case.target.is_elsewhere)]
    if toolkit.value is None:
        lacks, remedy = "no nvcc was found on this machine", ("pip install 'tilelang[nvcc]'   # or a CUDA toolkit",)
        cause = (toolkit.cause,) if toolkit.cause else ()
    elif toolkit.value.host_compiler is False:
        lacks, remedy = "nvcc finds no C++ compiler on this machine", ("apt-get install g++   # or set CXX to one",)
        cause = ("looked for: what CXX or CC names, g++, clang++, c++ in PATH",)
    else:
        return []
    if case.target.is_elsewhere:
        summary = f"TileLang compiles the kernels of mHC where {case.gpu} serves; {lacks}."
        return [finding("DSA945", "warn", summary, evidence=(step, *cause), remedy=remedy, judge_only=True)]
    summary = f"TileLang cannot compile the kernels of mHC: {lacks}. The start fails, or the first forward pass."
    return [finding("DSA945", "fail", summary, evidence=(step, *cause), remedy=remedy)]


def _int32_projection(case: Judgement, *, by_plugin: bool) -> list[Finding]:
    fingerprint = case.facts.fingerprint.value
    if fingerprint is None or not fingerprint.kv_b_proj_int32_bug or case.model.quantization is None:
        return []
    if triton_has_e4m3(case.capability):
        return []
    evidence = ("Marlin stores quantised weights as int32; chunked or prefix-cached dense prefill casts to that dtype",)
    if by_plugin:
        summary = "This vLLM's dense prefill would cast to the int32 of Marlin weights; the plugin keeps off that path."
        return [finding("DSA906", "pass", summary, evidence=evidence)]
    summary = "This vLLM's dense prefill casts to the int32 of Marlin weights: garbage with quantised checkpoints."
    return [finding("DSA906", "warn", summary, evidence=evidence, remedy=("pip install -U vllm",))]


def _torch_without_cuda(case: Judgement) -> list[Finding]:
    software = case.facts.software.value
    if software is None or software.torch_cuda.status == "ok":
        return []
    installed = software.packages.get("torch")
    what = f"torch {installed} is not a CUDA build" if installed else "torch is not installed"
    remedy = ("pip install torch   # the CUDA build that this vLLM pins",)
    if case.target.is_elsewhere:
        summary = f"On this machine {what}; the verdict is for {case.gpu}, where vLLM needs a CUDA build."
        return [finding("DSA909", "warn", summary, remedy=remedy, judge_only=True)]
    return [finding("DSA909", "fail", f"vLLM cannot use a GPU: {what}.", remedy=remedy)]
