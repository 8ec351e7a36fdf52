"""Layer 3 in logs: DeepGEMM missing, not importable, or refusing the GPU; its use in matrix products is told apart."""

import re
from pathlib import PurePosixPath

from dsa_doctor.explain.kind_remedies import HELP
from dsa_doctor.explain.reader import Passage
from dsa_doctor.explain.remedies import Remedy
from dsa_doctor.explain.sighting import Frame, Sighting, mentions, traceback_of
from dsa_doctor.explain.text import Line, joined

_ASSERTION = re.compile(
    r"ssertion error:?\s{0,2}\(?(?P<file>[^\s():']{1,380}\.(?:hpp|cuh|cu|cpp|h)):(?P<line>\d{1,6})\)?"
    r"[:\s]{0,3}(?P<what>.{0,300})"
)
_COMPILER_FILE = re.compile(r"jit/(?:compiler|cache)\.(?:hpp|cuh)")
_INDEXER_FILE = re.compile(r"^attention$|mqa_logits|indexer")
_PRODUCT_FILE = re.compile(r"gemm|layout|einsum|hyperconnection|hc_|bmm|transform|moe|mega")
INDEXER_CODE = re.compile(
    r"mqa_logits|sparse_attn_indexer|sparse_mqa_indexer|attn_indexer|(?:nsa|dsa)_(?:indexer|backend)|/nsa/|/dsa/"
    r"|mla/(?:sparse_)?indexer\.py|\bindexer\b|[Ii]ndexer"
)
_PRODUCT_CODE = re.compile(
    r"gemm_nt|gemm_nn|grouped_gemm|einsum|deep_gemm_warmup|deep_gemm_moe|fp8_linear|w8a8|fused_moe|hc_prenorm|transform_sf"
)
_MIXING_CODE = re.compile(r"hc_prenorm|hyperconnection|kernels/mhc/")
_MIXING = Remedy("{install}; its plugin serves mHC's product on compute capability 8.x", engine="vllm", need="plugin")
MIXING = "mHC"
"""What `part` of the details says where the product is that before the mix of the residual streams (mHC)."""
_GUARD = re.compile(
    r"\bindexer\b[^.]{0,80}\b(?:requires?|needs?)\b[^.]{0,60}\bdeep_?gemm"
    r"|\bdeep_?gemm\b[^.]{0,60}\b(?:is|are) (?:required|needed)\b[^.]{0,60}\bindexer\b",
    re.IGNORECASE,
)
_UNAVAILABLE = re.compile(
    r"DeepGEMM (?:backend |package )?(?:is )?(?:not available|unavailable|not installed|outdated)"
)
_DEEP_GEMM_PATH = re.compile(r"deep_?gemm(?:_cpp)?[/\\.\-]|deep_gemm", re.IGNORECASE)


def guard(passage: Passage) -> list[Sighting]:
    """The indexer's constructor, or sglang's, says that it needs DeepGEMM."""
    line = passage.line
    text = " ".join(one.text.strip() for one in passage.after(2))
    if line.is_remark or not _GUARD.search(text):
        return []
    if line.is_source:
        return [Sighting("DSA302", [line], weak=True)]
    return [Sighting("DSA302", [line])]


def unavailable(passage: Passage) -> list[Sighting]:
    """DeepGEMM's placeholder was called: by the indexer, or by an FP8 product."""
    line = passage.line
    if line.is_remark or line.is_source or not _UNAVAILABLE.search(line.text):
        return []
    frames = traceback_of(passage)
    api, indexer = _api(frames)
    if indexer:
        return [Sighting("DSA302", [line, *_lines(frames, INDEXER_CODE)], {"api": api})]
    if indexer is None:  # the trace does not tell who called it: the model decides
        return [Sighting("DSA302", [line], without_dsa="DSA927", details={"api": "it is not available"})]
    return [_product([line], f"it is not available to {api}", mixing=bool(mentions(frames, _MIXING_CODE)))]


def import_warning(passage: Passage) -> list[Sighting]:
    """A remark of vLLM that the package is there and cannot be imported: the reason, should the guard raise later."""
    if "deep_gemm" not in passage.line.text.lower():
        return []
    cause = next((line for line in reversed(passage.after(60)) if line.is_exception_line or _bare(line.text)), None)
    return [Sighting("DSA303", [passage.line, *([cause] if cause else [])], weak=True, without_dsa="")]


def import_failure(passage: Passage) -> list[Sighting]:
    """An exception while DeepGEMM itself was being imported: no CUDA toolkit, another torch, another CUDA."""
    line = passage.line
    if line.is_remark:
        return []
    failed = [one for one in passage.after(30) if one.is_exception_line or _bare(one.text)]
    if not failed:
        return []
    if not (_DEEP_GEMM_PATH.search(line.text) or mentions(traceback_of(passage), _DEEP_GEMM_PATH)):
        return []
    details = {"api": f"its import fails: {failed[0].text.strip()[:160]}"}
    lines = [failed[0], line] if failed[0].number != line.number else [line]
    return [Sighting("DSA303", lines, details, weak=line.level in {"WARNING", "INFO"}, without_dsa="DSA927")]


def assertion(passage: Passage) -> list[Sighting]:
    """A DeepGEMM assertion: in the logits API it is the indexer, in products it is not; otherwise the trace decides."""
    line = passage.line
    match = _ASSERTION.search(line.text) or _ASSERTION.search(joined(passage.after(2)))
    if match is None or line.is_source:
        return []
    frames = traceback_of(passage)
    file = match.group("file")
    name, what = PurePosixPath(file).stem.lower(), match.group("what").strip().strip("'\"")
    if _COMPILER_FILE.search(file):
        text = joined(passage.after(2))
        old = "the CUDA toolkit's nvcc is older than the kernel needs"
        kind = old if "NVCC" in text else "the build of a kernel at run time failed"
        found = Sighting("DSA939", [line], {"what": f"{kind} ({text[-200:].strip()})"})
        found.remedy = HELP[kind]
        return [found]
    api, called_by_indexer = _api(frames)
    known = "gemm" in file.lower() or bool(mentions(frames, _DEEP_GEMM_PATH)) or name.startswith(("sm", "runtime"))
    if not known and not _INDEXER_FILE.search(name) and not _PRODUCT_FILE.search(name):
        return []
    if _INDEXER_FILE.search(name) or (mentions(frames, re.compile("mqa_logits")) is not None):
        indexer: bool | None = True
    elif _PRODUCT_FILE.search(name):
        indexer = False
    else:
        indexer = called_by_indexer
    unsupported = re.search(r"[Uu]nsupported arch|arch_major|Unknown arch|arch\b.{0,40}==", what) is not None
    details = {"api": api or f"{name}.hpp", "what": what or "no text"}
    if not indexer:
        mixing = bool(_MIXING_CODE.search(name) or mentions(frames, _MIXING_CODE))
        said = f"{details['api']}: {details['what']}"
        return [_product([line, *_lines(frames, _PRODUCT_CODE)], said, mixing=mixing, what=details["what"])]
    return [Sighting("DSA301" if unsupported else "DSA307", [line, *_lines(frames, INDEXER_CODE)], details)]


def bare_architecture(passage: Passage) -> list[Sighting]:
    """`Unsupported architecture` without a DeepGEMM file name: only the traceback can tell whose it is."""
    line = passage.line
    if line.is_source or _ASSERTION.search(line.text) or "TllmGen" in line.text:
        return []
    frames = traceback_of(passage)
    if mentions(frames[-6:], re.compile(r"trtllm|flashinfer")) and not mentions(frames[-6:], re.compile("mqa_logits")):
        lines = [line, *_lines(frames, re.compile("trtllm|mla"))]
        return [Sighting("DSA210", lines, without_dsa="DSA928", details={"what": "trtllm-gen refuses the GPU"})]
    if mentions(frames, re.compile("mqa_logits")):
        return [Sighting("DSA301", [line, *_lines(frames, INDEXER_CODE)], {"api": _api(frames)[0], "what": ""})]
    return []


def _product(lines: list[Line], api: str, *, mixing: bool, **more: str) -> Sighting:
    """A product that DeepGEMM does not do. mHC's has no other kernel in the model's first layer: no setting helps."""
    if not mixing:
        return Sighting("DSA927", lines, {"api": api, **more})
    return Sighting("DSA927", lines, {"api": api, "part": MIXING, **more}, remedy=(_MIXING,), decided=True)


def _api(frames: list[Frame]) -> tuple[str, bool | None]:
    """Return the innermost telling function, and whether the indexer called it; None where the trace is silent."""
    if frame := mentions(frames, re.compile("mqa_logits")):
        return frame.function.lstrip("_").removesuffix("_impl"), True
    if frame := mentions(frames[-10:], _PRODUCT_CODE):
        return frame.function, False
    if frame := mentions(frames, INDEXER_CODE):
        return frame.function, True
    return (frames[-1].function if frames else ""), None


def _lines(frames: list[Frame], pattern: re.Pattern[str]) -> list[Line]:
    frame = mentions(frames, pattern)
    return [frame.line] if frame else []


def _bare(text: str) -> bool:
    return re.fullmatch(r"\s*[A-Z]\w{0,60}(?:Error|Exception)\s*", text) is not None
