"""What each finding of a log means and what helps: data, no judgement."""

from dataclasses import dataclass

_REINSTALL = "pip install --force-reinstall --no-deps vllm   # a stock wheel is built with every op"
_PLUGIN = "pip install dsa-doctor   # its vLLM plugin serves this part on compute capability 8.x"
_CHECK = "dsa-doctor check MODEL --target a100   # names every layer that stands in the way"


@dataclass(frozen=True)
class Cause:
    """One failure.

    Attributes:
        summary: a sentence; {names} are filled from what was seen, and vanish where nothing was.
        remedy: commands or sentences, the nearest remedy first.
        by_plugin: whether dsa-doctor's plugin removes it where it serves; None: that depends on the kernel.
    """

    summary: str
    remedy: tuple[str, ...] = ()
    by_plugin: bool | None = False


CAUSES: dict[str, Cause] = {
    "DSA101": Cause(
        "The compiled code carries no kernel image for this GPU{where}: it was built for other architectures.",
        ("install a wheel or image of vLLM and torch that is built for this GPU", _CHECK),
    ),
    "DSA103": Cause(
        "The compiled extension {extension} needs {symbol}, which was not compiled into it: a source build whose "
        "architecture list leaves that op out.",
        (_REINSTALL, "source build: add 9.0a and 10.0f to TORCH_CUDA_ARCH_LIST and build afresh"),
    ),
    "DSA105": Cause("The compiled extension {module} is not installed.", (_REINSTALL,)),
    "DSA106": Cause(
        "torch knows no CUDA implementation of {op}: vLLM's compiled extension was not loaded, or lacks it.",
        (
            "python -c 'import vllm._C'   # shows why it does not load (vllm._C_stable_libtorch in newer wheels)",
            _REINSTALL,
        ),
    ),
    "DSA107": Cause(
        "The compiled extension {extension} was built against another torch: {symbol} is a symbol of torch that the "
        "installed one does not have.",
        ("pip install vllm   # together with the torch that it pins, or build vLLM against the installed torch",),
    ),
    "DSA108": Cause(
        "The compiled extension {extension} does not find {symbol} of the CUDA libraries: another CUDA release is "
        "installed or found first.",
        (
            "install the vLLM wheel for the CUDA release that torch uses",
            "unset LD_LIBRARY_PATH   # if it names another CUDA",
        ),
    ),
    "DSA201": Cause("vLLM's selector found no backend for sparse MLA ({what}).{hint}", (_PLUGIN, _CHECK), True),
    "DSA205": Cause("The KV cache dtype {dtype} alone rules out {names}.", ("--kv-cache-dtype bfloat16",), True),
    "DSA207": Cause(
        "A backend that was asked for, or preferred by the platform, cannot do sparse MLA here ({what}).",
        ("leave out --attention-backend: vLLM then takes one that is valid", _PLUGIN),
    ),
    "DSA208": Cause("A FlashMLA kernel refuses this GPU: {what}.", (_PLUGIN, _CHECK), True),
    "DSA209": Cause(
        "FlashMLA's extension {module} is not in this build of vLLM.",
        (_REINSTALL, "below compute capability 9.0 it cannot be used: " + _PLUGIN),
        True,
    ),
    "DSA210": Cause(
        "FlashInfer's trtllm-gen attention kernels refuse this GPU: they exist for compute capability 10.x alone.",
        ("vLLM: leave out --attention-backend; sglang: choose another DSA/NSA prefill and decode backend", _PLUGIN),
        True,
    ),
    "DSA211": Cause(
        "Dense MHA prefill was chosen for a sparse-MLA backend that does not implement it (forward_mha).",
        (
            "--attention-config '{{\"sparse_mla_force_mqa\": true}}'   # keeps prefill on the sparse path",
            "pip install -U vllm",
        ),
        True,
    ),
    "DSA212": Cause(
        "The sparse-MLA kernel has no variant for this shape: {what}",
        ("change --tensor-parallel-size, so that another number of heads falls to each rank", _CHECK),
    ),
    "DSA213": Cause(
        "The sparse-MLA backend fails with an error that has no page of its own: {what}.",
        ("pip install -U vllm   # or another --attention-backend", _CHECK),
        None,
    ),
    "DSA301": Cause(
        "The indexer calls DeepGEMM{via}, and DeepGEMM does not support this GPU, although it is installed.",
        (_PLUGIN, _CHECK),
        True,
    ),
    "DSA302": Cause(
        "The sparse-attention indexer needs DeepGEMM, and none can be used here.",
        (
            "compute capability 9.0 or 10.x: install DeepGEMM and a CUDA toolkit, or a vLLM wheel that vendors it",
            _PLUGIN,
        ),
        True,
    ),
    "DSA303": Cause(
        "The sparse-attention indexer needs DeepGEMM, which is installed and cannot be imported.",
        (
            "GPU of compute capability 9.0 or 10.x: install a CUDA toolkit, set CUDA_HOME, and match DeepGEMM to torch",
            _PLUGIN,
        ),
        True,
    ),
    "DSA307": Cause(
        "DeepGEMM rejects what the indexer gave it{via}: {what}.",
        ("match the versions of DeepGEMM and vLLM (or sglang): a stock wheel vendors its own",),
        True,
    ),
    "DSA308": Cause(
        "The sparse-attention indexer fails with an error that has no page of its own: {what}.",
        ("pip install -U vllm", _CHECK),
        None,
    ),
    "DSA901": Cause(
        "Triton refuses the type fp8e4nv{kernel_text}: it exists from compute capability 8.9 on.",
        ("FP8 weights: let Marlin serve them (--linear-backend marlin, --moe-backend marlin)", _PLUGIN),
        None,
    ),
    "DSA904": Cause(
        "The installed {who} is too old to know {architecture}.",
        ("pip install -U vllm transformers",),
    ),
    "DSA908": Cause("vLLM is not installed in the environment that was started.", ("pip install vllm",)),
    "DSA920": Cause(
        "{what} was compiled or loaded for the first time while a CUDA graph was being captured{where_text}.",
        ("--enforce-eager   # to confirm", "warm the kernel up with the captured shapes before the capture"),
    ),
    "DSA921": Cause(
        "A kernel accessed memory outside its allocations{where_text}. CUDA reports this late: the place is a hint.",
        (
            "CUDA_LAUNCH_BLOCKING=1   # names the kernel",
            "try without speculative decoding and with a shorter --max-model-len",
        ),
    ),
    "DSA922": Cause(
        "A kernel's tile wants {needed} bytes of shared memory{limit_text}, more than a block may have here.",
        ("choose another backend for this part, or smaller tiles: 8.0 allows 166912 bytes, 8.6, 8.9 and 12.x 101376",),
        None,
    ),
    "DSA923": Cause(
        "GPU memory ran out{size_text}.",
        ("lower --max-model-len, --max-num-seqs or --gpu-memory-utilization, or raise --tensor-parallel-size",),
    ),
    "DSA924": Cause(
        "The weights leave too little GPU memory for the KV cache.",
        ("lower --max-model-len or raise --gpu-memory-utilization", "raise --tensor-parallel-size, or offload weights"),
    ),
    "DSA925": Cause(
        "Ranks waited for each other until the NCCL watchdog gave up; the log shows no earlier error{backend_text}.",
        ("look at the log of every rank for an earlier error", "NCCL_DEBUG=INFO TORCH_NCCL_TRACE_BUFFER_SIZE=2000"),
    ),
    "DSA926": Cause(
        "{weight} has no counterpart in the checkpoint: its layers share an indexer, which this vLLM does not know.",
        ("pip install -U vllm   # one that reads indexer_types (GLM-5.2's IndexShare)",),
    ),
    "DSA927": Cause(
        "DeepGEMM fails outside the indexer ({api}).",
        ("VLLM_USE_DEEP_GEMM=0   # FP8 products then take another kernel; the indexer still asks for DeepGEMM",),
    ),
    "DSA928": Cause(
        "An attention backend fails for a configuration that has no sparse attention: {what}.",
        ("leave out --attention-backend, or choose one that supports the head size, dtype and GPU",),
    ),
    "DSA929": Cause(
        "The extension of another package cannot be loaded: {extension}, {symbol}.",
        ("reinstall that package for the installed torch and CUDA",),
    ),
    "DSA930": Cause(
        "The NVIDIA driver does not serve this CUDA: {what}.",
        ("update the driver, or install builds for the CUDA release that it supports",),
    ),
}
