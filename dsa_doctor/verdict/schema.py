"""The verdict's schema. Fields are only ever added; removing or renaming one raises the major schema version."""

from datetime import datetime
from typing import Literal

from dsa_doctor.facts.observation import Fact

VERDICT_SCHEMA_VERSION = "1.0"

LayerName = Literal["csrc", "attention", "indexer"]
FindingLayer = Literal["csrc", "attention", "indexer", "runtime"]
State = Literal["native", "upstream", "plugin", "unresolved", "unknown"]
Status = Literal["pass", "warn", "fail", "skip", "unknown"]

LAYER_NUMBERS: dict[LayerName, int] = {"csrc": 1, "attention": 2, "indexer": 3}
EXIT_BITS: dict[LayerName, int] = {"csrc": 4, "attention": 8, "indexer": 16}
EXIT_UNDETERMINED = 32


class Finding(Fact):
    """One thing found, with its evidence and what to do about it."""

    id: str
    layer: FindingLayer
    status: Status
    summary: str
    """One sentence."""
    evidence: tuple[str, ...] = ()
    remedy: tuple[str, ...] = ()
    """Commands or sentences, the nearest remedy first."""
    judge_only: bool = False
    """It concerns the machine that judges, and not the GPU that is judged, which stands elsewhere."""


class Layer(Fact):
    """The state of one of the three layers, and the reason in one sentence."""

    number: int
    layer: LayerName
    state: State
    reason: str
    finding_ids: tuple[str, ...] = ()


class Backend(Fact):
    """One candidate attention backend: taken or rejected, and why."""

    name: str
    accepted: bool
    reasons: tuple[str, ...] = ()


class TargetInfo(Fact):
    """The GPU that was judged."""

    name: str
    capability: str
    sm: str
    count: int | None = None
    memory_bytes: int | None = None
    shared_memory_per_block: int | None = None
    source: Literal["--target", "this machine", "facts file"]


class ModelInfo(Fact):
    """The model that was judged."""

    name: str
    hub_id: str | None = None
    architecture: str
    uses_dsa: bool
    head_size: int
    num_attention_heads: int
    heads_per_rank: int
    index_topk: int
    quantization: str | None = None
    source: str


class Software(Fact):
    """The versions that were judged."""

    vllm: str | None = None
    torch: str | None = None
    triton: str | None = None
    dsa_doctor: str


class Configuration(Fact):
    """What the verdict implies for a launch; the plugin and run-model apply exactly this."""

    attention_backend: str
    kv_cache_dtype: str
    """Value for --kv-cache-dtype."""
    block_size: int | None = None
    uses_plugin: bool = False
    fallbacks: dict[str, str]
    """Part of the model to what serves it there, e.g. {"indexer logits": "dsa_kernels.fp8_mqa_logits"}."""


class Verdict(Fact):
    """The whole answer of `dsa-doctor check`."""

    schema_version: str = VERDICT_SCHEMA_VERSION
    dsa_doctor_version: str
    asked: str | None = None
    """What was given for MODEL, where `model` does not say it: the model or the GPU could not be determined."""
    target: TargetInfo | None
    model: ModelInfo | None
    software: Software
    layers: tuple[Layer, ...]
    findings: tuple[Finding, ...]
    backends: tuple[Backend, ...]
    configuration: Configuration | None = None
    kept_from: datetime | None = None
    """When the oldest answer that this rests on was observed, where an earlier run's was kept; None where all is of
    this run."""
    from_file: bool = False
    """Whether it rests on a facts file: nothing was asked in this run."""
    exit_code: int


def exit_code_of(layers: tuple[Layer, ...], findings: tuple[Finding, ...] = ()) -> int:
    """Return 0 where every layer is resolved and nothing else fails.

    Bits 4, 8, 16 stand for unresolved layers 1, 2, 3. Bit 32 stands for what could not be determined, and for a
    `runtime` finding that fails while no layer does: a run that cannot work must not come out green.
    """
    code = 0 if layers else EXIT_UNDETERMINED
    for layer in layers:
        if layer.state == "unresolved":
            code |= EXIT_BITS[layer.layer]
        elif layer.state == "unknown":
            code |= EXIT_UNDETERMINED
    if code == 0 and any(one.layer == "runtime" and one.status == "fail" for one in findings):
        code = EXIT_UNDETERMINED
    return code
