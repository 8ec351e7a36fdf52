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
)

FINDINGS_BY_ID: dict[str, KnownFinding] = {known.id: known for known in KNOWN_FINDINGS}
