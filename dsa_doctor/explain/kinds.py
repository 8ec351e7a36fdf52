"""Failures that have nothing to do with the three layers, by what their messages have in common.

The texts are those of the libraries that raise them (torch, NCCL, huggingface_hub, vLLM, Docker, the kernel); which
file raises one does not matter. The first kind that matches counts: the more exact one stands first.
"""

import re
from typing import NamedTuple


class Kind(NamedTuple):
    """One kind of failure: its finding, what its text matches, and what it means."""

    id: str
    pattern: re.Pattern[str]
    what: str


def _kinds(finding_id: str, *rows: tuple[str, ...]) -> list[Kind]:
    """Return kinds from rows of what they are and the alternatives that tell them."""
    return [Kind(finding_id, re.compile("|".join(alternatives)), what) for what, *alternatives in rows]


KINDS: tuple[Kind, ...] = (
    *_kinds(
        "DSA939",
        (
            "the CUDA toolkit's nvcc is older than the kernel needs",
            r"NVCC version should be", r"nvcc.{0,40}too old",
        ),
        (
            "the kernel uses an instruction that this GPU does not have",
            r"requires \.target sm_\d",
        ),
        (
            "Triton's ptxas does not know this GPU, or is missing",
            r"[Pp][Tt][Xx][Aa][Ss].{0,80}(?:not found|fatal|error|died|[Ff]ailed|No such)", r"NoTritonPtxas",
            r"annot find ptxas", r"PTXASError", r"is not defined for option 'gpu-name'",
        ),
        (
            "nvcc finds no C++ compiler",
            r"ailed to preprocess host compiler properties", r"-ccbin=None",
        ),
        (
            "no CUDA toolkit (nvcc, CUDA_HOME) for a kernel that is compiled at run time",
            r"utomatically detect CUDA installation", r"No registered target detector found",
            r"CUDA_HOME (?:environment variable )?is not set", r"ould not find nvcc",
            r"nvcc.{0,40}(?:not found|No such file)", r"No such file or directory: '[^']{0,200}nvcc'",
            r"find_cuda_home", r"nvcc fatal",
        ),
        (
            "no C compiler, or no Python headers, for a kernel that is compiled at run time",
            r"ailed to find C compiler", r"Python\.h: No such file", r"cannot find -lcuda",
            r"unsupported GNU version", r"CalledProcessError.{0,80}(?:gcc|g\+\+|clang|/cc\b|nvcc)",
            r"No such file or directory: '(?:gcc|cc|c\+\+|g\+\+)'",
        ),
        (
            "the build of a kernel at run time failed",
            r"[Nn]inja(?: is required|: build stopped| build failed)", r"rror building extension",
            r"No such file or directory: '[^']{0,99}ninja'", r"No supported CUDA architectures found",
            r"FlashInfer requires GPUs with", r"hipcc.{0,60}(?:error|failed)", r"jit/compiler\.(?:hpp|cuh)",
        ),
        (
            "torch.compile failed",
            r"BackendCompilerFailed", r"InductorError", r"_inductor\.exc", r"LoweringException", r"TorchRuntimeError",
            r"_dynamo\.exc",
            r"^(?:Unsupported|UserError|ConstraintViolationError|DataDependentOutputException)\b.{0,400}dynamo",
        ),
    ),
    *_kinds(
        "DSA942",
        (
            "the container runtime knows no GPUs: the NVIDIA Container Toolkit is not installed or not set up",
            r"could not select device driver", r"unknown or invalid runtime name: nvidia", r"no known GPU vendor",
            r"cdi.{0,60}(?:unresolvable|not found)",
        ),
        (
            "the image cannot be pulled",
            r"manifest (?:for .{1,200} )?(?:unknown|not found)", r"pull access denied", r"ImagePullBackOff",
            r"ErrImagePull", r"failed to pull", r"no basic auth credentials", r"toomanyrequests",
        ),
        (
            "the image was built for another CPU architecture",
            r"[Ee]xec format error",
        ),
        (
            "the pod cannot be placed",
            r"Insufficient nvidia\.com/gpu", r"FailedScheduling", r"nodes are available",
        ),
    ),
    *_kinds(
        "DSA930",
        (
            "the container or the CUDA build wants a newer driver",
            r"unsatisfied condition: cuda", r"update your driver to a newer version",
        ),
        (
            "the driver is older than this CUDA",
            r"CUDA driver version is insufficient", r"cudaErrorInsufficientDriver",
            r"driver on your system is too old", r"unsupported toolchain", r"CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            r"forward compatibility was attempted", r"ERROR_SYSTEM_DRIVER_MISMATCH",
        ),
        (
            "the driver's library and its kernel module are of different versions",
            r"river/library version mismatch",
        ),
        (
            "no GPU, or no driver, is visible to the process",
            r"[Ff]ound no NVIDIA driver", r"No CUDA GPUs are available", r"NVIDIA-SMI has failed",
            r"ailed to infer device type", r"no CUDA-capable device", r"NVML_ERROR", r"NVMLError",
            r"libcuda\.so.{0,40}cannot open", r"Device string must not be empty",
            r"nvidia-container-cli: (?:initialization|detection) error", r"nvml error: driver not loaded",
        ),
    ),
    *_kinds(
        "DSA941",
        (
            "the GPU or its link has failed",
            r"fallen off the bus", r"GPU is lost", r"\bXid\b.{0,40}\b(?:48|63|64|74|79|92|94|95|119|120|140|149)\b",
            r"ncorrectable ECC", r"ECC error", r"NVLink.{0,40}(?:error|failed|fatal)",
            r"CUDA_ERROR_(?:ECC|HARDWARE|NVLINK|CONTAINED)", r"hardware stack error",
        ),
        (
            "the NVLink switch's service (Fabric Manager) is not running",
            r"system not yet initialized", r"ERROR_SYSTEM_NOT_READY",
            r"[Ff]abric ?[Mm]anager.{0,60}(?:not running|failed)",
        ),
        (
            "a kernel failed without saying why",
            r"unspecified launch failure", r"CUDA error: unknown error", r"CUDA_ERROR_LAUNCH_FAILED",
        ),
    ),
    *_kinds(
        "DSA935",
        (
            "shared memory (/dev/shm) is too small",
            r"dev/shm.{0,120}(?:No space|too small|full)", r"No space left.{0,80}(?:/dev/shm|shared memory|psm_)",
            r"SIGBUS", r"[Bb]us error", r"unable to (?:allocate|open) shared memory", r"insufficient shared memory",
        ),
        (
            "the disk is full",
            r"No space left on device", r"Disk quota exceeded", r"\bENOSPC\b", r"[Nn]ot enough (?:free )?disk space",
            r"disk is full",
        ),
        (
            "another process holds the port",
            r"[Aa]ddress already in use", r"EADDRINUSE", r"\[Errno 98\]",
            r"[Pp]ort \d{2,5} is (?:already )?(?:in use|not available|occupied)", r"bind on address.{0,80}in use",
            r"port is already allocated",
        ),
        (
            "files or folders may not be read or written",
            r"Permission denied", r"PermissionError", r"Read-only file system", r"Operation not permitted: '/",
        ),
        (
            "the process may not open more files",
            r"Too many open files",
        ),
        (
            "the process may not start more threads or processes",
            r"can't start new thread", r"Resource temporarily unavailable", r"pthread_create failed",
        ),
        (
            "the host's memory ran out",
            r"Cannot allocate memory", r"std::bad_alloc", r"^MemoryError", r"can't allocate memory",
            r"DefaultCPUAllocator", r"ENOMEM", r"pinned memory", r"cudaHostAlloc",
        ),
    ),
    *_kinds(
        "DSA936",
        (
            "the Hub refuses access to the model: it is gated or private, or the token is missing or wrong",
            r"GatedRepo", r"gated repo", r"401 Client Error", r"403 Client Error", r"403 Forbidden",
            r"Invalid (?:username or password|credentials|user token)", r"awaiting a review",
        ),
        (
            "the model or revision does not exist under that name",
            r"404 Client Error", r"RepositoryNotFound", r"Repository Not Found", r"RevisionNotFound",
            r"EntryNotFoundError(?!.*Local)", r"is not a local folder and is not a valid",
            r"is not a valid model identifier", r"Incorrect path_or_model_id", r"HFValidationError", r"Repo id must",
        ),
        (
            "the Hub cannot be reached, and the model is not on this machine",
            r"couldn't connect to", r"LocalEntryNotFound", r"outgoing traffic has been disabled",
            r"OfflineModeIsEnabled", r"Temporary failure in name resolution", r"Name or service not known",
            r"(?:huggingface|hf\.co|modelscope|hf-mirror).{0,200}(?:[Tt]ime(?:d )?out|Max retries|refused|reset)",
            r"(?:Max retries exceeded|ReadTimeout|ConnectTimeout|timed out).{0,200}(?:huggingface|hf\.co|"
            r"modelscope|hf-mirror)", r"429 Client Error", r"Too Many Requests for url", r"MaxRetryError",
            r"ProxyError", r"SSLCertVerificationError", r"CERTIFICATE_VERIFY_FAILED",
        ),
        (
            "the model's code must be allowed to run, or must not be run",
            r"trust_remote_code", r"contains custom code which must be executed",
        ),
        (
            "a file of the model is damaged or only half downloaded",
            r"SafetensorError", r"MetadataIncompleteBuffer", r"HeaderTooLarge", r"InvalidHeader",
            r"header too (?:large|small)", r"invalid load key", r"PytorchStreamReader failed",
            r"not a valid (?:checkpoint|safetensors)", r"Error while deserializing", r"Consistency check failed",
            r"git-lfs", r"file is corrupt",
        ),
        (
            "the chat template is missing or does not fit",
            r"chat[ _]template", r"TemplateError", r"TemplateSyntaxError", r"UndefinedError.{0,80}(?:message|role)",
            r"jinja2?",
        ),
        (
            "the tokenizer cannot be loaded",
            r"(?:load|instantiate|convert|initiali[sz]e).{0,60}[Tt]okenizer", r"[Tt]okenizer class",
            r"TokenizersBackend", r"Unable to load vocabulary", r"data did not match any variant", r"sentencepiece",
            r"tiktoken",
        ),
        (
            "a file of the model is missing",
            r"does not appear to have (?:a )?files? named", r"Cannot find any model weights",
            r"No such file or directory: '[^']{0,300}(?:config\.json|\.safetensors|\.gguf|tokenizer)",
            r"Can't load the configuration", r"no file named", r"Error no file", r"failed to load model",
            r"unable to load model", r"error loading model(?!.*architecture)",
        ),
    ),
    *_kinds(
        "DSA940",
        (
            "a weight of the checkpoint and the model's code do not match",
            r"no module or parameter named", r"were not initialized from checkpoint", r"size mismatch for",
            r"[Mm]issing keys?\b", r"[Uu]nexpected keys?\b", r"ttempted to load weight", r"loaded_weight",
            r"KeyError: '(?:model\.|language_model\.|layers\.|mtp|lm_head|transformer\.)[^']{1,200}'",
            r"Unrecognized weight", r"weight_loader", r"wrong number of tensors", r"missing tensor",
            r"parameter '?\w{0,80}'? not found in (?:model|params)",
        ),
    ),
    *_kinds(
        "DSA937",
        (
            "dsa-doctor's plugin does not serve the model so",
            r"(?:NotImplemented|Value)Error: dsa-doctor(?:'s| serves| compresses)",
        ),
        (
            "an option is not known or not allowed",
            r"error: (?:unrecognized arguments|argument |the following arguments|ambiguous option|"
            r"one of the arguments)", r"invalid choice", r"unexpected keyword argument '", r"No such option",
            r"Unknown (?:argument|option|flag)", r"unknown argument",
        ),
        (
            "the quantisation is not supported here",
            r"quantization.{0,120}(?:not supported|[Mm]inimum capability|[Uu]nknown|does not match|"
            r"not.{0,20}(?:implemented|available))", r"[Mm]inimum capability", r"[Uu]nknown quantization",
            r"nsupported quant", r"No (?:compressed-tensors )?(?:compatible )?scheme",
            r"does not support.{0,40}(?:fp8|fp4|int4|nvfp4|mxfp4|quant)",
            r"(?:[Nn]v)?[Ff][Pp][48].{0,80}(?:requires|only supported|not supported|is not available)",
            r"(?:ll experts kernels|o (?:FP8|FP4|NvFp4|Mxfp4|NVFP4|MXFP4).{0,20}backend).{0,100}",
        ),
        (
            "the context length is larger than the model or the memory allows",
            r"(?:max_model_len|max_seq_len|max-model-len|context.length).{0,160}(?:greater|larger|exceed|too)",
        ),
        (
            "the number of ranks does not divide what they share",
            r"(?:must be|not) (?:evenly )?divisible by", r"cannot be (?:evenly )?divided",
            r"divisible by tensor parallel", r"is not divisible",
        ),
        (
            "there are fewer GPUs than ranks",
            r"(?:[Ww]orld size|tensor.parallel|ranks?|TP).{0,120}(?:larger|greater|exceed|more) .{0,60}(?:GPU|"
            r"device)", r"invalid device ordinal", r"number of (?:required )?GPUs",
            r"[Nn]ot enough (?:visible |available )?(?:GPU|device)",
        ),
        (
            "the model's class is not known to this engine",
            r"[Mm]odel architectures? .{0,200}(?:not supported|failed to be inspected)",
            r"has no vLLM implementation", r"does not recognize this architecture", r"[Uu]nsupported model",
            r"unknown model architecture", r"model type .{0,80}(?:not|does not)", r"is not supported for now",
            r"Cannot find model (?:class|module)",
        ),
        (
            "a configuration was refused",
            r"[Vv]alidation errors? for", r"ValidationError", r"ArgumentError", r"ArgumentTypeError",
            r"is not a valid (?:value|choice|option)", r"Invalid value for", r"HfArgumentParser",
            r"Unknown vLLM attention backend", r"Invalid (?:attention )?backend",
            r"not (?:currently |yet )?(?:supported|compatible|implemented) (?:with|for|by|in combination|when|on)\b",
        ),
    ),
    *_kinds(
        "DSA933",
        (
            "a process waited for another until its time was over",
            r"RPC call to \w{1,80} timed out",
            r"[Tt]imed out waiting for (?:engine|the engine|worker|model|server|condition)",
            r"did not (?:start|respond|become).{0,60}(?:within|in time|seconds)", r"READY_TIMEOUT",
            r"execute_model timed out", r"[Ww]atchdog (?:timeout|caught)", r"scheduler watchdog", r"[Ss]oft watchdog",
            r"forward pass.{0,40}timed? ?out", r"No available shared memory broadcast",
        ),
    ),
    *_kinds(
        "DSA938",
        (
            "a Ray worker or node was lost",
            r"ActorDied", r"ActorUnavailable", r"RayActorError", r"WorkerCrashed", r"NodeDied", r"marked dead",
            r"[Rr]aylet.{0,80}(?:died|crash|fail)", r"ctor died", r"GetTimeoutError",
            r"Ray cluster.{0,80}(?:not|fail)", r"RaySystemError",
            r"placement group.{0,120}(?:time|cannot|not|infeasible)", r"ObjectLost", r"OwnerDied", r"ray\.init",
            r"LocalRayletDied",
        ),
        (
            "NCCL failed",
            r"NCCL (?:error|failure|WARN.{0,80}(?:fail|error))",
            r"nccl\w*(?:Unhandled\w*|System|Internal|Remote|InvalidUsage|InvalidArgument)Error", r"DistBackendError",
            r"unhandled (?:system|cuda) error", r"ncclComm\w*.{0,40}fail",
        ),
        (
            "the processes do not reach one another",
            r"Gloo connect", r"gloo/transport", r"connectFullMesh", r"TCPStore", r"DistNetworkError",
            r"DistStoreError", r"RendezvousTimeout", r"Rendezvous\w*Error", r"client socket has (?:timed out|failed)",
            r"[Tt]imed out (?:trying to connect|after \d+ seconds waiting for clients)", r"wait timeout after",
            r"onnection closed by (?:remote )?peer", r"onnection reset by peer", r"No route to host",
            r"Network is unreachable", r"onnection refused", r"IBGDA", r"NVSHMEM", r"DeepEP",
        ),
    ),
    *_kinds(
        "DSA932",
        (
            "the kernel or the container's memory limit killed the process (out of memory on the host)",
            r"OOMKilled", r"oom-kill", r"ut of memory: Kill", r"Memory cgroup out of memory", r"invoked oom-killer",
        ),
        (
            "the process was evicted",
            r"\bEvicted\b", r"was low on resource", r"[Pp]reempt(?:ed|ing) (?:by|instance|node)", r"spot instance",
        ),
        (
            "the process was killed by SIGKILL: by the out-of-memory killer, or by who started it",
            r"SIGKILL", r"[Ss]ignal:? ?\(?9\b", r"exit(?:ed)?.{0,20}\b137\b", r"exitcode\s*:? -9\b",
            r"^\s*(?:\S{1,80}: )?(?:line \d+:\s+\d+ )?Killed\b",
        ),
        (
            "it was interrupted from the keyboard",
            r"KeyboardInterrupt", r"\bSIGINT\b",
        ),
        (
            "the process was asked to end (SIGTERM)",
            r"SIGTERM", r"[Ss]ignal:? ?\(?15\b", r"exitcode\s*:? -15\b", r"exit(?:ed)?.{0,20}\b143\b",
        ),
    ),
    *_kinds(
        "DSA944",
        (
            "compiled code read or wrote where it must not (segmentation fault)",
            r"[Ss]egmentation fault", r"SIGSEGV", r"exitcode\s*:? -11\b", r"exit.{0,20}\b139\b",
            r"[Ss]ignal:? ?\(?11\b",
        ),
        (
            "the CPU lacks an instruction that compiled code uses",
            r"[Ii]llegal instruction", r"SIGILL", r"exitcode\s*:? -4\b", r"exit.{0,20}\b132\b",
        ),
        (
            "compiled code gave up (abort)",
            r"SIGABRT", r"\bAborted\b", r"terminate called", r"core dumped", r"exitcode\s*:? -6\b",
            r"exit.{0,20}\b134\b", r"[Ss]ignal:? ?\(?6\b", r"free\(\): ", r"malloc\(\): ", r"double free",
            r"corrupted size", r"stack smashing", r"GGML_ASSERT",
        ),
        (
            "the interpreter itself failed",
            r"Fatal Python error",
        ),
    ),
    *_kinds(
        "DSA942",
        (
            "the container runtime refused",
            r"rror response from daemon", r"OCI runtime", r"nvidia-container-cli: .{0,40}error",
        ),
    ),
)  # fmt: skip


def kind_of(text: str) -> Kind | None:
    """Return the first kind that a message belongs to; `text` should be at most a few thousand characters."""
    return next((kind for kind in KINDS if kind.pattern.search(text)), None)
