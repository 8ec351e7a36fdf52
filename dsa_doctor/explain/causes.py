"""What each finding of a log means and what helps: data, no judgement."""

from dataclasses import dataclass
from typing import NamedTuple

from dsa_doctor.explain.remedies import Remedy

_REINSTALL = Remedy(
    "pip install --force-reinstall --no-deps vllm   # a stock wheel is built with every op", engine="vllm", need="cuda"
)
_PLUGIN = Remedy(
    "{install}; its plugin serves this part on compute capability 8.x",
    engine="vllm",
    need="plugin",
)
_CHECK = Remedy("dsa-doctor check {model}{target}   # names every layer that stands in the way", engine="vllm")
_UPGRADE = Remedy("pip install -U vllm", engine="vllm")
_UPGRADE_SGLANG = Remedy("pip install -U sglang   # and the sgl-kernel of the same release", engine="sglang")
_NO_BACKEND_NAMED = Remedy("leave out --attention-backend: vLLM then takes one that is valid", engine="vllm")
_SGLANG_BACKENDS = Remedy(
    "choose other backends: --nsa-prefill-backend, --nsa-decode-backend (--dsa-... in newer releases)", engine="sglang"
)
_ELSEWHERE = Remedy("see `dsa-doctor check {model}{target}` for what this GPU needs", engine="vllm")


class Possible(NamedTuple):
    """One of several causes that look alike in a log, and what tells it apart."""

    cause: str
    told_by: str


@dataclass(frozen=True)
class Cause:
    """One failure.

    Attributes:
        summary: a sentence; {names} are filled from what was seen, and vanish where nothing was.
        remedy: commands or sentences, the nearest remedy first.
        by_plugin: whether dsa-doctor's plugin removes it where it serves; None: that depends on the kernel.
        dsa: whether it is a problem of DeepSeek Sparse Attention; None: that cannot be told from the log.
        possible: where a log alone cannot decide between causes, each of them.
        collect: what to gather next, where the cause itself is not known.
    """

    summary: str
    remedy: tuple[Remedy | str, ...] = ()
    by_plugin: bool | None = False
    dsa: bool | None = True
    possible: tuple[Possible, ...] = ()
    collect: tuple[str, ...] = ()


_WHOLE_LOG = "the whole log from the start, of every rank and node, with the first error in it"
_VERSIONS = "versions and GPU: `dsa-doctor facts > facts.json` on that machine"
_FLAGS = "the command line or the `non-default args` line, and the model's exact name"
_STACKS = "stacks of the processes that hang: py-spy dump --pid PID (needs --cap-add SYS_PTRACE in a container)"

CAUSES: dict[str, Cause] = {
    "DSA101": Cause(
        "The compiled code carries no kernel image for this GPU{where}: it was built for other architectures.",
        ("install a wheel or image that is built for this GPU: engine and torch both", _CHECK),
        possible=(
            Possible("the engine's own extension lacks it", "`dsa-doctor check` names architectures and extension"),
            Possible("torch itself lacks it", "python -c 'import torch; print(torch.cuda.get_arch_list())'"),
        ),
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
    "DSA109": Cause(
        "A compiled custom op fails with an error that is not known here: {what}.{place_text}",
        (_UPGRADE, _UPGRADE_SGLANG, _CHECK),
        None,
        None,
        collect=("CUDA_LAUNCH_BLOCKING=1 and the traceback that it gives", _VERSIONS, _FLAGS),
    ),
    "DSA201": Cause(
        "vLLM's selector found no backend for sparse MLA ({what}).{nearest}{hint}", (_PLUGIN, _CHECK), True
    ),
    "DSA205": Cause(
        "The KV cache dtype {dtype} alone rules out {names}.",
        (
            Remedy("--kv-cache-dtype bfloat16", engine="vllm"),
            Remedy("--kv-cache-dtype bf16", engine="sglang"),
        ),
        True,
    ),
    "DSA207": Cause(
        "A backend that was asked for, or preferred by the platform, cannot do sparse MLA here ({what}).",
        (_NO_BACKEND_NAMED, _SGLANG_BACKENDS, _PLUGIN, _ELSEWHERE),
    ),
    "DSA208": Cause("A FlashMLA kernel refuses this GPU: {what}.", (_PLUGIN, _SGLANG_BACKENDS, _CHECK), True),
    "DSA209": Cause(
        "FlashMLA's extension {module} is not in this build of vLLM.",
        (
            Remedy(_REINSTALL.text, engine="vllm", need="9.0 or 10.x"),
            _PLUGIN,
            _CHECK,
        ),
        True,
        possible=(
            Possible("the build leaves FlashMLA out", "the GPU is of compute capability 9.0 or 10.x"),
            Possible("FlashMLA does not exist for the GPU", "its compute capability is any other"),
        ),
    ),
    "DSA210": Cause(
        "FlashInfer's trtllm-gen attention kernels refuse this GPU: they exist for compute capability 10.x alone.",
        (_NO_BACKEND_NAMED, _SGLANG_BACKENDS, _PLUGIN),
        True,
    ),
    "DSA211": Cause(
        "Dense MHA prefill was chosen for a sparse-MLA backend that does not implement it (forward_mha).",
        (
            Remedy(
                "--attention-config '{\"sparse_mla_force_mqa\": true}'   # keeps prefill on the sparse path",
                engine="vllm",
            ),
            _UPGRADE,
        ),
        True,
    ),
    "DSA212": Cause(
        "The sparse-MLA kernel has no variant for this shape: {what}",
        (
            Remedy(
                "change --tensor-parallel-size, or the number of drafted tokens: another number of heads per rank then",
                engine="vllm",
            ),
            Remedy("change --tp-size or the number of drafted tokens", engine="sglang"),
            _CHECK,
        ),
    ),
    "DSA213": Cause(
        "The sparse-MLA backend fails with an error that is not known here: {what}.{place_text}",
        (
            Remedy("another --attention-backend, if the GPU has one", engine="vllm"),
            _SGLANG_BACKENDS,
            _UPGRADE,
            _UPGRADE_SGLANG,
            _CHECK,
        ),
        None,
        collect=(_FLAGS, _VERSIONS, "the versions of FlashInfer and FlashMLA: pip list | grep -i flash"),
    ),
    "DSA301": Cause(
        "The indexer calls DeepGEMM{via}, and DeepGEMM does not support this GPU, although it is installed.",
        (_PLUGIN, _CHECK, _SGLANG_BACKENDS),
        True,
    ),
    "DSA302": Cause(
        "The sparse-attention indexer needs DeepGEMM, and none can be used here.",
        (
            Remedy(
                "compute capability 9.0 or 10.x: install DeepGEMM and a CUDA toolkit, or a vLLM wheel that vendors it",
                need="9.0 or 10.x",
            ),
            _PLUGIN,
            _CHECK,
        ),
        True,
        possible=(
            Possible("DeepGEMM is not installed", "`python -c 'import deep_gemm'` finds no module"),
            Possible(
                "it is installed and its import fails", "that command shows another error, often a missing CUDA_HOME"
            ),
        ),
    ),
    "DSA303": Cause(
        "The sparse-attention indexer needs DeepGEMM, which is installed and cannot be imported.",
        (
            Remedy("install a CUDA toolkit, set CUDA_HOME, and match DeepGEMM to torch", need="9.0 or 10.x"),
            _PLUGIN,
            _CHECK,
        ),
        True,
    ),
    "DSA307": Cause(
        "DeepGEMM rejects what the indexer gave it{via}: {what}.",
        ("match the versions of DeepGEMM and the engine: a stock wheel vendors its own", _UPGRADE, _UPGRADE_SGLANG),
        True,
    ),
    "DSA308": Cause(
        "The sparse-attention indexer fails with an error that is not known here: {what}.{place_text}",
        (_UPGRADE, _UPGRADE_SGLANG, _CHECK),
        None,
        collect=(_FLAGS, _VERSIONS),
    ),
    "DSA901": Cause(
        "Triton refuses the type fp8e4nv{kernel_text}: it exists from compute capability 8.9 on.",
        (
            Remedy("FP8 weights: let Marlin serve them (--linear-backend marlin, --moe-backend marlin)", engine="vllm"),
            _PLUGIN,
        ),
        None,
    ),
    "DSA904": Cause(
        "The installed {who} is too old to know {architecture}.{detail}",
        (
            Remedy("pip install -U vllm transformers", engine="vllm"),
            Remedy("pip install -U sglang transformers", engine="sglang"),
        ),
    ),
    "DSA908": Cause("vLLM is not installed in the environment that was started.", ("pip install vllm",), dsa=False),
    "DSA920": Cause(
        "{what} was compiled or loaded for the first time while a CUDA graph was being captured{where_text}.",
        (
            Remedy("--enforce-eager   # to confirm", engine="vllm"),
            Remedy("--disable-cuda-graph   # to confirm", engine="sglang"),
            "warm the kernel up with the captured shapes before the capture",
        ),
        dsa=None,
    ),
    "DSA921": Cause(
        "A kernel accessed memory outside its allocations{where_text}. CUDA reports this late: the place is a hint.",
        (
            "CUDA_LAUNCH_BLOCKING=1   # names the kernel",
            Remedy("leave out --speculative-config, and lower --max-model-len, one at a time", engine="vllm"),
            Remedy("leave out --speculative-algorithm, and lower --context-length, one at a time", engine="sglang"),
        ),
        dsa=None,
        possible=(
            Possible("speculative decoding hands a kernel tables of the wrong shape", "it goes away without drafting"),
            Possible(
                "an index grows beyond 32 bits, or a table is too short for the context",
                "it comes with long contexts or large caches only",
            ),
        ),
    ),
    "DSA922": Cause(
        "A kernel's tile wants {needed} bytes of shared memory{limit_text}, more than a block may have here.",
        ("choose another backend for this part, or smaller tiles: 8.0 allows 166912 bytes, 8.6, 8.9 and 12.x 101376",),
        None,
        None,
    ),
    "DSA923": Cause(
        "GPU memory ran out{size_text}{where_text}.{detail}",
        (
            Remedy(
                "lower --max-num-seqs, --max-num-batched-tokens or --max-model-len, or raise --tensor-parallel-size",
                engine="vllm",
            ),
            Remedy(
                "lower --mem-fraction-static, --chunked-prefill-size or --max-running-requests, or raise --tp-size",
                engine="sglang",
            ),
        ),
        dsa=None,
        possible=(
            Possible("the weights and the cache do not fit", "it comes at start, `run-model --dry-run` says so too"),
            Possible("the workspace of one step does not fit", "it comes with long prompts or many requests"),
        ),
    ),
    "DSA924": Cause(
        "The weights leave too little GPU memory for the KV cache.",
        (
            Remedy("lower --max-model-len or raise --gpu-memory-utilization", engine="vllm"),
            Remedy("raise --tensor-parallel-size, or offload weights", engine="vllm"),
            Remedy("lower --context-length, raise --mem-fraction-static or --tp-size", engine="sglang"),
            Remedy("dsa-doctor run-model {model}{target} --dry-run   # what fits, and with which flags", engine="vllm"),
        ),
        dsa=False,
    ),
    "DSA925": Cause(
        "Ranks waited for each other until the NCCL watchdog gave up{earlier_text}{backend_text}.",
        ("look at the log of every rank for an earlier error", "NCCL_DEBUG=INFO TORCH_NCCL_TRACE_BUFFER_SIZE=2000"),
        dsa=None,
        possible=(
            Possible("one rank died or never came", "its log ends earlier than the others', or is missing"),
            Possible("a kernel never ends on one rank", "nvidia-smi shows that GPU at 100 % and others idle"),
            Possible("the network between GPUs or nodes is broken", "all_reduce_perf of nccl-tests hangs as well"),
        ),
        collect=(_STACKS,),
    ),
    "DSA926": Cause(
        "{weight} has no counterpart in the checkpoint: its layers share an indexer, which this engine does not know.",
        (
            Remedy("pip install -U vllm   # one that reads indexer_types (GLM-5.2's IndexShare)", engine="vllm"),
            _UPGRADE_SGLANG,
        ),
    ),
    "DSA927": Cause(
        "DeepGEMM fails outside the indexer ({api}).",
        (
            Remedy(
                "VLLM_USE_DEEP_GEMM=0   # FP8 products then take another kernel; the indexer still asks for DeepGEMM",
                engine="vllm",
            ),
            Remedy("SGL_ENABLE_JIT_DEEPGEMM=0   # FP8 products then take another kernel", engine="sglang"),
        ),
        dsa=False,
    ),
    "DSA914": Cause(
        "The plugin of dsa-doctor refuses to start this server: {what}.",
        (
            "change what the message names: it says what is accepted",
            "export DSA_DOCTOR_PLUGIN=off   # leaves everything to vLLM",
        ),
    ),
    "DSA928": Cause(
        "An attention backend fails for a configuration that has no sparse attention: {what}.{place_text}",
        (
            Remedy(
                "leave out --attention-backend, or choose one that supports the head size, dtype and GPU", engine="vllm"
            ),
            Remedy("choose another --attention-backend", engine="sglang"),
        ),
        dsa=False,
    ),
    "DSA929": Cause(
        "The extension of another package cannot be loaded: {extension}, {symbol}.",
        ("reinstall that package for the installed torch and CUDA",),
        dsa=False,
    ),
    "DSA930": Cause(
        "The NVIDIA driver does not serve this CUDA: {what}.",
        (
            "update the driver, or install builds for the CUDA release that it supports",
            "nvidia-smi   # its upper right: that release",
        ),
        dsa=False,
    ),
    "DSA931": Cause(
        "{stopped_text}: {what}.{place_text}",
        (),
        dsa=None,
        collect=(_WHOLE_LOG, _FLAGS, _VERSIONS),
    ),
    "DSA932": Cause(
        "The process was ended from outside: {what}.",
        (
            "dmesg -T | grep -i -E 'oom|killed process'   # the kernel's out-of-memory killer writes there",
            "Kubernetes: kubectl describe pod POD   # the reason, limits, and failed probes",
        ),
        dsa=False,
        possible=(
            Possible("the host's memory or the container's limit ran out", "dmesg, or OOMKilled in the pod's status"),
            Possible("a probe, a scheduler, a time limit or a person ended it", "the events of the pod or of the job"),
        ),
    ),
    "DSA933": Cause(
        "It makes no progress: {what}.{place_text}",
        (
            "look at the log of every rank and node for an earlier error",
            Remedy(
                "leave out --speculative-config, then try --enforce-eager: the one that helps names the part",
                engine="vllm",
            ),
            Remedy("leave out --speculative-algorithm, then try --disable-cuda-graph", engine="sglang"),
        ),
        dsa=None,
        possible=(
            Possible(
                "a slow step that would end: compilation, autotuning, weights from a network disk",
                "CPU or disk is busy; it goes on after minutes",
            ),
            Possible("a kernel or a collective that never ends", "nvidia-smi shows GPUs at 100 % and no token comes"),
            Possible("a process that is gone", "ps shows fewer workers than ranks"),
        ),
        collect=(_STACKS, "nvidia-smi   # utilisation of each GPU while it hangs", _WHOLE_LOG),
    ),
    "DSA934": Cause(
        "The log does not hold the cause: {what}.",
        (),
        dsa=None,
        collect=(_WHOLE_LOG, "docker logs CONTAINER > all.log 2>&1, or kubectl logs POD --previous", _VERSIONS),
    ),
    "DSA935": Cause(
        "The machine refuses something: {what}.{detail}",
        (),
        dsa=False,
    ),
    "DSA936": Cause(
        "The model's files are the problem: {what}.",
        (),
        dsa=False,
    ),
    "DSA937": Cause(
        "A setting is refused: {what}.{detail}",
        (
            Remedy("vllm serve --help=all   # options and their values", engine="vllm"),
            Remedy("dsa-doctor run-model {model}{target} --dry-run   # flags that fit", engine="vllm"),
        ),
        dsa=False,
    ),
    "DSA938": Cause(
        "The processes or nodes lost or never found each other: {what}.{place_text}",
        (
            "look at the log of the process that is named: it died first, for a reason of its own",
            "NCCL_DEBUG=INFO, and NCCL_SOCKET_IFNAME / GLOO_SOCKET_IFNAME set to the network that joins the nodes",
        ),
        dsa=False,
        possible=(
            Possible("another process died, and this one only noticed", "an earlier error in that process's log"),
            Possible(
                "the network between them does not work", "the same error at every start, before any weights are loaded"
            ),
        ),
        collect=(_WHOLE_LOG,),
    ),
    "DSA939": Cause(
        "A kernel could not be compiled at run time: {what}.{place_text}",
        (),
        dsa=None,
    ),
    "DSA940": Cause(
        "The checkpoint and the model's code do not match: {what}.",
        (
            Remedy("pip install -U vllm   # the release that added this model or this quantisation", engine="vllm"),
            _UPGRADE_SGLANG,
            "compare the checkpoint's files with the Hub's: a half download lacks weights as well",
        ),
        dsa=None,
    ),
    "DSA941": Cause(
        "The GPU or its driver failed: {what}.",
        (
            "dmesg -T | grep -i -E 'xid|nvlink|nvrm'",
            "nvidia-smi -q | grep -i -E 'ecc|retired|remap'",
            "restart the machine, and let it be checked",
        ),
        dsa=False,
    ),
    "DSA942": Cause(
        "The container does not start: {what}.",
        ("docker run --rm --gpus all ubuntu nvidia-smi   # the shortest test of the container runtime",),
        dsa=False,
    ),
    "DSA943": Cause(
        "--target says {given}, and the log is from {seen}: what is said of the next failures and of the plugin holds "
        "for the target, not for that machine.",
        ("leave out --target",),
        dsa=None,
    ),
    "DSA944": Cause(
        "Compiled code crashed the process: {what}.{place_text}",
        (
            "PYTHONFAULTHANDLER=1   # names the Python line; gdb or coredumpctl the function",
            "reinstall engine and torch together: code built for another torch or CUDA crashes like this",
        ),
        dsa=None,
        collect=(_FLAGS, _VERSIONS, "dmesg -T | tail   # a segmentation fault names the library there"),
    ),
}
