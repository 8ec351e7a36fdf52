"""Logs of other kinds: stable error lines of public threads and projects, the surroundings made up.

Each has its right answer, written down before it was first explained: finding, and what the explanation must say.
"""

from typing import NamedTuple


class Situation(NamedTuple):
    """One log.

    Attributes:
        log: its text.
        ids: the findings, root cause first.
        says: what stands in the summary, the notes, the message or what to collect.
        silent: what must not stand anywhere in the explanation.
        end: how the log ends.
    """

    log: str
    ids: tuple[str, ...]
    says: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    end: str | None = None


START = (
    "(APIServer pid=1) INFO 09-02 10:00:01 [api_server.py:1805] vLLM API server version 0.33.0\n"
    "(APIServer pid=1) INFO 09-02 10:00:01 [utils.py:326] non-default args: {'model_tag': 'zai-org/GLM-5-FP8', "
    "'model': 'zai-org/GLM-5-FP8', 'tensor_parallel_size': 8}\n"
    "(EngineCore pid=90) INFO 09-02 10:00:20 [core.py:80] Initializing a V1 LLM engine (v0.33.0) with config: "
    "model='zai-org/GLM-5-FP8', compilation_config={'splitting_ops': ['vllm::sparse_attn_indexer']}\n"
)
LOADING = (
    "(Worker_TP0 pid=101) INFO 09-02 10:00:40 [gpu_model_runner.py:3300] Starting to load model zai-org/GLM-5-FP8...\n"
)
FLASH = START.replace("GLM-5-FP8", "GLM-5.3-Flash") + LOADING.replace("GLM-5-FP8", "GLM-5.3-Flash")
READY = (
    "(APIServer pid=1) INFO:     Started server process [1]\n"
    "(APIServer pid=1) INFO:     Waiting for application startup.\n"
    "(APIServer pid=1) INFO:     Application startup complete.\n"
)
ANSWER = '(APIServer pid=1) INFO:     10.0.0.9:40110 - "POST /v1/chat/completions HTTP/1.1" 200 OK\n'
WORKER = "(Worker_TP3 pid=104) ERROR 09-02 10:04:11 [multiproc_executor.py:880] "
CORE = "(EngineCore pid=90) ERROR 09-02 10:04:12 [core.py:1136] "
DEAD = (
    f"{CORE}EngineCore failed to start.\n{CORE}Traceback (most recent call last):\n"
    f'{CORE}  File "/usr/lib/python3/dist-packages/vllm/v1/executor/multiproc_executor.py", line 700, in wait_for_ready\n'
    f"{CORE}Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for "
    "root cause.\n"
    "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
)
SERVING = "/usr/lib/python3/dist-packages/vllm"
REQUEST = "(APIServer pid=1) ERROR 09-02 10:06:00 [serving_chat.py:1000] "
REQUEST_FAILS = (
    "(APIServer pid=1) INFO:     Application startup complete.\n"
    f"{REQUEST}Error in chat completion stream generator.\n{REQUEST}Traceback (most recent call last):\n"
    f'{REQUEST}  File "{SERVING}/tool_parsers/glm.py", line 70, in extract\n'
    f"{REQUEST}IndexError: list index out of range\n"
    + '(APIServer pid=1) INFO:     10.0.0.9:40110 - "POST /v1/chat/completions HTTP/1.1" 500 Internal Server Error\n'
)


def worker_fails(*frames: str, error: str) -> str:
    """Return the log of a worker that fails while it starts."""
    lines = [f"{WORKER}WorkerProc failed to start.\n{WORKER}Traceback (most recent call last):\n"]
    lines += [f'{WORKER}  File "{frame}\n' for frame in frames]
    lines += [f"{WORKER}{line}\n" for line in error.split("\n")]
    return START + LOADING + "".join(lines) + DEAD


def statistics(generation: float, running: int, second: int) -> str:
    """Return one of vLLM's reports."""
    return (
        f"(APIServer pid=1) INFO 09-02 10:10:{second:02d} [loggers.py:257] Engine 000: Avg prompt throughput: 0.0 tokens/s, "
        f"Avg generation throughput: {generation} tokens/s, Running: {running} reqs, Waiting: 0 reqs, GPU KV cache "
        "usage: 4.0%, Prefix cache hit rate: 0.0%\n"
    )


SITUATIONS: dict[str, Situation] = {
    # What is not known at all
    "unknown error of a sparse backend": Situation(
        worker_fails(
            f'{SERVING}/v1/worker/gpu_worker.py", line 300, in determine_available_memory',
            f'{SERVING}/v1/attention/backends/mla/flashmla_sparse.py", line 611, in forward_mqa',
            error="ZeroDivisionError: integer modulo by zero",
        ),
        ("DSA213",),
        ("ZeroDivisionError: integer modulo by zero", "forward_mqa of mla/flashmla_sparse.py"),
        end="failed",
    ),
    "unknown error of the indexer": Situation(
        worker_fails(
            f'{SERVING}/model_executor/layers/sparse_attn_indexer.py", line 480, in sparse_attn_indexer',
            '/usr/lib/python3/dist-packages/torch/_ops.py", line 1208, in __call__',
            error="RuntimeError: q.stride(-1) == 1 is false",
        ),
        ("DSA308",),
        ("sparse_attn_indexer",),
    ),
    "unknown error of a custom op": Situation(
        worker_fails(
            f'{SERVING}/model_executor/layers/layernorm.py", line 60, in forward_cuda',
            f'{SERVING}/_custom_ops.py", line 312, in rms_norm',
            '/usr/lib/python3/dist-packages/torch/_ops.py", line 1208, in __call__',
            error="RuntimeError: Expected input.stride(-2) == hidden_size to be true, but got false.",
        ),
        ("DSA109",),
        ("rms_norm of vllm/_custom_ops.py",),
    ),
    "unknown error of a loader": Situation(
        worker_fails(
            f'{SERVING}/model_executor/model_loader/runai_streamer_loader.py", line 90, in _get_weights_iterator',
            error="IndexError: list index out of range",
        ),
        ("DSA931",),
        ("the loading of weights", "IndexError: list index out of range"),
    ),
    "unknown error of a dense backend": Situation(
        "vllm serve meta-llama/Llama-3.1-8B-Instruct\n"
        "Traceback (most recent call last):\n"
        f'  File "{SERVING}/v1/attention/backends/flash_attn.py", line 712, in forward\n'
        "    raise ArithmeticError('odd')\nArithmeticError: odd\n",
        ("DSA928",),
        ("no sparse attention", "This is no DSA problem"),
    ),
    "an exception with a name of its own": Situation(
        worker_fails(
            f'{SERVING}/distributed/kv_transfer/kv_connector/v1/nixl_connector.py", line 200, in __init__',
            error="nixl._bindings.nixlBackendError: NIXL_ERR_BACKEND",
        ),
        ("DSA931",),
        ("nixlBackendError", "transfer or offloading"),
    ),
    "a request that fails on a server that goes on": Situation(
        START + REQUEST_FAILS,
        ("DSA931",),
        (
            "A request failed for a reason that is not known here: IndexError: list index out of range",
            "The server did not stop by it: it answered the request with an error (line 9)",
        ),
        ("Stopped by",),
        end="request failed",
    ),
    "a request that fails before another that is answered": Situation(
        START + REQUEST_FAILS + ANSWER,
        (),
        ("1 errors that the server survived",),
        ("Stopped by",),
        end="healthy",
    ),
    "an error of a request's process and a death": Situation(
        START + REQUEST_FAILS + DEAD,
        ("DSA931",),
        ("Stopped by something that is not known here: IndexError",),
        ("did not stop",),
        end="failed",
    ),
    "a request's error and another process's": Situation(
        START
        + REQUEST_FAILS
        + f'{CORE}Traceback (most recent call last):\n{CORE}  File "{SERVING}/v1/engine/core.py", line 9, in run\n'
        f"{CORE}ArithmeticError: odd\n",
        ("DSA931",),
        ("Stopped by something that is not known here",),
        ("did not stop",),
        end="failed",
    ),
    "only the report of a death": Situation(
        START + DEAD, ("DSA934",), ("names an error that stands above", "the whole log from the start"), end="failed"
    ),
    "cut off within a traceback": Situation(
        START
        + f'{CORE}Traceback (most recent call last):\n{CORE}  File "{SERVING}/v1/engine/core.py", line 9, in run\n'
        f'{CORE}  File "{SERVING}/model_executor/model_loader/default_loader.py", line 310, in load_weights\n',
        ("DSA934",),
        ("within a traceback", "the loading of weights"),
    ),
    "cut off during the start": Situation(
        START
        + LOADING
        + "(Worker_TP0 pid=101) Loading safetensors checkpoint shards:  17% Completed | 8/46 [01:03<04:54]\n",
        (),
        ("no failure, but the log ends during the loading of weights",),
        ("no sign of a failure",),
        end="unfinished",
    ),
    "a worker's error that the report quotes": Situation(
        START
        + f"{CORE}RuntimeError: Worker failed with error 'headdim 96 has no dispatcher', please check the stack trace "
        "above for the root cause\n",
        ("DSA931",),
        ("headdim 96 has no dispatcher",),
    ),
    "a kernel that was not compiled for the shape": Situation(
        worker_fails(
            '/v/flashinfer/mla/_core.py", line 1169, in _trtllm_batch_decode_sparse_mla_dsv4_sm120',
            '/v/flashinfer/data/csrc/sparse_mla_sm120.cu", line 261, in void flashinfer::SparseMlaSm120PagedAttention(double)',
            error="RuntimeError: Check failed: num_tokens > 64 (8 vs. 64) : Decode (num_tokens <= 64) must go through "
            "sparse_mla_sm120_decode_dsv3_2 or sparse_mla_sm120_decode_dsv4",
        ),
        ("DSA212",),
    ),
    "a workspace that is too small": Situation(
        worker_fails(
            f'{SERVING}/v1/attention/backends/mla/flashinfer_mla_sparse.py", line 300, in forward_mqa',
            error="RuntimeError: Error in function 'aligned_alloc' at /v/flashinfer/allocator.h:48: Buffer overflow when "
            "allocating memory for trtllm_gen_softmax_workspace with size 2148532224. Increase the workspace buffer size.",
        ),
        ("DSA213",),
        ("VLLM_FLASHINFER_WORKSPACE_BUFFER_SIZE", "--max-num-batched-tokens"),
    ),
    "an assertion without a word": Situation(
        worker_fails(f'{SERVING}/v1/attention/backends/mla/indexer.py", line 300, in build', error="AssertionError"),
        ("DSA308",),
        ("build of mla/indexer.py",),
    ),
    "a quantised indexer": Situation(
        worker_fails(
            f'{SERVING}/model_executor/models/deepseek_v4.py", line 1535, in load_weights',
            error="KeyError: 'model.layers.4.self_attn.indexer.wq_b.weight_scale'",
        ),
        ("DSA940",),
        ("the indexer is quantised in only one",),
    ),
    "a GPU of another maker": Situation(
        "INFO Automatically detected platform rocm.\n"
        "(Worker_TP0 pid=9) ERROR 08-27 10:00:00 [x.py:1] torch.AcceleratorError: HIP error: invalid device function\n",
        ("DSA101",),
        (),
        ("its plugin serves this part",),
    ),
    # Memory
    "memory of the GPU at load": Situation(
        worker_fails(
            f'{SERVING}/model_executor/layers/quantization/fp8.py", line 700, in create_weights',
            error="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.75 GiB. GPU 3 has a total capacity of "
            "79.25 GiB of which 1.10 GiB is free.",
        ),
        ("DSA923",),
        ("1.75 GiB",),
    ),
    "memory for the cache": Situation(
        START
        + f"{CORE}ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
        "initializing the engine.\n" + DEAD,
        ("DSA924",),
        ("This is no DSA problem", "run-model zai-org/GLM-5-FP8"),
    ),
    "memory that another process holds": Situation(
        worker_fails(
            f'{SERVING}/v1/worker/utils.py", line 400, in request_memory',
            error="ValueError: Free memory on device cuda:0 (3.1/79.25 GiB) on startup is less than desired GPU memory "
            "utilization (0.9, 71.33 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
        ),
        ("DSA923",),
        ("Another process holds memory",),
    ),
    "workspace of sparse decode after days": Situation(
        START
        + READY
        + ANSWER * 3
        + f"{CORE}EngineCore encountered a fatal error.\n{CORE}Traceback (most recent call last):\n"
        f'{CORE}  File "{SERVING}/v1/attention/backends/mla/flashmla_sparse.py", line 800, in _forward_fp8_kv_mixed_batch\n'
        f'{CORE}  File "{SERVING}/third_party/flashmla/flash_mla_interface.py", line 160, in flash_mla_with_kvcache\n'
        f"{CORE}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 8.00 GiB. GPU 0 has a total capacity of "
        "139.80 GiB of which 5.00 GiB is free.\n"
        "(APIServer pid=1) ERROR 09-02 11:00:00 [async_llm.py:708] vllm.v1.engine.exceptions.EngineDeadError: EngineCore "
        "encountered an issue. See stack trace (above) for the root cause.\n",
        ("DSA923",),
        ("grows with the tokens of a step", "--max-num-batched-tokens"),
        ("the weights and the cache do not fit", "raise --tensor-parallel-size"),
    ),
    "the kernel's out-of-memory killer": Situation(
        START
        + LOADING
        + "[12345.678] Out of memory: Killed process 4711 (VLLM::Worker) total-vm:900000000kB, anon-rss:1kB\n"
        "(EngineCore pid=90) ERROR 09-02 10:20:00 [multiproc_executor.py:230] Worker proc VllmWorker-3 died unexpectedly, "
        "shutting down executor.\n",
        ("DSA932",),
        ("out of memory on the host", "This is no DSA problem"),
    ),
    "killed without a word": Situation(
        START + LOADING + "/entry.sh: line 12:    77 Killed                  vllm serve zai-org/GLM-5-FP8\n",
        ("DSA932",),
        ("SIGKILL",),
    ),
    "killed by a memory limit of the cluster": Situation(
        LOADING + "State: Terminated\nReason: OOMKilled\nExit Code: 137\n", ("DSA932",), ("memory limit",)
    ),
    "asked to end while it starts": Situation(
        START + LOADING + "(APIServer pid=1) INFO 09-02 10:10:00 [launcher.py:100] Received SIGTERM, shutting down\n"
        "Warning  Unhealthy  kubelet  Liveness probe failed: connection refused\n",
        ("DSA932",),
        ("SIGTERM",),
    ),
    # Crashes of compiled code
    "an illegal access in native code": Situation(
        START + READY + ANSWER + "terminate called after throwing an instance of 'c10::AcceleratorError'\n"
        "  what():  CUDA error: an illegal memory access was encountered\n",
        ("DSA921",),
    ),
    "a segmentation fault with Python frames": Situation(
        START
        + LOADING
        + "Fatal Python error: Segmentation fault\n\nCurrent thread 0x00007f1 (most recent call first):\n"
        '  File "/usr/lib/python3/dist-packages/torch/cuda/graphs.py", line 90 in replay\n'
        f'  File "{SERVING}/compilation/cuda_graph.py", line 200 in __call__\n'
        '  File "/usr/lib/python3.12/threading.py", line 1 in run\n\nExtension modules: numpy._core (total: 1)\n',
        ("DSA944",),
        ("segmentation fault", "compilation/cuda_graph.py"),
    ),
    "an instruction that the CPU lacks": Situation(
        "Illegal instruction (core dumped)\n", ("DSA944",), ("CPU lacks an instruction",)
    ),
    # The machine, the container, the driver
    "the disk is full": Situation(
        worker_fails(
            '/usr/lib/python3/dist-packages/huggingface_hub/file_download.py", line 500, in http_get',
            error="OSError: [Errno 28] No space left on device",
        ),
        ("DSA935",),
        ("the disk is full", "This is no DSA problem"),
    ),
    "shared memory is too small": Situation(
        START
        + f"{WORKER}torch.distributed.DistBackendError: NCCL error in: NCCLUtils.cpp:77, unhandled system error, NCCL "
        "version 2.27.7\nncclSystemError: System call (e.g. socket, malloc) or external library call failed.\nLast error:\n"
        "Error while creating shared memory segment /dev/shm/nccl-4Xb (size 33030528), error: No space left on device (28)\n",
        ("DSA935",),
        ("/dev/shm", "--ipc=host"),
    ),
    "the port is taken": Situation(
        "(APIServer pid=1) Traceback (most recent call last):\n"
        f'(APIServer pid=1)   File "{SERVING}/entrypoints/openai/api_server.py", line 1600, in create_server_socket\n'
        "(APIServer pid=1)     sock.bind(addr)\n"
        "(APIServer pid=1) OSError: [Errno 98] Address already in use\n",
        ("DSA935",),
        ("another process holds the port",),
    ),
    "no container toolkit": Situation(
        'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].\n',
        ("DSA942",),
        ("Container Toolkit", "This is no DSA problem"),
    ),
    "an image that does not exist": Situation(
        "docker: Error response from daemon: manifest for vllm/vllm-openai:v9.9 not found: manifest unknown\n",
        ("DSA942",),
        ("cannot be pulled",),
    ),
    "libraries of two drivers": Situation(
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.86\n", ("DSA930",)
    ),
    "no GPU in the container": Situation(
        "(APIServer pid=1) Traceback (most recent call last):\n"
        f'(APIServer pid=1)   File "{SERVING}/config/device.py", line 60, in __post_init__\n'
        "(APIServer pid=1) RuntimeError: Failed to infer device type, please set the environment variable "
        "`VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging to help debug the issue.\n",
        ("DSA930",),
    ),
    "a GPU that fell off": Situation(
        START + READY + ANSWER + "[88.1] NVRM: Xid (PCI:0000:4f:00): 79, pid='<unknown>', GPU has fallen off the bus.\n"
        f"{CORE}EngineCore encountered a fatal error.\n",
        ("DSA941",),
        ("failed",),
    ),
    "no fabric manager": Situation(
        worker_fails(
            '/usr/lib/python3/dist-packages/torch/cuda/__init__.py", line 412, in _lazy_init',
            error="RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
        ),
        ("DSA941",),
        ("Fabric Manager",),
    ),
    # Files, names, settings
    "a gated model": Situation(
        "(APIServer pid=1) Traceback (most recent call last):\n"
        '(APIServer pid=1)   File "/usr/lib/python3/dist-packages/huggingface_hub/utils/_http.py", line 403, in raise_status\n'
        "(APIServer pid=1) huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-6)\n\n"
        "(APIServer pid=1) The above exception was the direct cause of the following exception:\n\n"
        "(APIServer pid=1) Traceback (most recent call last):\n"
        '(APIServer pid=1)   File "/usr/lib/python3/dist-packages/transformers/utils/hub.py", line 500, in cached_files\n'
        "(APIServer pid=1) OSError: You are trying to access a gated repo.\n",
        ("DSA936",),
        ("refuses access",),
    ),
    "no network": Situation(
        "(APIServer pid=1) Traceback (most recent call last):\n"
        '(APIServer pid=1)   File "/usr/lib/python3/dist-packages/transformers/utils/hub.py", line 500, in cached_files\n'
        "(APIServer pid=1) OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find "
        "them in the cached files.\n",
        ("DSA936",),
        ("cannot be reached",),
    ),
    "a name that does not exist": Situation(
        "OSError: zai-org/GLM-5-FP9 is not a local folder and is not a valid model identifier listed on "
        "'https://huggingface.co/models'\n",
        ("DSA936",),
        ("does not exist under that name",),
    ),
    "half a download": Situation(
        worker_fails(
            f'{SERVING}/model_executor/model_loader/weight_utils.py", line 730, in safetensors_weights_iterator',
            error="safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, file not fully "
            "covered",
        ),
        ("DSA936",),
        ("damaged or only half downloaded",),
    ),
    "custom code of a model": Situation(
        "ValueError: The repository /m contains custom code which must be executed to correctly load the model. You can "
        "inspect the repository content at https://hf.co//m. Please pass the argument `trust_remote_code=True` to allow "
        "custom code to be run.\n",
        ("DSA936",),
        ("read the model's code first",),
    ),
    "an option that does not exist": Situation(
        "usage: vllm serve [model_tag] [options]\nvllm serve: error: unrecognized arguments: --no-such-option\n",
        ("DSA937",),
        ("an option is not known",),
    ),
    "a quantisation that the GPU lacks, by pydantic": Situation(
        "(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\n"
        "(APIServer pid=1)   Value error, The quantization method modelopt is not supported for the current GPU. Minimum "
        "capability: 89. Current capability: 80. [type=value_error]\n"
        "(APIServer pid=1)     For further information visit https://errors.pydantic.dev/2.12/v/value_error\n",
        ("DSA937",),
        ("The quantization method modelopt is not supported", '"capability":"8.0"'),
    ),
    "a context that is too long": Situation(
        "(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        "(APIServer pid=1)   Value error, User-specified max_model_len (999999) is greater than the derived max_model_len "
        "(max_position_embeddings=202752). [type=value_error]\n",
        ("DSA937",),
        ("context length",),
    ),
    "ranks that do not divide": Situation(
        "(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\n"
        "(APIServer pid=1)   Value error, Total number of attention heads (64) must be divisible by tensor parallel size "
        "(6). [type=value_error]\n",
        ("DSA937",),
        ("does not divide",),
    ),
    "a quantisation that the GPU lacks": Situation(
        "ValueError: The quantization method modelopt_fp4 is not supported for the current GPU. Minimum capability: 100. "
        "Current capability: 80.\n",
        ("DSA937",),
        ("quantisation is not supported here",),
    ),
    "weights that the class lacks": Situation(
        worker_fails(
            f'{SERVING}/model_executor/models/deepseek_v2.py", line 1500, in load_weights',
            error="KeyError: 'model.layers.61.mlp.experts.w13_weight_scale'",
        ),
        ("DSA940",),
        ("do not match",),
    ),
    "a container that may not mount": Situation(
        'docker: Error response from daemon: OCI runtime create failed: error mounting "/run/nvidia" to rootfs: unknown.\n',
        ("DSA942",),
        ("the container runtime refused",),
    ),
    # Compilers
    "no C compiler": Situation(
        worker_fails(
            '/usr/lib/python3/dist-packages/triton/runtime/build.py", line 30, in _build',
            error="RuntimeError: Failed to find C compiler. Please specify via CC environment variable or set "
            "triton.knobs.build.impl.",
        ),
        ("DSA939",),
        ("no C compiler",),
    ),
    "a ptxas that is too old": Situation(
        worker_fails(
            '/usr/lib/python3/dist-packages/triton/backends/nvidia/compiler.py", line 460, in make_cubin',
            error="triton.runtime.errors.PTXASError: PTXAS error: Internal Triton PTX codegen error\n"
            "`ptxas` stderr:\nptxas fatal   : Value 'sm_121a' is not defined for option 'gpu-name'",
        ),
        ("DSA939",),
        ("ptxas",),
    ),
    "a toolkit that is too old for DeepGEMM": Situation(
        worker_fails(
            f'{SERVING}/utils/deep_gemm.py", line 200, in fp8_gemm_nt',
            error="RuntimeError: Assertion error (/w/csrc/jit/compiler.hpp:187): (major > 12 or (major == 12 and minor >= 3)) "
            'and "NVCC version should be >= 12.3"',
        ),
        ("DSA939",),
        ("nvcc is older",),
        ("VLLM_USE_DEEP_GEMM=0",),
    ),
    "inductor fails": Situation(
        worker_fails(
            '/usr/lib/python3/dist-packages/torch/_inductor/codecache.py", line 3000, in result',
            error="torch._inductor.exc.InductorError: SubprocException: An exception occurred in a subprocess:",
        ),
        ("DSA939",),
        ("torch.compile failed", "--enforce-eager"),
    ),
    "no toolkit for FlashInfer": Situation(
        worker_fails(
            '/usr/lib/python3/dist-packages/flashinfer/jit/cpp_ext.py", line 70, in get_cuda_path',
            error="RuntimeError: Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist",
        ),
        ("DSA939",),
        ("no CUDA toolkit",),
    ),
    # Several processes and nodes
    "NCCL on one machine": Situation(
        worker_fails(
            f'{SERVING}/distributed/device_communicators/pynccl_wrapper.py", line 373, in NCCL_CHECK',
            error="RuntimeError: NCCL error: unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
        ),
        ("DSA938",),
        ("NCCL failed",),
    ),
    "nodes that do not meet": Situation(
        worker_fails(
            '/usr/lib/python3/dist-packages/torch/distributed/rendezvous.py", line 198, in _create_c10d_store',
            error="torch.distributed.DistNetworkError: The client socket has timed out after 600000ms while trying to connect "
            "to (10.0.0.2, 29500).",
        ),
        ("DSA938",),
        ("do not reach one another",),
    ),
    "a Ray worker is gone": Situation(
        START
        + "(EngineCore pid=90) ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.\n"
        "(EngineCore pid=90) \tclass_name: RayWorkerWrapper\n",
        ("DSA938",),
        ("Ray worker",),
    ),
    "the one that died first": Situation(
        START
        + LOADING
        + "(Worker_TP5 pid=106) ERROR 09-02 10:04:01 [multiproc_executor.py:880] WorkerProc hit an exception.\n"
        "(Worker_TP5 pid=106) ERROR 09-02 10:04:01 [multiproc_executor.py:880] Traceback (most recent call last):\n"
        f'(Worker_TP5 pid=106) ERROR 09-02 10:04:01 [multiproc_executor.py:880]   File "{SERVING}/model_executor/layers/'
        'fused_moe/layer.py", line 9, in forward\n'
        "(Worker_TP5 pid=106) ERROR 09-02 10:04:01 [multiproc_executor.py:880] LookupError: expert 300\n"
        "(Worker_TP2 pid=103) ERROR 09-02 10:04:05 [multiproc_executor.py:880] torch.distributed.DistBackendError: NCCL "
        "error in: ProcessGroupNCCL.cpp:3356, remote process exited or there was a network error\n" + DEAD,
        ("DSA931",),
        ("LookupError: expert 300", "the mixture of experts"),
    ),
    # No progress
    "a rank that never comes": Situation(
        START
        + READY
        + ANSWER
        + "".join(
            f"(EngineCore pid=90) INFO 09-02 10:1{minute}:16 [shm_broadcast.py:681] No available shared memory broadcast block "
            "found in 60 seconds. This typically happens when some processes are hanging.\n"
            for minute in range(4)
        ),
        ("DSA933",),
        end="stuck",
    ),
    "requests without tokens": Situation(
        START
        + READY
        + ANSWER
        + statistics(55.0, 2, 0)
        + "".join(statistics(0.0, 2, 10 + number) for number in range(6)),
        ("DSA933",),
        ("show no token",),
        end="stuck",
    ),
    "waiting for a node for ever": Situation(
        START
        + "".join(
            f"(APIServer pid=1) INFO 09-02 10:{minute:02d}:00 [utils.py:700] Waiting for 1 remote core engine to start, "
            f"{minute * 60} seconds\n"
            for minute in range(20)
        ),
        ("DSA933",),
        end="stuck",
    ),
    "started again and again": Situation(
        (START + LOADING + "(EngineCore pid=90) ERROR 09-02 10:04:12 [core.py:1136] OverflowError: odd size\n" + DEAD)
        * 6
        + "Warning  BackOff  kubelet  Back-off restarting failed container vllm in pod glm-0\n",
        ("DSA931",),
        ("OverflowError: odd size", "6 starts"),
    ),
    "the watchdog after an unknown error": Situation(
        START + LOADING + f"{WORKER}WorkerProc hit an exception.\n{WORKER}Traceback (most recent call last):\n"
        f'{WORKER}  File "{SERVING}/v1/spec_decode/eagle.py", line 300, in propose\n{WORKER}ArithmeticError: draft\n'
        "[rank1]:[E902 10:14:45.172 ProcessGroupNCCL.cpp:607] [Rank 1] Watchdog caught collective operation timeout: "
        "WorkNCCL(SeqNum=1, OpType=ALLREDUCE)\n",
        ("DSA931",),
        ("ArithmeticError: draft", "speculative decoding"),
        ("no earlier error",),
    ),
    # sglang and others
    "sglang's scheduler fails": Situation(
        "[2026-09-02 10:00:00] server_args=ServerArgs(model_path='zai-org/GLM-5-FP8', tp_size=8)\n"
        "[2026-09-02 10:05:00 TP5] Scheduler hit an exception: Traceback (most recent call last):\n"
        '  File "/sgl-workspace/sglang/python/sglang/srt/managers/scheduler.py", line 4285, in run_scheduler_process\n'
        '  File "/sgl-workspace/sglang/python/sglang/srt/layers/attention/dsa_backend.py", line 900, in init_forward_metadata\n'
        "LookupError: page table\n\n"
        "[2026-09-02 10:05:01] Received sigquit from a child process. It usually means the child failed.\n",
        ("DSA213",),
        ("LookupError: page table",),
        ("--attention-backend, if", "pip install -U vllm", "dsa-doctor check"),
    ),
    "sglang runs out of memory": Situation(
        "[2026-09-02 10:00:00] server_args=ServerArgs(model_path='zai-org/GLM-5-FP8', tp_size=8)\n"
        "[2026-09-02 10:05:00 TP5] Scheduler hit an exception: Traceback (most recent call last):\n"
        '  File "/sgl-workspace/sglang/python/sglang/srt/model_executor/model_runner.py", line 900, in load_model\n'
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n",
        ("DSA923",),
        ("--mem-fraction-static",),
        ("--gpu-memory-utilization", "--max-num-seqs"),
    ),
    "llama.cpp cannot load": Situation(
        "llama_model_load: error loading model: error loading model architecture: unknown model architecture: 'glm-dsa'\n"
        "llama_model_load_from_file_impl: failed to load model\nsrv    load_model: failed to load model, '/m/x.gguf'\n",
        ("DSA937",),
        ("class is not known",),
        ("pip install -U vllm", "vllm serve"),
    ),
    "Ollama's runner": Situation(
        'time=2026-09-02T10:00:00Z level=ERROR source=sched.go:456 msg="error loading llama server" error="llama runner '
        'process has terminated: exit status 2"\n',
        ("DSA931",),
        ("llama runner",),
        ("pip install -U vllm",),
    ),
    "TensorRT-LLM's executor": Situation(
        "[09/02/2026-10:00:00] [TRT-LLM] [E] Failed to initialize executor on rank 0: odd engine\n", ("DSA931",)
    ),
    "Ray's processes": Situation(
        START + LOADING + f"{CORE}EngineCore failed to start.\r\n{CORE}Traceback (most recent call last):\r\n"
        f'{CORE}  File "{SERVING}/v1/executor/ray_utils.py", line 75, in execute_method\r\n'
        f'{CORE}  File "{SERVING}/model_executor/layers/mla.py", line 75, in forward\r\n{CORE}ArithmeticError: odd\r\n',
        ("DSA213",),
        ("forward of layers/mla.py",),
    ),
    # Nothing wrong
    "served, with requests that were refused": Situation(
        START
        + READY
        + ANSWER
        + "(APIServer pid=1) ERROR 09-02 10:09:00 [serving_chat.py:250] Error in preprocessing prompt inputs\n"
        "(APIServer pid=1) ERROR 09-02 10:09:00 [serving_chat.py:250] Traceback (most recent call last):\n"
        f'(APIServer pid=1) ERROR 09-02 10:09:00 [serving_chat.py:250]   File "{SERVING}/entrypoints/chat_utils.py", line 9, in '
        "parse\n"
        "(APIServer pid=1) ERROR 09-02 10:09:00 [serving_chat.py:250] ValueError: unknown role 'tool2'\n"
        '(APIServer pid=1) INFO:     10.0.0.9:40111 - "POST /v1/chat/completions HTTP/1.1" 400 Bad Request\n',
        (),
        ("no sign of a failure", "survived"),
        end="healthy",
    ),
    "served, after retries": Situation(
        START
        + "(APIServer pid=1) WARNING 09-02 10:00:03 [http.py:9] ReadTimeout while fetching config.json, retrying (1/5)\n"
        "(APIServer pid=1) WARNING 09-02 10:00:09 [http.py:9] Failed to import from vllm._moe_C with ImportError('odd')\n"
        + LOADING
        + READY
        + ANSWER,
        (),
        end="healthy",
    ),
    "served, with an error in a prompt": Situation(
        START
        + READY
        + "(APIServer pid=1) INFO 09-02 10:09:00 [logger.py:40] Received request chatcmpl-1: prompt: 'ValueError: No valid "
        "attention backend found for cuda with AttentionSelectorConfig(use_sparse=True). Reasons: {A: [b]}', params: "
        "SamplingParams(n=1), prompt_token_ids: None.\n" + ANSWER,
        (),
        end="healthy",
    ),
    "served, with a whole log in a prompt": Situation(
        START + READY + "INFO 09-02 10:09:00 [logger.py:40] Received request chatcmpl-1: prompt: Why does this fail?\n"
        "(EngineCore pid=3) ERROR 01-01 00:00:00 [core.py:1] EngineCore failed to start.\n"
        "Traceback (most recent call last):\n"
        f'  File "{SERVING}/v1/attention/backends/mla/flashmla_sparse.py", line 1, in x\n'
        "RuntimeError: CUDA error: no kernel image is available for execution on the device\n"
        ", params: SamplingParams(n=1), prompt_token_ids: None.\n" + ANSWER,
        (),
        end="healthy",
    ),
    "stopped in order": Situation(
        START
        + READY
        + ANSWER
        + "(APIServer pid=1) INFO 09-02 11:00:00 [launcher.py:100] Received SIGTERM, shutting down\n"
        "(APIServer pid=1) INFO:     Shutting down\n(APIServer pid=1) INFO:     Waiting for application shutdown.\n"
        "(APIServer pid=1) INFO:     Application shutdown complete.\n(APIServer pid=1) INFO:     Finished server process [1]\n",
        (),
        ("stopped in order",),
        end="stopped",
    ),
    "idle and healthy": Situation(
        START
        + READY
        + ANSWER
        + statistics(12.0, 1, 0)
        + statistics(0.0, 0, 10) * 12
        + '(APIServer pid=1) INFO:     10.0.0.1:5 - "GET /health HTTP/1.1" 200 OK\n' * 20,
        (),
        end="healthy",
    ),
    "ended by hand": Situation(
        READY + ANSWER + "(APIServer pid=1) Traceback (most recent call last):\n"
        '(APIServer pid=1)   File "/usr/lib/python3.12/asyncio/runners.py", line 1, in run\n(APIServer pid=1) KeyboardInterrupt\n',
        (),
        end="healthy",
    ),
    "interrupted while it starts": Situation(
        START + LOADING + "(APIServer pid=1) Traceback (most recent call last):\n"
        '(APIServer pid=1)   File "/usr/lib/python3.12/asyncio/runners.py", line 1, in run\n(APIServer pid=1) KeyboardInterrupt\n',
        ("DSA932",),
        ("from the keyboard",),
    ),
    "tuning that never ends": Situation(
        START
        + "".join(
            f"(Worker_TP0 pid=5) INFO 09-02 10:{minute:02d}:01 [autotuner.py:1] Tuning profile {minute}/4096, still running\n"
            for minute in range(40)
        ),
        ("DSA933",),
    ),
    "starts without an error between": Situation(
        (START + LOADING) * 5, ("DSA933",), ("the start repeats itself, 5 times",)
    ),
    "sglang serves": Situation(
        "[2026-09-02 10:00:00] server_args=ServerArgs(model_path='zai-org/GLM-5-FP8', tp_size=8)\n"
        "[2026-09-02 10:09:00] The server is fired up and ready to roll!\n"
        "[2026-09-02 10:10:00 TP0] Decode batch. #running-req: 1, #token: 40, token usage: 0.00, gen throughput (token/s): "
        "31.20, #queue-req: 0\n",
        (),
        end="healthy",
    ),
    "died, and came back": Situation(
        START + LOADING + f"{CORE}EngineCore failed to start.\n{CORE}Traceback (most recent call last):\n"
        f'{CORE}  File "{SERVING}/v1/core/kv_cache_utils.py", line 3, in x\n{CORE}ArithmeticError: pages\n'
        + START
        + LOADING
        + READY
        + ANSWER,
        ("DSA931",),
        ("ArithmeticError: pages", "runs again from line", "2 starts"),
        end="healthy",
    ),
    "the plugin refuses options of GLM-5.3-Flash": Situation(
        "(APIServer pid=1) INFO 09-02 10:00:01 [api_server.py:1805] vLLM API server version 0.33.0\n"
        "(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\n"
        "(APIServer pid=1)   Value error, dsa-doctor's TRITON_MLA_SPARSE cannot serve this configuration:\n"
        "(APIServer pid=1)   - --pipeline-parallel-size 2: vLLM's class hands no hyper-connections from rank to rank; "
        "accepted: 1\n"
        "(APIServer pid=1)   - an fp4 indexer cache was asked for; accepted: fp8, which is the default\n"
        "(APIServer pid=1) Change what is named above, or set DSA_DOCTOR_PLUGIN=off to leave everything to vLLM. "
        "[type=value_error, input_value=ArgsKwargs((), {'model_co...), input_type=ArgsKwargs]\n",
        ("DSA914",),
        ("--pipeline-parallel-size 2: vLLM's class hands no", "--pipeline-parallel-size 1", "an fp4 indexer cache was"),
    ),
    "the plugin was asked for by name on 12.x and cannot serve": Situation(
        f"{START}(APIServer pid=1) ValueError: TRITON_MLA_SPARSE was asked for by name, and dsa-doctor's plugin cannot "
        "serve: 3 of its 80 patch targets moved in this vLLM, so it changes nothing.\n",
        ("DSA914",),
        ("3 of its 80 patch targets moved", "DSA_DOCTOR_PLUGIN=off"),
    ),
    "the plugin's backend without its model class": Situation(
        f"{START}{LOADING}{WORKER}RuntimeError: TRITON_MLA_SPARSE was selected, but this process's indexer was not "
        f"patched: the model class did not come from dsa-doctor's plugin.\n{DEAD}",
        ("DSA914",),
        ("model_class_overrides",),
    ),
    "GLM-5.3-Flash on 8.0: the indexer's guard": Situation(
        f"{FLASH}{WORKER}RuntimeError: Sparse Attention Indexer CUDA op requires DeepGEMM to be installed.\n{DEAD}",
        ("DSA302",),
    ),
    "GLM-5.3-Flash on 8.0: rows of 512 values": Situation(
        f"{FLASH}{WORKER}ValueError: No valid attention backend found for cuda with AttentionSelectorConfig("
        "head_size=512, dtype=torch.bfloat16, kv_cache_dtype=auto, use_mla=True, use_sparse=True). Reasons: "
        "{TRITON_MLA: [sparse not supported], FLASH_ATTN_MLA_SPARSE: [compute capability not supported]}.\n"
        f"{DEAD}",
        ("DSA201",),
        ("head_size 512",),
    ),
    "GLM-5.3-Flash on 8.0: the rotated query": Situation(
        f'{FLASH}{WORKER}Traceback (most recent call last):\n{WORKER}  File "{SERVING}/models/glm5next/nvidia/ops/'
        f'kpool_compress.py", line 130, in fwht128_quant_fp8\n{WORKER}triton.compiler.errors.CompilationError: at 36:17:'
        f'\n{WORKER}ValueError("type fp8e4nv not supported in this architecture. The supported fp8 dtypes are '
        f"('fp8e4b15', 'fp8e5')\")\n{DEAD}",
        ("DSA901",),
        ("fwht128_quant_fp8",),
    ),
    "GLM-5.3-Flash on 8.0: the logits": Situation(
        f'{FLASH}{WORKER}Traceback (most recent call last):\n{WORKER}  File "{SERVING}/models/glm5next/nvidia/'
        f'sparse_indexer.py", line 380, in sparse_attn_indexer_kpool\n{WORKER}  File "{SERVING}/utils/deep_gemm.py", '
        f"line 500, in fp8_fp4_mqa_logits\n{WORKER}RuntimeError: Assertion error (csrc/apis/attention.hpp:163): "
        f"Unsupported architecture\n{DEAD}",
        ("DSA301",),
    ),
}
