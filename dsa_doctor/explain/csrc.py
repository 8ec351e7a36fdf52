"""Layer 1 in logs: extensions that do not load, ops that are not registered, code for other GPUs."""

import re

from dsa_doctor.explain.deep_gemm import import_failure
from dsa_doctor.explain.reader import Passage
from dsa_doctor.explain.sighting import Sighting, mentions, traceback_of

_SYMBOL = re.compile(
    r"(?:undefined symbol:?|[Ss]ymbol not found(?: in flat namespace)?:?)\s{1,3}['\"`(]?(?P<symbol>[\w@.$]{1,600})"
)
_TORCH_NAMESPACE = re.compile(
    r"_{1,2}ZN?K?(?:T[VISh])?N?K?(?:3c10|5torch|2at|6caffe2)|^_?(?:aoti_torch|torch_(?:call|dispatch|library))"
)
_CUDA_LIBRARY = re.compile(r"^_?(?:cuda[A-Z_]|cu[A-Z]\w+|cublas|cudnn|cusparse|cufft|nvrtc|nvJitLink|__nv|nccl)")
_ENGINE_FILE = re.compile(
    r"(?:^|[/\\])(?:v?llm|sgl_kernel|sglang|lvllm)[/\\]|(?:^|[/\\._])_(?:moe_|flashmla_|qutlass_|vllm_fa\d_)?(?:extension_)?"
    r"C(?:_stable_libtorch)?\.|_C_stable_libtorch|sgl_kernel|cumem_allocator",
    re.IGNORECASE,
)
_OTHER_FILE = re.compile(
    r"(?:^|[/\\])(?P<package>torch\w*|flash_attn\w*|flashinfer|xformers|apex|transformer_engine\w*"
    r"|bitsandbytes|triton|mamba_ssm|causal_conv1d|deepspeed|onnxruntime|nvidia|numpy|PIL)[/\\_.\-]"
)
_SHARED_OBJECT = re.compile(r"(?P<library>lib[\w\-+]{1,80}\.so[\w.]{0,24}): cannot open shared object")
_MODULE = re.compile(r"No module named ['\"]?(?P<module>[\w.]{1,120})")
_OP = re.compile(
    r"['\"]?_OpNamespace['\"]? ['\"]?(?P<space>_\w{0,40}C\w{0,40})['\"]? object has no attribute "
    r"['\"]?(?P<op>\w{1,120})"
)
_OP_WITHOUT_KERNEL = re.compile(
    r"Could not run ['\"](?P<op>_\w{0,40}C\w{0,40}::\w{1,120})['\"] with arguments from the "
    r"['\"]CUDA['\"]"
)
_DEEP_GEMM = re.compile(r"deep_?gemm", re.IGNORECASE)
_PACKAGE = re.compile(r"/(?:site|dist)-packages/(?P<package>\w{1,60})/")
_ENGINE_FRAME = re.compile(r"/vllm/|/sglang/|/sgl_kernel/")


def undefined_symbol(passage: Passage) -> list[Sighting]:
    """Tell an op that was never built from an extension that does not match torch or CUDA."""
    line = passage.line
    if line.is_source:
        return []
    match = _SYMBOL.search(line.text)
    if match is None:
        return []
    before = re.split(r"[\s'\"(`]", line.text[max(0, match.start() - 400) : match.start()].rstrip(" :'\""))[-1]
    file, symbol = before if re.search(r"\.(?:so|pyd|dylib)\b", before) else "", match.group("symbol").rstrip(".,'\"`)")
    if not re.match(r"_|[A-Za-z]\w*_\w|c[uU]|nv|nccl", symbol):
        return []
    if _DEEP_GEMM.search(file):
        return import_failure(passage)
    details = {"extension": _shown(file), "symbol": symbol}
    if file and not _ENGINE_FILE.search(file) and (other := _OTHER_FILE.search(file)):
        details["extension"] = f"{other.group('package')} ({_shown(file)})"
        return [Sighting("DSA929", [line], details)]
    if _TORCH_NAMESPACE.match(symbol):
        return [Sighting("DSA107", [line], details)]
    if _CUDA_LIBRARY.match(symbol):
        return [Sighting("DSA108", [line], details)]
    return [Sighting("DSA103", [line], details)]


def no_kernel_image(passage: Passage) -> list[Sighting]:
    """Code for other GPUs; torch's own warning that it has none for this GPU says the same."""
    line = passage.line
    if line.is_source or (line.level in {"INFO", "DEBUG"} and not line.is_exception):
        return []
    frames = traceback_of(passage)
    if _DEEP_GEMM.search(line.text) or "jit/handle.hpp" in line.text:
        return [Sighting("DSA927", [line], {"api": "its just-in-time compiled kernel cannot be loaded"})]
    where = frames[-1] if frames else None
    details = {"where": f" (raised in {where.function})" if where and where.function else ""}
    lines = [line, where.line] if where else [line]
    return [Sighting("DSA101", lines, details, weak="not compatible with" in line.text)]


def missing_library(passage: Passage) -> list[Sighting]:
    """A CUDA library that the extension was linked against, or the driver itself."""
    line = passage.line
    match = _SHARED_OBJECT.search(line.text)
    if match is None or line.is_source:
        return []
    library = match.group("library")
    if library.startswith(("libcuda.so", "libnvidia-ml")):
        return [Sighting("DSA930", [line], {"what": f"{library}, the driver's library, is not found"}, weak=True)]
    if not library.startswith(("libcud", "libcu", "libnv", "libnccl", "libtorch", "libc10", "libcusparse")):
        return []
    frames = traceback_of(passage)
    if mentions(frames, _DEEP_GEMM):
        return import_failure(passage)
    other = _PACKAGE.search(frames[-1].path) if frames and not mentions(frames, _ENGINE_FRAME) else None
    if other is not None:
        return [Sighting("DSA929", [line], {"extension": other.group("package"), "symbol": library})]
    torch_own = library.startswith(("libtorch", "libc10"))
    return [Sighting("DSA107" if torch_own else "DSA108", [line], {"extension": "", "symbol": library})]


def missing_module(passage: Passage) -> list[Sighting]:
    """A compiled extension, vLLM itself or DeepGEMM that is not there."""
    line = passage.line
    match = _MODULE.search(line.text)
    if match is None or line.is_source:
        return []
    module = match.group("module").rstrip(".")
    if re.fullmatch(r"vllm\.(?:_\w*C\w*|vllm_flash_attn\._vllm_fa\d_C)", module):
        if "flashmla" in module:
            return [Sighting("DSA209", [line], {"module": module}, weak=True)]
        return [Sighting("DSA105", [line], {"module": module}, weak=line.level in {"INFO", "DEBUG", "WARNING", "WARN"})]
    if module == "vllm":
        return [Sighting("DSA908", [line])]
    if module.split(".")[0] in {"deep_gemm", "deep_gemm_cpp"} and not line.is_remark:
        return [Sighting("DSA302", [line], without_dsa="DSA927", details={"api": "it is not installed"})]
    return []


def missing_op(passage: Passage) -> list[Sighting]:
    """An op of the compiled extension that torch does not know, or has no CUDA code for."""
    line = passage.line
    match = _OP.search(line.text) or _OP_WITHOUT_KERNEL.search(line.text)
    if match is None or line.is_source or line.is_remark:
        return []
    op = match.group("op")
    name = op if "::" in op else f"{match.group('space')}::{op}"
    return [Sighting("DSA106", [line], {"op": name})]


def _shown(file: str) -> str:
    """Return the last two parts of a path."""
    return "/".join(re.split(r"[/\\]", file)[-2:])
