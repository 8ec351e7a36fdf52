"""What is asked of the resolver: a target, a model's geometry and the options of the launch."""

from dataclasses import dataclass
from typing import Literal, get_args

from dsa_doctor.catalog.capability import Capability
from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.compat.families import family_of
from dsa_doctor.facts.observation import Fact
from dsa_doctor.facts.schema import SelectorQuery

PluginMode = Literal["auto", "off", "force"]

PLUGIN_MODES: tuple[PluginMode, ...] = get_args(PluginMode)

TRITON_BACKEND = "TRITON_MLA_SPARSE"

KV_CACHE_DTYPES = ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_ds_mla")
"""What --kv-cache-dtype accepts here; vLLM's own selector judges it further."""


_USUAL_HEAD_SIZE = 576


class RequestError(ValueError):
    """What was asked for cannot be met whatever the facts; the message names the option and what is accepted."""


class Target(Fact):
    """The GPU to judge for."""

    name: str
    capability: str
    source: Literal["--target", "this machine", "facts file"]
    count: int | None = None
    memory_bytes: int | None = None

    @property
    def parsed(self) -> Capability:
        """Return the capability as numbers."""
        return Capability.parse(self.capability)

    @property
    def is_elsewhere(self) -> bool:
        """Whether the GPU is not in the machine that the facts describe, whose driver then says nothing about it."""
        return self.source == "--target"


class Request(Fact):
    """Options of the launch to judge."""

    tensor_parallel_size: int = 8
    kv_cache_dtype: str = "auto"
    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    block_size: int | None = None
    pipeline_parallel_size: int = 1
    decode_context_parallel_size: int = 1
    prefill_context_parallel_size: int = 1
    drafts: int = 0
    """Speculative tokens."""
    enforce_eager: bool | None = None
    """Whether CUDA graphs are off; None where that is not known."""
    backend: str | None = None
    """A backend asked for by name: it works or is unresolved, nothing else is tried."""
    plugin_mode: PluginMode | None = None
    """Given on the command line, in place of DSA_DOCTOR_PLUGIN in the judged environment."""


@dataclass(frozen=True)
class Case:
    """What is judged: made once, then handed from gathering to the verdict.

    Attributes:
        model: the model's geometry.
        target: the GPU.
        request: options of the launch.
        query: the question that vLLM's selector must have answered.
    """

    model: ModelGeometry
    target: Target
    request: Request
    query: SelectorQuery

    @classmethod
    def of(cls, model: ModelGeometry, target: Target, request: Request) -> "Case":
        """Return the case.

        Raises:
            RequestError: the heads cannot be divided among the ranks.
        """
        return cls(model, target, request, query_for(model, target.parsed, request))


def stock_kv_cache_dtype(model: ModelGeometry, request: Request) -> str:
    """Return what a stock vLLM would use: the checkpoint's metadata decides where the user did not."""
    if request.kv_cache_dtype == "auto" and model.kv_cache_quantization:
        return "fp8_e4m3" if model.kv_cache_quantization.startswith("fp8") else model.kv_cache_quantization
    return request.kv_cache_dtype


def query_for(model: ModelGeometry, capability: Capability, request: Request) -> SelectorQuery:
    """Return the question that vLLM's selector must have answered for this judgement.

    A request for the plugin's backend by name asks the stock selector for its own choice: the stock vLLM does not know
    that name. Of a family that picks its attention class itself nothing is taken from the answer but what vLLM says of
    DeepGEMM there.
    """
    family = family_of(model.architecture, model.model_type)
    if family is not None and family.picker is not None:
        return SelectorQuery(
            capability=str(capability),
            head_size=_USUAL_HEAD_SIZE,
            num_heads=heads_per_rank(model, request),
            dtype=request.dtype,
            kv_cache_dtype="auto",
        )
    return SelectorQuery(
        capability=str(capability),
        head_size=model.head_size,
        num_heads=heads_per_rank(model, request),
        dtype=request.dtype,
        kv_cache_dtype=stock_kv_cache_dtype(model, request),
        block_size=request.block_size,
        qk_nope_head_dim=model.qk_nope_head_dim,
        qk_rope_head_dim=model.qk_rope_head_dim,
        kv_lora_rank=model.kv_lora_rank,
        index_topk=model.index_topk,
        backend=None if request.backend == TRITON_BACKEND else request.backend,
    )


def heads_per_rank(model: ModelGeometry, request: Request) -> int:
    """Return the query heads that one tensor-parallel rank holds.

    Raises:
        RequestError: the heads cannot be divided among the ranks.
    """
    heads, ranks = model.num_attention_heads, request.tensor_parallel_size
    if ranks < 1 or heads % ranks:
        divisors = ", ".join(str(one) for one in range(1, heads + 1) if heads % one == 0)
        raise RequestError(
            f"--tensor-parallel-size {ranks} does not divide the {heads} attention heads of {model.name}. "
            f"Accepted: {divisors}."
        )
    return heads // ranks
