"""Where a frame of a traceback belongs: the layer of dsa-doctor, and the part of the software by name."""

import re
from typing import NamedTuple

from dsa_doctor.explain.sighting import Frame
from dsa_doctor.verdict.schema import FindingLayer


class Place(NamedTuple):
    """A part of the software: `name` completes "raised in ..."."""

    layer: FindingLayer
    name: str


# The first that matches a path, or a path and its function, decides: the more exact one stands first.
_PLACES: tuple[tuple[str, FindingLayer, str], ...] = (
    (
        r"sparse_attn_indexer|sparse_mqa_indexer|(?:nsa|dsa)_indexer|mla/(?:sparse_)?indexer|sparse_indexer|mqa_logits"
        r"|[/_]indexer(?:_kpool)?\.py|\bLightningIndexer",
        "indexer",
        "the sparse-attention indexer",
    ),
    (
        r"sparse_mla|mla_sparse|flash_?mla|MLASparse|attention/backends?/|/attention/(?:nsa|dsa)|(?:nsa|dsa)_backend"
        r"|mla_attention|layers/mla\.py|/attention\.py|compressor|flashinfer/(?:mla|decode|prefill|sparse|attention)|attention/layer|attention/selector"
        r"|attention/\w*backend|layers/attention/|/attention/ops/|trtllm_\w*mla|[Ff]mha|FusedMultiHeadAttention|flash_attn|fa_utils|forward_mqa",
        "attention",
        "an attention backend",
    ),
    (r"vllm/_custom_ops\.py|vllm/_C\b|/sgl_kernel/", "csrc", "a compiled custom op"),
    (
        r"model_loader|weight_utils|load_weights|/loader|safetensors|gguf|checkpoint_engine|weight_loader",
        "runtime",
        "the loading of weights",
    ),
    (
        r"kv_transfer|kv_connector|nixl|mooncake|lmcache|offloading",
        "runtime",
        "the transfer or offloading of the KV cache",
    ),
    (
        r"/distributed/|parallel_state|device_communicators|pynccl|custom_all_reduce|c10d|rendezvous|/ray/|ray_executor"
        r"|ray_utils|elastic/",
        "runtime",
        "the communication between processes",
    ),
    (
        r"_inductor|_dynamo|torch_compile|/compilation/|piecewise_backend|/triton/(?:compiler|backends)|aot_autograd",
        "runtime",
        "torch.compile or Triton's compiler",
    ),
    (r"cuda_?graph|CUDAGraph|breakable_cudagraph", "runtime", "the capture of CUDA graphs"),
    (r"flashinfer/jit|cpp_extension|deep_gemm/jit|/tilelang/|nvcc|ninja", "runtime", "a kernel compiled at run time"),
    (r"spec_decode|speculative|/eagle|_mtp\.py|medusa|/mtp", "runtime", "speculative decoding"),
    (r"quantization|compressed_tensors|modelopt|/gptq|/awq|marlin", "runtime", "a quantisation"),
    (r"fused_moe|/moe/|experts|expert_parallel|eplb", "runtime", "the mixture of experts"),
    (r"transformers_utils|huggingface_hub|/hub\.py|hf_api|modelscope", "runtime", "the model's files or the Hub"),
    (r"tokeniz|chat_template|jinja2|renderers?/", "runtime", "the tokenizer or the chat template"),
    (r"tool_parser|reasoning", "runtime", "a tool or reasoning parser"),
    (r"/multimodal/|processing\.py|image_processing", "runtime", "the processing of images, audio or video"),
    (r"kv_cache_utils|block_pool|kv_cache_manager|single_type_kv", "runtime", "the KV cache"),
    (r"model_executor/models|/models/|modeling_\w+\.py", "runtime", "the model's code"),
    (
        r"entrypoints/(?:openai|serve)/\S*serving|serving_chat|serving_completion|serving_engine",
        "runtime",
        "the handling of a request",
    ),
    (r"entrypoints|argparse|arg_utils|/cli/|server_args|config/", "runtime", "the options and their checks"),
    (r"/scheduler|core/sched", "runtime", "the scheduler"),
    (r"pydantic", "runtime", "the options and their checks"),
)  # fmt: skip
_COMPILED = tuple((re.compile(pattern), Place(layer, name)) for pattern, layer, name in _PLACES)
_LIBRARY = re.compile(
    r"[/\\](?:torch|triton|concurrent|asyncio|multiprocessing|threading\.py|contextlib\.py|functools\.py|importlib|uvloop"
    r"|cloudpickle|json|subprocess\.py|socket\.py|queue\.py|ctypes|http|urllib\w*|requests|httpx|httpcore|anyio"
    r"|starlette|fastapi|uvicorn|typing\w*\.py|runpy\.py|site\.py|re|os\.py|selectors\.py|pathlib\.py)(?:[/\\]|$)|^<|\.pyx$"
)
_PLUMBING = re.compile(
    r"multiproc_executor|ray_utils|ray_executor|uniproc_executor|worker_base|/utils/(?:func|system)_utils|tracing/|gpu_worker|v1/executor"
    r"|engine/(?:core|async_llm|core_client|llm_engine|utils)|run_method|serial_utils|entrypoints/(?:cli/main|utils)"
    r"|scheduler\.py$|managers/(?:scheduler|tp_worker)|launch_server"
)


def place_of(frames: list[Frame]) -> tuple[Place | None, Frame | None]:
    """Return the place that the innermost telling frame belongs to, and that frame.

    Frames of torch, of the standard library and of web servers tell nothing unless there are no others; nor do those
    that only pass a call on between processes.
    """
    telling = [frame for frame in frames if not _LIBRARY.search(frame.path)]
    for frame in reversed(telling):
        if _PLUMBING.search(frame.path):
            continue
        if (place := _place(frame)) is not None:
            return place, frame
    own = [frame for frame in telling if not _PLUMBING.search(frame.path)]
    for frame in reversed(frames if not own else []):
        if (place := _place(frame)) is not None:
            return place, frame
    left = own or telling or frames
    return None, left[-1] if left else None


def _place(frame: Frame) -> Place | None:
    where = f"{frame.path} {frame.function}"
    return next((place for pattern, place in _COMPILED if pattern.search(where)), None)
