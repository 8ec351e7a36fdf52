"""The facts of one machine and one Python environment, as gathered by `dsa-doctor facts`.

A facts file may be judged anywhere (`check --facts FILE`): the resolver sees nothing else. Capabilities are written as
in CUDA's documentation ("8.0"), GPU architectures as nvcc writes them ("sm_80", "sm_90a"). Paths are relative to the
site-packages folder, so that no user or host name is carried.
"""

from typing import Annotated, Literal

from pydantic import Field

from dsa_doctor.facts.observation import Fact, Observation

FACTS_SCHEMA_VERSION = "1.0"

ComputeCapability = Annotated[str, Field(pattern=r"^[0-9]{1,2}\.[0-9]$")]
"""As in CUDA's documentation: "8.0"."""
Architecture = Annotated[str, Field(pattern=r"^sm_[0-9]{2,3}[af]?$")]
"""As nvcc writes it: "sm_80", "sm_90a"."""


class Gpu(Fact):
    """One GPU as the driver reports it."""

    index: int
    name: str
    capability: ComputeCapability
    memory_bytes: int | None = Field(default=None, ge=0)
    mig_enabled: bool | None = None
    visible: bool = True
    """False where CUDA_VISIBLE_DEVICES hides it."""


class GpuInventory(Fact):
    """All GPUs of the machine, hidden ones included."""

    source: Literal["nvml", "nvidia-smi"]
    driver_version: str | None = None
    cuda_driver_version: str | None = None
    cuda_visible_devices: str | None = None
    gpus: tuple[Gpu, ...]


class EntryPoint(Fact):
    """One entry point that vLLM would load."""

    group: str
    name: str
    value: str
    distribution: str | None = None


class Software(Fact):
    """Installed distributions, read from their metadata without importing them."""

    python: str
    platform: str
    packages: dict[str, str]
    """Distribution name to version, for those of interest that are installed."""
    torch_cuda: Observation[str]
    """CUDA version that torch was built for; absent for a CPU build or no torch."""
    vllm_plugins: tuple[EntryPoint, ...] = ()
    """Entry points of the groups vllm.general_plugins and vllm.platform_plugins."""


class Settings(Fact):
    """Environment variables of the process that would serve, as far as they change an answer; values are redacted."""

    looked_at: tuple[str, ...]
    """Names that were looked at; of vLLM's own, those in its envs.py that select kernels, backends or plugins."""
    variables: dict[str, str]
    """Those that are set."""
    unread: tuple[str, ...] = ()
    """Names among `variables` that select kernels elsewhere and that this vLLM does not read."""


class Sm120Shapes(Fact):
    """The shapes for which FlashInfer has a sparse-MLA decode kernel on 12.x: listed, or by bounds."""

    pairs: tuple[tuple[int, int], ...] = ()
    """(query heads per rank, top-k)."""
    most_heads: int | None = None
    least_topk: int | None = None


class Sm120Kernels(Fact):
    """FlashInfer's sparse-MLA kernels for compute capability 12.x, as its installed sources have them."""

    barrier: Literal["alternates", "livelocks", "unrecognised"]
    """Whether a thread that does not block alternates between two barriers, without which the kernel may livelock."""
    swap_ab: Literal["absent", "retires", "hangs"]
    """The prefill with swapped operands: not there, or whether it retires threads that no barrier counts."""
    rope_free: bool
    """Whether there is a kernel for rows without rope (GLM-5.3-Flash)."""
    shapes: dict[str, Sm120Shapes]
    """By FlashInfer's name of the kernel family, e.g. "DSV3_2"."""


class CudaToolkit(Fact):
    """A CUDA toolkit that run-time compilation (DeepGEMM, TileLang, FlashInfer) would find."""

    found_by: str
    """How: "CUDA_HOME", "PATH", "default folder", "pip package nvidia-cuda-nvcc"."""
    nvcc_version: str | None = None
    host_compiler: bool | None = None
    """Whether the C++ compiler is there that TileLang gives nvcc: what CXX or CC names, else g++, clang++ or c++."""


class DeepGemmCopy(Fact):
    """One copy of DeepGEMM in the environment."""

    source: Literal["external", "vendored"]
    """external: the distribution deep_gemm; vendored: vllm.third_party.deep_gemm."""
    version: str | None = None
    importable: Observation[bool]
    """Tried in a subprocess. ok(True), ok(False) with the exception as evidence, or unknown."""
    failure: Literal["no_cuda_toolkit", "no_driver_or_cuda_torch", "broken"] | None = None
    """What an unsuccessful import lacked on this machine: a CUDA toolkit; the driver or a CUDA build of torch (which
    says nothing about the target); or neither, so the package itself is broken."""


class DeepGemm(Fact):
    """Whether DeepGEMM is installed and importable. Whether an architecture supports it is another question."""

    copies: tuple[DeepGemmCopy, ...]


class CodeImages(Fact):
    """Code for one architecture in a file's fat binaries."""

    architecture: Architecture
    kind: Literal["machine_code", "ptx"]
    count: int


class ExtensionModule(Fact):
    """One compiled module of the installed vLLM, read from the file itself."""

    module: str
    """Import name, e.g. "vllm._C_stable_libtorch"."""
    file: str
    """Path below site-packages."""
    size_bytes: int
    images: tuple[CodeImages, ...]
    unresolved_symbols: tuple[str, ...]
    """Undefined symbols that nothing in the environment provides; weak, system and driver symbols excepted."""
    op_schemas: tuple[str, ...]
    """torch op schema strings found in the file, e.g. "rms_norm(Tensor! result, ...) -> ()"; the namespace is seldom
    part of the string."""
    missing_libraries: tuple[str, ...] = ()
    """Needed libraries, direct or not, that are not installed here: the file cannot be loaded on this machine."""
    problem: str | None = None
    """Why the file could not be read in full (truncated, not ELF); the other fields then hold what could be read."""


class OpCode(Fact):
    """What is known of one op that a DSA model may need."""

    op: str
    """Qualified name, e.g. "_C::dsv3_fused_a_gemm"."""
    extension: str | None
    signature: str | None
    """The op's schema string."""
    implemented: bool | None = None
    """Whether the file also registers an implementation, told from the op's bare name being a string of its own; None
    where there is no file."""
    machine_code: tuple[Architecture, ...]
    ptx: tuple[Architecture, ...]
    granularity: Literal["kernel", "extension"]
    """kernel: read from the kernel names of each image (no code at all where nothing is implemented); extension: the
    op's kernels were not recognised, so only the whole file's architectures are known."""
    registered_for_cuda: bool | None = None
    """What torch's dispatcher says after loading the library; None where it could not be loaded."""


class Csrc(Fact):
    """vLLM's compiled side."""

    extensions: tuple[ExtensionModule, ...]
    ops: tuple[OpCode, ...]
    dispatcher: Observation[bool]
    """Whether the libraries could be loaded and torch's dispatcher asked."""


class SelectorQuery(Fact):
    """One question to vLLM's attention backend selector."""

    capability: ComputeCapability
    head_size: int
    num_heads: int
    """Query heads per rank."""
    dtype: str
    """"bfloat16" or "float16"."""
    kv_cache_dtype: str
    """As given to --kv-cache-dtype; "auto" by default."""
    block_size: int | None = None
    backend: str | None = None
    """A backend asked for by name; None lets vLLM choose."""
    qk_nope_head_dim: int | None = None
    """This and the next three are the model's geometry, which backends check; without any, vLLM checks less."""
    qk_rope_head_dim: int | None = None
    kv_lora_rank: int | None = None
    index_topk: int | None = None


class BackendCandidate(Fact):
    """vLLM's own word on one backend, for one query."""

    name: str
    accepted: bool
    reasons: tuple[str, ...] = ()


class SelectorAnswer(Fact):
    """vLLM's answer to one query, from its real selector run in a subprocess with the capability in force."""

    query: SelectorQuery
    chosen: str | None
    """Backend name; None where vLLM raises."""
    candidates: tuple[BackendCandidate, ...]
    """In vLLM's order of priority."""
    error: str | None = None
    """vLLM's own error, first line, where it raised."""
    broke: bool = False
    """True where the question itself broke (no refusal of vLLM's): nothing about the backends follows from it."""
    kv_cache_dtype: str | None = None
    """The KV cache format that vLLM makes of the one asked for, once the backend is chosen."""
    block_size: int | None = None
    """The block size asked for, or the one that the chosen backend prefers."""
    deep_gemm_supported: bool | None = None
    """vLLM's is_deep_gemm_supported() for this capability, DeepGEMM assumed present; None where it cannot be asked."""
    assumed: tuple[str, ...] = ()
    """What this machine could not load and was taken as loadable on the target, e.g. "vllm._flashmla_C"."""


class ServeOption(Fact):
    """One option of `vllm serve`."""

    names: tuple[str, ...]
    """Every spelling, e.g. "--tensor-parallel-size" and "-tp"."""
    values: tuple[str, ...] | None = None
    """The values that vLLM lists for it; None where it lists none."""


class ServeOptions(Fact):
    """Every option of `vllm serve`, from the parser that vLLM itself builds."""

    options: tuple[ServeOption, ...]


class Selector(Fact):
    """vLLM's decisions."""

    answers: tuple[SelectorAnswer, ...]
    flashinfer_usable: bool | None = None
    """Whether vLLM takes FlashInfer for usable in this environment (package, and cubins or a CUDA toolkit)."""
    serve_options: Observation[ServeOptions] | None = None
    """The options of `vllm serve`, told by the same import; None where they were not asked for."""


class TritonFp8Kernel(Fact):
    """A Triton kernel of the installed vLLM on the DSA path that uses float8e4nv, which Triton refuses below sm89."""

    kernel: str
    file: str
    guarded: bool
    """True where vLLM checks the capability before it launches the kernel."""
    architectures: tuple[str, ...] = ()
    """The architectures of `Fingerprint.model_classes` whose path it is on; empty where that is not known."""


class QuantizationSupport(Fact):
    """Which quantised checkpoints the quantisation layers of a vLLM take."""

    methods: tuple[str, ...]
    """Every quant_method that it knows."""
    fused_indexer_key: bool
    """Whether the indexer's wk and weights_proj are loaded into one projection that is never quantised."""
    widened_key_scales: tuple[str, ...] = ("block",)
    """Which scales an FP8 wk may have to be widened for that projection."""
    one_scheme_for_experts: bool
    """Whether it refuses experts whose projections are quantised differently."""
    orders_columns: bool
    """Whether it takes compressed-tensors weights with a stored order of columns (actorder "group")."""
    orders_columns_gptq: bool
    """Whether it takes GPTQ weights with desc_act."""
    int4_fp8_linear: str | None
    """The one compute capability on which linear layers take int4 weights with FP8 activations; "" for any."""
    int4_fp8_experts: str | None
    """The same of routed experts."""
    int4_int8_linear: bool
    """Whether linear layers take packed integer weights with int8 activations."""
    int4_int8_experts: bool = True
    """Whether routed experts take them on a GPU; true where that could not be told."""
    head_by_class: bool = True
    """Whether compressed-tensors quantises an output head that no target names; true where that could not be told."""
    mtp_splits_fused: bool
    """Whether its MTP draft model names the parts of fused projections itself, rather than by the model's settings."""
    mtp_takes_gptq: bool = True
    """Whether that draft model loads the g_idx tensors of GPTQ; true where that could not be told."""
    awq_bits: tuple[int, ...]
    gptq_bits: tuple[int, ...]


class AttentionCandidate(Fact):
    """An attention class that a model family may pick."""

    attention_class: str
    """Dotted path."""
    backend: str | None
    """Name that its backend gives itself."""
    supported: bool | None
    """What the backend says of the compute capability; None where that could not be told from the sources."""
    kv_cache_dtypes: tuple[str, ...] = ()
    """What --kv-cache-dtype may be for it; empty where that could not be told."""


class AttentionPick(Fact):
    """What a family picks on one compute capability."""

    capability: ComputeCapability
    asked: str | None
    """Backend asked for by name; None where none is."""
    candidates: tuple[AttentionCandidate, ...]
    """In the order of the sources; several where the choice depends on more than the capability."""
    refused: str | None = None
    """vLLM's error where it takes no backend of that name."""


class OwnAttention(Fact):
    """How a model family picks its attention class, where it does not ask vLLM's selector."""

    family: str
    picked_by: str
    """The function of vLLM that picks, dotted."""
    picks: tuple[AttentionPick, ...]


class FamilyNeed(Fact):
    """A step of a family's path in this vLLM that not every GPU can take."""

    family: str
    layer: Literal["attention", "indexer"]
    place: str
    """vLLM's module or definition that takes the step, dotted."""
    needs: str
    """"deep_gemm": kernels of DeepGEMM for the GPU; "e4m3": conversion to e4m3, which compute capability 8.9 has;
    "backend": that the backend of the attention class which the family picks takes the compute capability;
    "cuda_compiler": nvcc and a C++ compiler on the machine that serves, whatever the GPU."""
    what: str
    """The step, in words that follow the place."""


class Fingerprint(Fact):
    """What the installed vLLM's sources do, told by symbols and signatures rather than by its version."""

    model_classes: dict[str, str]
    """Architecture name to "module:Class", as the registry and its dispatching modules choose on CUDA."""
    sparse_mla_backends: tuple[str, ...]
    """Names in the backend registry that serve sparse MLA."""
    in_tree_triton_mla_sparse: bool
    indexer_guard: Literal["installed", "supported", "none", "unrecognised"]
    """What the indexer's constructor asks of DeepGEMM."""
    prefill_logits: Literal["full", "compressed", "unrecognised"]
    """Contract of the ragged logits: full width, or compressed with max_seqlen_k."""
    fused_indexer_q_switch: bool
    """Whether the model's Indexer has the attribute use_fused_indexer_q."""
    triton_fp8_kernels: tuple[TritonFp8Kernel, ...]
    fp8_jit_warmup: bool
    """Whether start-up compiles a kernel for an fp8 argument and re-raises its failure."""
    topk_persistent_gate: Literal["capability", "none", "absent", "unrecognised"]
    """What guards the persistent top-k op."""
    topk_backend_setting: bool
    """Whether sparse_indexer_topk_backend exists."""
    topk_overflow_fix: bool | None
    """Whether the compiled top-k op has its candidate-overflow fix; None where the binary could not be read."""
    kv_b_proj_int32_bug: bool
    """Whether the dense prefill casts its input to the kv_b_proj weight's dtype (int32 under Marlin)."""
    dsv3_fused_a_gemm_gate: Literal["capability", "none", "absent", "unrecognised"] = "unrecognised"
    """What guards the op dsv3_fused_a_gemm in the generic model, which has no code below sm_90."""
    registered: dict[str, str] | None = None
    """Every architecture in vLLM's own registry to the "module:Class" that stands there; None where it was not read."""
    own_attention: tuple[OwnAttention, ...] | None = None
    """Families that pick their attention class by themselves; None where that was not read."""
    family_needs: tuple[FamilyNeed, ...] | None = None
    """In the order in which a start meets them; None where that was not read."""
    plugins_by_name: bool | None = None
    """Whether vLLM loads the plugins alone whose names VLLM_PLUGINS lists, once it is set; None where its rule was not
    recognised or not read."""
    quantization: QuantizationSupport | None = None
    """None where it was not read."""
    open_pools_keep_drafts: bool | None = None
    """Whether the cache of GLM-5.3-Flash's open pools has room for rejected drafts; None where it was not read."""
    pool_faults: tuple[Literal["chunks", "distance"], ...] | None = None
    """What makes pooled index keys wrong without an error: pools that two chunks of a prompt share, or the open pool at
    its end, written as if blocks lay next to each other; None where it was not read."""
    windows_by_yarn: bool | None = None
    """Whether DeepSeek-V4's layers of a sliding window are rotated by YaRN, which they are not trained with; None where
    it was not read."""
    patch_targets: dict[str, str] = Field(default_factory=dict)
    """Patch target of the plugin to "present", "missing" or "changed: ..."."""
    patch_families: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Model family that the plugin serves to the targets that it needs besides; what none names, every family needs."""


class Facts(Fact):
    """Everything gathered in one run."""

    schema_version: str = FACTS_SCHEMA_VERSION
    dsa_doctor_version: str
    origin: Literal["gathered", "handwritten"] = "gathered"
    """handwritten: facts of a machine that could not be had, written from documentation."""
    note: str | None = None
    gpus: Observation[GpuInventory]
    software: Observation[Software]
    cuda_toolkit: Observation[CudaToolkit]
    deep_gemm: Observation[DeepGemm]
    csrc: Observation[Csrc]
    selector: Observation[Selector]
    fingerprint: Observation[Fingerprint]
    vllm_import: Observation[str]
    """The version that vllm reports on import, or why it cannot be imported; unknown where it was not tried."""
    flashinfer_sm120: Observation[Sm120Kernels] = Observation[Sm120Kernels].unknown(
        "these facts were gathered by a dsa-doctor that did not read them"
    )
    settings: Observation[Settings] = Observation[Settings].unknown(
        "these facts were gathered by a dsa-doctor that did not record them"
    )
    """Unknown for another interpreter or a wheel: nobody knows under which settings it will serve."""
