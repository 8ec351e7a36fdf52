"""What helps for one kind of failure, by `Kind.what`: shown before what helps for its finding."""

from dsa_doctor.explain.remedies import Remedy

HELP: dict[str, tuple[Remedy | str, ...]] = {
    "the CUDA toolkit's nvcc is older than the kernel needs": (
        "nvcc --version; then install a CUDA toolkit of the release that torch was built for, and set CUDA_HOME to it",
    ),
    "Triton's ptxas does not know this GPU, or is missing": (
        "TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas   # of a CUDA toolkit that knows the GPU",
        "pip install -U triton   # together with the torch that pins it",
    ),
    "no CUDA toolkit (nvcc, CUDA_HOME) for a kernel that is compiled at run time": (
        "install a CUDA toolkit of torch's CUDA release and set CUDA_HOME, or take an image that has one (-devel)",
        Remedy(
            "pip install 'tilelang[nvcc]'   # where TileLang compiles: mHC of DeepSeek-V4 and GLM-5.3", engine="vllm"
        ),
    ),
    "nvcc finds no C++ compiler": ("apt-get install g++   # or set CXX to one",),
    "the kernel uses an instruction that this GPU does not have": (
        Remedy(
            "{install}; its plugin replaces such kernels of DeepSeek-V4 and GLM-5.3 on compute capability 8.x",
            engine="vllm",
            need="plugin",
        ),
        Remedy("dsa-doctor check {model}{target}   # what this GPU lacks on the model's path", engine="vllm"),
    ),
    "no C compiler, or no Python headers, for a kernel that is compiled at run time": (
        "apt-get install gcc g++ python3-dev   # Triton and inductor compile a launcher in C",
    ),
    "the build of a kernel at run time failed": (
        "read the compiler's own lines above; clear the caches of kernels (~/.cache/flashinfer, ~/.cache/vllm)",
        "pip install ninja; nvcc --version   # a toolkit of torch's CUDA release",
    ),
    "torch.compile failed": (
        Remedy("--enforce-eager   # serves without it, and confirms it", engine="vllm"),
        Remedy("leave out --enable-torch-compile", engine="sglang"),
        "rm -r ~/.cache/vllm/torch_compile_cache   # if another version wrote it",
    ),
    "shared memory (/dev/shm) is too small": (
        "docker run --ipc=host, or --shm-size=16g; Kubernetes: an emptyDir of medium Memory",
    ),
    "the disk is full": ("df -h; then HF_HOME, VLLM_CACHE_ROOT, TRITON_CACHE_DIR and TMPDIR on a disk with room",),
    "another process holds the port": (
        "ss -ltnp   # who holds it: often the server of an earlier run",
        "--port ANOTHER",
    ),
    "files or folders may not be read or written": (
        "ls -ld on the path that is named; in a container: its user and its mounts",
    ),
    "the process may not open more files": ("ulimit -n 65536",),
    "the process may not start more threads or processes": ("ulimit -u; docker run --pids-limit -1",),
    "the host's memory ran out": ("free -g; leave out CPU offloading, or give the container more memory",),
    "the Hub refuses access to the model: it is gated or private, or the token is missing or wrong": (
        "accept the model's terms on its page, then pass a token that may read it (HF_TOKEN)",
    ),
    "the model or revision does not exist under that name": (
        "check the name and the revision on the Hub; a local folder needs its whole path",
    ),
    "the Hub cannot be reached, and the model is not on this machine": (
        "hf download MODEL where there is a network, then serve the folder; HF_ENDPOINT for a mirror",
    ),
    "the model's code must be allowed to run, or must not be run": (
        "read the model's code first; then --trust-remote-code, or an engine release that has the class itself",
    ),
    "a file of the model is damaged or only half downloaded": (
        "hf download MODEL   # again: what is whole is kept",
        "hf cache verify MODEL",
    ),
    "the chat template is missing or does not fit": ("--chat-template FILE   # the model's own is in its repository",),
    "the tokenizer cannot be loaded": (
        "pip install -U transformers tokenizers",
        "check that the folder holds tokenizer.json and tokenizer_config.json",
    ),
    "a file of the model is missing": ("compare the folder with the list of files on the Hub; hf download MODEL",),
    "the quantisation is not supported here": (
        Remedy("take a checkpoint in a format that the GPU has: on 8.x FP8 by Marlin, AWQ, GPTQ or W4A16", need="cuda"),
    ),
    "there are fewer GPUs than ranks": (
        "nvidia-smi -L; CUDA_VISIBLE_DEVICES; then --tensor-parallel-size (--tp-size) to match",
    ),
    "the model's class is not known to this engine": (
        Remedy("pip install -U vllm transformers   # the release notes name the models that were added", engine="vllm"),
        Remedy("pip install -U sglang transformers", engine="sglang"),
    ),
}
