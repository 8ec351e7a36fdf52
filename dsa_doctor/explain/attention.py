"""Layer 2 in logs: the selector finds no backend, or a sparse-MLA kernel refuses the GPU or the shape."""

import re

from dsa_doctor.explain import selector
from dsa_doctor.explain.deep_gemm import INDEXER_CODE
from dsa_doctor.explain.reader import Passage
from dsa_doctor.explain.sighting import Sighting, mentions, traceback_of
from dsa_doctor.explain.text import joined

_SELECTED = re.compile(
    r"(?:backend|Backend)\s(?:AttentionBackendEnum\.)?(?P<name>[A-Z][A-Z0-9_]{2,63})\s(?:is )?not valid for this "
    r"configuration.{0,40}Reasons?:\s?\[(?P<reasons>[^\]]{0,1000})"
)
_REFUSED = re.compile(
    r"\b(?:is|are) (?:(?P<only>only supported)|not supported) on "
    r"(?P<where>SM[\w ,/&+]{1,60}|Hopper[\w ,/&+]{0,60})"
)
_SPARSE = re.compile(r"sparse", re.IGNORECASE)


def no_backend(passage: Passage) -> list[Sighting]:
    """The selector rejected every backend; without sparse attention it is not this project's subject."""
    line = passage.line
    if line.is_source or line.is_remark:
        return []
    error = selector.parse(joined(passage.after(60)))
    what = ", ".join(
        f"{name} {value}" for name, value in error.settings.items() if name.startswith(("head", "kv", "dt"))
    )
    details = {"what": what or "the configuration is not in the log"}
    if not error.use_sparse:
        return [Sighting("DSA928", [line], {"what": f"the selector found none for {details['what']}"})]
    found = [Sighting("DSA201", [line], details, backends=error.backends)]
    if (nearest := error.nearest) is not None:
        reasons = "; ".join(nearest.reasons)
        details["nearest"] = f" The nearest, {nearest.name}, was rejected because: {reasons}."
        if "flashinfer" in reasons.lower():
            found[0].remedy = ("pip install -U flashinfer-python   # or another release: the backend asks for its API",)
        elif "not available" in reasons or "not compiled" in reasons:
            found[0].remedy = (f"install what {nearest.name} lacks: a build of vLLM that has it",)
    cache_dtype = error.settings.get("kv_cache_dtype", "auto")
    if error.only_cache_dtype:
        names = ", ".join(error.only_cache_dtype)
        found.append(Sighting("DSA205", [line], {"dtype": cache_dtype, "names": names}))
    elif cache_dtype.startswith("fp8"):
        found[0].details["hint"] = (
            f" The KV cache was asked for as {cache_dtype}; if nobody did, the checkpoint's metadata forces it."
        )
        if not found[0].remedy:
            found[0].remedy = ("--kv-cache-dtype bfloat16   # if the checkpoint's metadata and not you asked for fp8",)
    return found


def backend_not_valid(passage: Passage) -> list[Sighting]:
    """A backend taken by name, by the user or by the platform's own preference, is rejected."""
    line = passage.line
    match = _SELECTED.search(joined(passage.after(3)))
    if match is None or line.is_source or line.is_remark:
        return []
    name, reasons = match.group("name"), selector.split_reasons(match.group("reasons"))
    details = {"name": name, "what": f"{name}: {'; '.join(reasons)}"}
    if "sparse not supported" in reasons or "SPARSE" in name:
        return [Sighting("DSA207", [line], details)]
    return [Sighting("DSA928", [line], details)]


def refused(passage: Passage) -> list[Sighting]:
    """A FlashMLA kernel raises because of the GPU; inside the selector's Reasons it is only one of the reasons."""
    line = passage.line
    match = _REFUSED.search(line.text)
    if match is None or line.is_source or line.is_remark or _within_reasons(passage):
        return []
    subject = re.split(r"[:`|]", line.text[max(0, match.start() - 120) : match.start()])[-1].strip()
    frames = traceback_of(passage)
    flash_mla = re.compile(r"flash_?mla", re.IGNORECASE)
    if not (
        _SPARSE.search(subject)
        or flash_mla.search(line.text)
        or mentions(frames, flash_mla)
        or re.search(r"\bMLA\b", subject)
    ):
        return []
    what = f"{subject} {match.group()}".strip()[:200]
    dense = not _SPARSE.search(subject) and not mentions(frames, _SPARSE)
    return [Sighting("DSA928" if dense else "DSA208", [line], {"what": what})]


def extension_missing(passage: Passage) -> list[Sighting]:
    """This vLLM was built without FlashMLA and a FlashMLA function was called."""
    line = passage.line
    unavailable = "is not available" in line.text or "likely was not compiled" in line.text
    if not unavailable or line.is_source or line.is_remark or _within_reasons(passage):
        return []
    module = "vllm._flashmla_extension_C" if "_extension_C" in line.text else "vllm._flashmla_C"
    return [
        Sighting("DSA209", [line], {"module": module, "what": "FlashMLA is not in this build"}, without_dsa="DSA928")
    ]


def trtllm_gen(passage: Passage) -> list[Sighting]:
    """FlashInfer's trtllm-gen runner refuses the architecture."""
    line = passage.line
    if line.is_source or not re.search(r"[Uu]nsupported arch|not support", joined(passage.after(1))):
        return []
    return [Sighting("DSA210", [line], without_dsa="DSA928", details={"what": "trtllm-gen refuses the GPU"})]


def forward_mha(passage: Passage) -> list[Sighting]:
    """The base class's forward_mha, which does nothing but raise, was reached."""
    raised = next((one for one in passage.after(5) if re.match(r"\s*(?:\w+: )?NotImplementedError\b", one.text)), None)
    if raised is None or (passage.line.is_source and raised.number == passage.line.number):
        return []
    return [Sighting("DSA211", [raised, passage.line] if raised.number != passage.line.number else [raised])]


def no_variant(passage: Passage) -> list[Sighting]:
    """FlashInfer's or sglang's sparse MLA has no kernel for the heads, the top-k or the model."""
    line = passage.line
    if line.is_source or line.is_remark:
        return []
    if mentions(traceback_of(passage)[-3:], INDEXER_CODE) and "mla" not in line.text.lower():
        return []
    return [Sighting("DSA212", [line], {"what": line.text.strip()[-200:]})]


def cpu(passage: Passage) -> list[Sighting]:
    """The CPU platform of vLLM says that it has no sparse attention."""
    line = passage.line
    if line.is_source or line.is_remark:
        return []
    return [Sighting("DSA201", [line], {"what": line.text.strip()[-120:]})]


def _within_reasons(passage: Passage) -> bool:
    """Whether the hit belongs to the selector's list of reasons rather than being an error of its own."""
    text = passage.line.text
    if "Reasons" in text or re.search(r"[A-Z0-9_]{4,}['\"]?:\s?\[", text):
        return True
    for position, earlier in enumerate(line.text for line in passage.backwards(14)):
        if re.match(r"\s*(?:Traceback|File )", earlier):
            return False
        if "Reasons" in earlier or ("AttentionSelectorConfig" in earlier and position < 12):
            return True
    return False
