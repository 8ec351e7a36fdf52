"""What fails beside the three layers: Triton types, graph capture, memory, hangs, weights, other packages."""

import re

from dsa_doctor.explain.places import place_of
from dsa_doctor.explain.reader import Passage
from dsa_doctor.explain.remedies import Remedy
from dsa_doctor.explain.sighting import Sighting, mentions, traceback_of

_KERNEL = re.compile(r"\bdef (\w{2,120})\(")
_LAUNCH = re.compile(r"(\w{2,120})\[\s?(?:grid|\()")
_SIZE = re.compile(
    r"(?:shared memory size to|Required:|dynamic shared\s{1,3}memory)\s?(?P<needed>\d{3,9})"
    r"(?:.{0,40}?(?:Hardware limit:|device limit)\s?(?P<limit>\d{3,9}))?"
)
_OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|CUDA (?:error: )?out of memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
    r"|HIP out of memory|_STATUS_ALLOC_FAILED"
)
_ALLOCATION = re.compile(r"Tried to allocate ([\d.]{1,12} [KMGT]iB)")
_DSA_ARCHITECTURE = re.compile(
    r"glm_moe_dsa|glm5_next|deepseek_v32|deepseek_v4|GlmMoeDsa\w*|Glm5Next\w*|DeepseekV32\w*|DeepseekV4\w*"
)
_ATTENTION_FRAME = re.compile(r"mqa_logits|indexer|mla|sparse|attention|topk|top_k", re.IGNORECASE)
_FALLBACK = re.compile(r"has no vLLM implementation|falling back to Transformers")
_CLASSES = (re.compile(r"\((\w{4,80})\) are:"), re.compile(r"in (Transformers\w{4,80})"))
_SMALLER_STEPS = (
    Remedy("lower --max-num-batched-tokens: it bounds the tokens of a step", engine="vllm"),
    Remedy("lower --chunked-prefill-size: it bounds the tokens of a step", engine="sglang"),
    Remedy("lower --gpu-memory-utilization: what it leaves is for such workspaces", engine="vllm"),
    Remedy("lower --mem-fraction-static: what it leaves is for such workspaces", engine="sglang"),
)
_QUANTISED = re.compile(r"scale|qweight|qzeros|g_idx|zero_point|packed")
_WEIGHT = re.compile(r"[\w.]{1,120}\.indexer\.[\w.]{1,80}")


def fp8_type(passage: Passage) -> list[Sighting]:
    """Triton refuses fp8e4nv; the kernel is the one whose source the message quotes."""
    line = passage.line
    if "not supported" not in line.text or line.is_source:
        return []
    details = {}
    lines = [line]
    for earlier in passage.backwards(40):
        if match := _KERNEL.search(earlier.text):
            details["kernel"] = match.group(1)
            lines.append(earlier)
            break
        if match := _LAUNCH.search(earlier.text):
            details["kernel"] = match.group(1)
            lines.append(earlier)
            break
    else:
        frames = [frame for frame in traceback_of(passage) if "/triton/" not in frame.path]
        if frames:
            details["kernel"] = frames[-1].function
            lines.append(frames[-1].line)
    return [Sighting("DSA901", lines, details)]


def graph_capture(passage: Passage) -> list[Sighting]:
    """Something that CUDA forbids while a stream is being captured."""
    line = passage.line
    if line.is_source or line.is_remark or not re.search(r"rror|NOT_PERMITTED|CAPTURE", line.text):
        return []
    frames = traceback_of(passage)
    own = [frame for frame in frames if not re.search(r"/triton/|/torch/", frame.path)]
    compiled = mentions(frames, re.compile(r"/triton/|_init_handles|load_binary|autotuner"))
    details = {"where": own[-1].function if own else "", "what": "a Triton kernel" if compiled else "something"}
    return [Sighting("DSA920", [line, *([own[-1].line] if own else [])], details)]


def illegal_access(passage: Passage) -> list[Sighting]:
    """An address outside every allocation; CUDA reports it late, so the frame is a hint and no proof."""
    line = passage.line
    if line.is_source or (line.is_remark and "rror" not in line.text):
        return []
    frame = mentions(traceback_of(passage), _ATTENTION_FRAME)
    details = {"where": frame.function} if frame and frame.function else {}
    return [Sighting("DSA921", [line, *([frame.line] if frame else [])], details)]


def shared_memory(passage: Passage) -> list[Sighting]:
    """A tile that is too large: TileLang's and Triton's wordings."""
    line = passage.line
    if line.is_source or line.level in {"INFO", "DEBUG"}:
        return []
    match = _SIZE.search(" ".join(one.text.strip() for one in passage.after(2)))
    details = {"needed": match.group("needed") or "", "limit": match.group("limit") or ""} if match else {}
    return [Sighting("DSA922", [line], details)]


def out_of_memory(passage: Passage) -> list[Sighting]:
    """The allocator or the driver gave up; advice that merely mentions memory is none."""
    line = passage.line
    if line.is_source or line.is_remark or not _OUT_OF_MEMORY.search(line.text):
        return []
    size = _ALLOCATION.search(line.text)
    place, frame = place_of(traceback_of(passage))
    sighting = Sighting("DSA923", [line], {"size": size.group(1)} if size else {})
    if place is not None and frame is not None:
        sighting.lines.append(frame.line)
        sighting.details["where"] = f"in {place.name}"
    if place is not None and place.layer == "indexer":
        sighting.details["detail"] = (
            " Its logits are one 32-bit number for each prompt token of a step and each token of context: more ranks "
            "do not make them smaller, fewer prompt tokens in a step do."
        )
        sighting.remedy, sighting.decided = _SMALLER_STEPS, True
    elif place is not None and place.layer == "attention":
        sighting.details["detail"] = (
            " The workspace of sparse attention grows with the tokens of a step, and is not part of the plan at start."
        )
        sighting.remedy, sighting.decided = _SMALLER_STEPS, True
    return [sighting]


def memory_in_use(passage: Passage) -> list[Sighting]:
    """Another process holds the memory that vLLM was told to take."""
    line = passage.line
    if line.is_source or line.is_remark:
        return []
    sighting = Sighting(
        "DSA923", [line], {"detail": " Another process holds memory of that GPU, or the share is too large."}
    )
    sighting.remedy = (
        "nvidia-smi   # which processes hold memory: often workers of an earlier run",
        Remedy("lower --gpu-memory-utilization", engine="vllm"),
    )
    sighting.decided = True
    return [sighting]


def fallback_class(passage: Passage) -> list[Sighting]:
    """This vLLM has no class for the model, took the one of Transformers, and its weights do not fit there."""
    line = passage.line
    if line.is_source or line.is_remark:
        return []
    fell = next((one for one in passage.before(400)[::-1] if _FALLBACK.search(one.text)), None)
    if fell is None and not re.search(r"in Transformers\w+For\w+", line.text):
        return []
    named = next((found for pattern in _CLASSES if (found := pattern.search(line.text))), None)
    details = {
        "who": "vLLM",
        "architecture": named.group(1) if named else "this model",
        "detail": " It has no class of its own for the model and fell back to the one of Transformers.",
    }
    return [Sighting("DSA904", [line, *([fell] if fell else [])], details)]


def cache_memory(passage: Passage) -> list[Sighting]:
    """The weights leave no room for the KV cache."""
    line = passage.line
    if line.is_remark or line.text.lstrip().startswith(("raise", '"', "'")):
        return []
    return [Sighting("DSA924", [line])]


def watchdog(passage: Passage) -> list[Sighting]:
    """Ranks that wait for each other until NCCL's watchdog ends them; usual after another rank died."""
    line = passage.line
    if not re.search(
        r"[Ww]atchdog caught collective operation timeout|[Ww]atchdog got stuck|[Ww]atchdog [Tt]imeout", line.text
    ):
        return []
    if re.search(r"TORCH_NCCL_\w+=", line.text[:40]):
        return []
    return [Sighting("DSA925", [line], unless_earlier=True)]


def indexer_weights(passage: Passage) -> list[Sighting]:
    """Weights of an indexer that the checkpoint does not have, or that this vLLM does not know."""
    line = passage.line
    text = " ".join(one.text.strip() for one in [*passage.before(3), line])
    if line.is_source or not re.search(
        r"not initialized|KeyError|[Mm]issing key|[Mm]issing \d{1,6} param|[Uu]nexpected key|no module or parameter",
        text,
    ):
        return []
    weight = _WEIGHT.search(line.text)
    if weight is not None and _QUANTISED.search(weight.group()):
        named = weight.group()
        what = f"the indexer is quantised in only one of the checkpoint and the model's class ({named})"
        return [Sighting("DSA940", [line], {"what": what})]
    return [Sighting("DSA926", [line], {"weight": weight.group() if weight else "an indexer's weight"})]


def unknown_architecture(passage: Passage) -> list[Sighting]:
    """Transformers or vLLM is too old to know a DSA model; other models are no concern here."""
    line = passage.line
    text = " ".join(one.text.strip() for one in passage.after(1))
    match = _DSA_ARCHITECTURE.search(text)
    if match is None or line.is_source or line.is_remark:
        return []
    who = "Transformers" if "Transformers" in text else "vLLM"
    return [Sighting("DSA904", [line], {"architecture": match.group(), "who": who})]


def driver(passage: Passage) -> list[Sighting]:
    """For torch the driver is too old for the CUDA it was built with."""
    line = passage.line
    if line.is_source:
        return []
    return [Sighting("DSA930", [line], {"what": "torch says the driver is too old"}, weak="UserWarning" in line.text)]
