"""Every finding id that dsa-doctor can give. Ids are append-only; each has a page docs/checks/<id>.md."""

from dataclasses import dataclass

from dsa_doctor.verdict.schema import FindingLayer


@dataclass(frozen=True)
class KnownFinding:
    """One finding id, the layer it belongs to, and what it is about."""

    id: str
    layer: FindingLayer
    title: str


KNOWN_FINDINGS: tuple[KnownFinding, ...] = (
    KnownFinding("DSA101", "csrc", "Compiled code for this GPU"),
    KnownFinding("DSA102", "csrc", "An op that a DSA model needs has no code for this GPU"),
    KnownFinding("DSA103", "csrc", "Undefined symbols that nothing provides"),
    KnownFinding("DSA104", "csrc", "dsv3_fused_a_gemm has no code for this GPU"),
    KnownFinding("DSA105", "csrc", "A compiled extension is missing, truncated or unreadable"),
    KnownFinding("DSA106", "csrc", "Ops that torch has really registered for CUDA"),
    KnownFinding("DSA107", "csrc", "A compiled extension does not match the installed torch"),
    KnownFinding("DSA108", "csrc", "A compiled extension finds no matching CUDA library"),
    KnownFinding("DSA109", "csrc", "A compiled op fails with an error of its own"),
    KnownFinding("DSA201", "attention", "No sparse-MLA backend for this GPU"),
    KnownFinding("DSA202", "attention", "A native sparse-MLA backend serves this GPU"),
    KnownFinding("DSA203", "attention", "TRITON_MLA_SPARSE of dsa-doctor's plugin serves this GPU"),
    KnownFinding("DSA204", "attention", "vLLM's backend selector could not be asked"),
    KnownFinding("DSA205", "attention", "The KV cache dtype rules the backend out"),
    KnownFinding("DSA206", "attention", "vLLM has a TRITON_MLA_SPARSE of its own"),
    KnownFinding("DSA207", "attention", "A backend asked for by name is not valid here"),
    KnownFinding("DSA208", "attention", "A FlashMLA kernel refuses this GPU"),
    KnownFinding("DSA209", "attention", "FlashMLA's extension is not in this build"),
    KnownFinding("DSA210", "attention", "trtllm-gen attention kernels refuse this GPU"),
    KnownFinding("DSA211", "attention", "Dense prefill was chosen for a backend that has none"),
    KnownFinding("DSA212", "attention", "The sparse-MLA kernel has no variant for this shape"),
    KnownFinding("DSA213", "attention", "The sparse-MLA backend fails with an error of its own"),
    KnownFinding("DSA214", "attention", "dsa-doctor's sparse-MLA op computes wrongly on this GPU"),
    KnownFinding("DSA215", "attention", "FlashInfer's kernels for compute capability 12.x, and when they hang"),
    KnownFinding("DSA301", "indexer", "DeepGEMM does not support this GPU"),
    KnownFinding("DSA302", "indexer", "DeepGEMM is not installed"),
    KnownFinding("DSA303", "indexer", "DeepGEMM is installed and cannot be imported"),
    KnownFinding("DSA304", "indexer", "DeepGEMM serves the indexer"),
    KnownFinding("DSA305", "indexer", "dsa-doctor's plugin serves the indexer"),
    KnownFinding("DSA306", "indexer", "The indexer's guard could not be judged"),
    KnownFinding("DSA307", "indexer", "DeepGEMM rejects the indexer's arguments"),
    KnownFinding("DSA308", "indexer", "The indexer fails with an error of its own"),
    KnownFinding("DSA309", "indexer", "An indexer op of dsa-doctor computes wrongly on this GPU"),
    KnownFinding("DSA901", "runtime", "Triton kernels that use fp8e4nv below compute capability 8.9"),
    KnownFinding("DSA902", "runtime", "Top-k op that can select the wrong tokens"),
    KnownFinding("DSA903", "runtime", "The checkpoint forces an fp8 KV cache"),
    KnownFinding("DSA904", "runtime", "Model class that this vLLM picks"),
    KnownFinding("DSA905", "runtime", "No CUDA toolkit where DeepGEMM compiles at run time"),
    KnownFinding("DSA906", "runtime", "Dense prefill casts its input to the int32 of Marlin weights"),
    KnownFinding("DSA907", "runtime", "GPUs of several compute capabilities"),
    KnownFinding("DSA908", "runtime", "vLLM is not installed or cannot be imported"),
    KnownFinding("DSA909", "runtime", "torch has no CUDA, or is missing"),
    KnownFinding("DSA910", "runtime", "The model could not be determined"),
    KnownFinding("DSA911", "runtime", "No GPU and no target"),
    KnownFinding("DSA912", "runtime", "The model uses no DeepSeek Sparse Attention"),
    KnownFinding("DSA913", "runtime", "Start-up warm-up compiles a kernel for fp8 below compute capability 8.9"),
    KnownFinding("DSA914", "runtime", "What keeps dsa-doctor's plugin from serving this model here"),
    KnownFinding("DSA915", "runtime", "The GPUs could not be read"),
    KnownFinding("DSA916", "runtime", "Settings of the environment that serves"),
    KnownFinding("DSA917", "runtime", "Quantised weights that this vLLM cannot load"),
    KnownFinding("DSA918", "runtime", "The manifest pins another vLLM than the one judged"),
    KnownFinding("DSA919", "runtime", "What dsa-doctor serves without having run it on a GPU"),
    KnownFinding("DSA920", "runtime", "A kernel was compiled or loaded during CUDA graph capture"),
    KnownFinding("DSA921", "runtime", "A kernel read or wrote outside its memory"),
    KnownFinding("DSA922", "runtime", "A kernel's tile needs more shared memory than the GPU has"),
    KnownFinding("DSA923", "runtime", "GPU memory ran out"),
    KnownFinding("DSA924", "runtime", "No memory is left for the KV cache"),
    KnownFinding("DSA925", "runtime", "The ranks hang, and the NCCL watchdog gave up"),
    KnownFinding("DSA926", "runtime", "Indexer weights that the checkpoint does not have"),
    KnownFinding("DSA927", "runtime", "DeepGEMM fails outside the indexer"),
    KnownFinding("DSA928", "runtime", "An attention backend fails for a model without sparse attention"),
    KnownFinding("DSA929", "runtime", "Another package's extension cannot be loaded"),
    KnownFinding("DSA930", "runtime", "The NVIDIA driver is missing or too old"),
    KnownFinding("DSA931", "runtime", "A failure that is not known here"),
    KnownFinding("DSA932", "runtime", "The process was ended from outside"),
    KnownFinding("DSA933", "runtime", "No progress: a hang, a loop or a time limit"),
    KnownFinding("DSA934", "runtime", "The log is cut off: it does not hold the cause"),
    KnownFinding("DSA935", "runtime", "Disk, port, permissions or limits of the machine"),
    KnownFinding("DSA936", "runtime", "The model's files, the Hub, the tokenizer or the chat template"),
    KnownFinding("DSA937", "runtime", "An option or a combination of settings is refused"),
    KnownFinding("DSA938", "runtime", "Processes or nodes lost or never found each other"),
    KnownFinding("DSA939", "runtime", "A kernel could not be compiled at run time"),
    KnownFinding("DSA940", "runtime", "The checkpoint and the model's code do not match"),
    KnownFinding("DSA941", "runtime", "The GPU, its link or its driver failed"),
    KnownFinding("DSA942", "runtime", "The container does not start"),
    KnownFinding("DSA943", "runtime", "The target and the log's GPU contradict each other"),
    KnownFinding("DSA944", "runtime", "Compiled code crashed the process"),
    KnownFinding("DSA945", "runtime", "No CUDA compiler where TileLang compiles mHC's kernels"),
    KnownFinding("DSA946", "runtime", "Pooled index keys that can be of the wrong tokens"),
)

FINDINGS_BY_ID: dict[str, KnownFinding] = {known.id: known for known in KNOWN_FINDINGS}

_TROUBLES = {
    "DSA101": "the wheel has no code for this GPU",
    "DSA102": "an op that the model needs has no code for this GPU",
    "DSA103": "a compiled extension has undefined symbols",
    "DSA104": "dsv3_fused_a_gemm has no code for this GPU",
    "DSA105": "a compiled extension is missing or damaged",
    "DSA106": "torch has not registered an op for CUDA",
    "DSA107": "a compiled extension does not match torch",
    "DSA108": "a compiled extension finds no matching CUDA library",
    "DSA201": "no attention backend serves sparse MLA here",
    "DSA202": "a native attention backend serves it",
    "DSA203": "dsa-doctor's attention backend serves it",
    "DSA204": "vLLM's backend selector could not be asked",
    "DSA205": "the KV cache dtype rules the attention backend out",
    "DSA206": "vLLM has a TRITON_MLA_SPARSE of its own",
    "DSA207": "the attention backend asked for is not valid here",
    "DSA215": "FlashInfer's kernels for this GPU can hang",
    "DSA214": "dsa-doctor's sparse-MLA op computes wrongly here",
    "DSA301": "the indexer calls DeepGEMM, which does not support this GPU",
    "DSA302": "the indexer needs DeepGEMM, which is not installed",
    "DSA303": "DeepGEMM cannot be imported",
    "DSA304": "DeepGEMM serves the indexer",
    "DSA305": "dsa-doctor's plugin serves the indexer",
    "DSA306": "the indexer's guard could not be judged",
    "DSA309": "an indexer op of dsa-doctor computes wrongly here",
    "DSA901": "Triton kernels use an fp8 type that this GPU lacks",
    "DSA902": "the top-k op can select wrong tokens",
    "DSA903": "the checkpoint forces an fp8 KV cache",
    "DSA904": "this vLLM does not serve the model's architecture here",
    "DSA905": "no CUDA toolkit, and DeepGEMM compiles at run time",
    "DSA906": "dense prefill casts to the int32 of Marlin weights",
    "DSA907": "the GPUs have several compute capabilities",
    "DSA908": "vLLM is not installed, or cannot be imported",
    "DSA909": "torch has no CUDA, or is missing",
    "DSA910": "the model could not be read",
    "DSA911": "no GPU here, and no --target given",
    "DSA912": "the model uses no DeepSeek Sparse Attention",
    "DSA913": "the warm-up compiles a kernel for an fp8 type that this GPU lacks",
    "DSA914": "dsa-doctor's plugin does not serve this model here",
    "DSA915": "the GPUs could not be read",
    "DSA916": "a setting of the environment stands in the way",
    "DSA918": "the manifest pins another vLLM",
    "DSA919": "no GPU has run this model under the plugin yet",
    "DSA945": "no CUDA compiler, and TileLang compiles mHC's kernels at run time",
    "DSA946": "index keys can be pooled from the wrong tokens",
}
"""What is the matter where a finding does not pass, in a few words after a colon; else its title says it already."""


def trouble_of(finding_id: str) -> str:
    """Return what is the matter where a finding does not pass, in a few words."""
    known = FINDINGS_BY_ID.get(finding_id)
    return _TROUBLES.get(finding_id) or (known.title[:1].lower() + known.title[1:] if known else finding_id)
