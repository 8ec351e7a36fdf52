"""What a launch asks for, merged once: each value with its source. Everything after it sees this one object."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from dsa_doctor.launch.extra import read_config, read_extra
from dsa_doctor.planner.parallel import TablePlace

Source = Literal["after --", "command line", "configuration file", "default"]
"""In order of precedence, as vLLM has it: its own arguments win over the file of its --config."""

T = TypeVar("T")


@dataclass(frozen=True)
class Choice(Generic[T]):
    """One value and its source."""

    value: T
    source: Source = "default"

    @property
    def is_given(self) -> bool:
        """Whether the user chose it."""
        return self.source != "default"

    @property
    def reaches_vllm(self) -> bool:
        """Whether vLLM gets it without us."""
        return self.source in {"after --", "configuration file"}


@dataclass(frozen=True)
class LaunchOptions:
    """Everything that is asked of one launch. None leaves a choice to the verdict or the memory plan.

    Attributes:
        model: what was typed for MODEL.
        target: a GPU to plan for; None plans for this machine.
        gpu_memory_gib: memory of each GPU, in place of what the driver or the catalog says.
        gpus: GPUs per node.
        nodes: nodes.
        tensor: ranks that share the heads.
        pipeline: ranks that share the layers.
        data: copies of the attention.
        expert: whether whole experts stay on a GPU.
        kv_cache_dtype: as for vLLM.
        attention_backend: a backend by name.
        block_size: tokens per KV page.
        max_model_len: tokens of context; given as "auto" it is None.
        max_num_seqs: requests at once.
        max_num_batched_tokens: tokens of one step.
        gpu_memory_utilization: share of the GPU that vLLM may take.
        cpu_offload_gib: GiB of weights per GPU that the host holds.
        enforce_eager: no CUDA graphs.
        speculative: whether a speculative decoder is configured.
        drafts: its tokens; None where they are not given.
        tables: where n-gram tables lie.
        dtype: as for vLLM.
        decode_context: ranks that share the context in decoding.
        prefill_context: ranks that share it in prefill.
        host: address to bind.
        port: port to bind.
        uds: Unix domain socket to bind in place of an address.
        ssl_certfile: file of the server's certificate.
        api_keys: keys that let in, any of them. Never shown.
        load_format: as for vLLM.
        passthrough: what follows `--`; goes to vLLM untouched, last.
        passed_on: options, in their long spelling, that vLLM gets from the passthrough.
        in_file: options, in their long spelling, that vLLM reads in the file of its --config.
        executable: command that runs vLLM; None looks for it.
        elsewhere: whether the launch is for other machines, whose state cannot be looked at.
    """

    model: str
    target: str | None
    gpu_memory_gib: float | None
    gpus: Choice[int | None]
    nodes: Choice[int]
    tensor: Choice[int | None]
    pipeline: Choice[int | None]
    data: Choice[int]
    expert: Choice[bool]
    kv_cache_dtype: Choice[str | None]
    attention_backend: Choice[str | None]
    block_size: Choice[int | None]
    max_model_len: Choice[int | None]
    max_num_seqs: Choice[int | None]
    max_num_batched_tokens: Choice[int | None]
    gpu_memory_utilization: Choice[float | None]
    cpu_offload_gib: Choice[float]
    enforce_eager: Choice[bool]
    speculative: Choice[bool]
    drafts: Choice[int | None]
    tables: Choice[TablePlace]
    dtype: Choice[str | None]
    decode_context: Choice[int]
    prefill_context: Choice[int]
    host: Choice[str | None]
    port: Choice[int]
    uds: Choice[str | None]
    ssl_certfile: Choice[str | None]
    api_keys: Choice[list[str] | None] = field(repr=False)
    load_format: Choice[str | None]
    passthrough: tuple[str, ...] = ()
    passed_on: frozenset[str] = frozenset()
    in_file: frozenset[str] = frozenset()
    executable: str | None = None
    elsewhere: bool = False


def launch_options(
    model: str,
    given: Mapping[str, Any] | None = None,
    passthrough: Sequence[str] = (),
    *,
    target: str | None = None,
    gpu_memory_gib: float | None = None,
    executable: str | None = None,
    elsewhere: bool = False,
) -> LaunchOptions:
    """Merge what follows `--`, the options, the file of vLLM's --config and the defaults; the first with a value wins.

    Args:
        model: what was typed for MODEL.
        given: field of LaunchOptions to the option's value; None leaves it open, 0 and False are values.
        passthrough: what follows `--`.
        target: see LaunchOptions, as the rest.
        gpu_memory_gib: see there.
        executable: see there.
        elsewhere: see there.

    Raises:
        ExtraArgumentError: an argument after `--` has no value or one of the wrong kind; its --config cannot be read.
    """
    after = read_extra(passthrough)
    in_file = read_config(passthrough)
    layers: tuple[tuple[Source, Mapping[str, Any]], ...] = (
        ("after --", after.values),
        ("command line", {name: value for name, value in (given or {}).items() if value is not None}),
        ("configuration file", in_file.values),
    )

    def choice(name: str, default: Any) -> Choice[Any]:
        return next((Choice(found[name], source) for source, found in layers if name in found), Choice(default))

    return LaunchOptions(
        model=model,
        target=target,
        gpu_memory_gib=gpu_memory_gib,
        gpus=choice("gpus", None),
        nodes=choice("nodes", 1),
        tensor=choice("tensor", None),
        pipeline=choice("pipeline", None),
        data=choice("data", 1),
        expert=choice("expert", False),
        kv_cache_dtype=choice("kv_cache_dtype", None),
        attention_backend=choice("attention_backend", None),
        block_size=choice("block_size", None),
        max_model_len=choice("max_model_len", None),
        max_num_seqs=choice("max_num_seqs", None),
        max_num_batched_tokens=choice("max_num_batched_tokens", None),
        gpu_memory_utilization=choice("gpu_memory_utilization", None),
        cpu_offload_gib=choice("cpu_offload_gib", 0.0),
        enforce_eager=choice("enforce_eager", False),
        speculative=choice("speculative", False),
        tables=choice("tables", "pinned"),
        drafts=choice("drafts", None),
        dtype=choice("dtype", None),
        decode_context=choice("decode_context", 1),
        prefill_context=choice("prefill_context", 1),
        host=choice("host", None),
        port=choice("port", 8000),
        uds=choice("uds", None),
        ssl_certfile=choice("ssl_certfile", None),
        api_keys=choice("api_keys", None),
        load_format=choice("load_format", None),
        passthrough=tuple(passthrough),
        passed_on=after.options,
        in_file=in_file.options,
        executable=executable,
        elsewhere=elsewhere,
    )
