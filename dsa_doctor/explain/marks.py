"""Lines that say how far a process came and how it ended, in the words of vLLM, sglang, launchers and kernels."""

import re
from typing import NamedTuple


class Mark(NamedTuple):
    """One thing that lines say.

    Attributes:
        name: what it is.
        needle: a text that every such line holds.
        pattern: what the line has to match.
    """

    name: str
    needle: str
    pattern: re.Pattern[str]


def _marks(name: str, *pairs: tuple[str, str]) -> list[Mark]:
    return [Mark(name, needle, re.compile(pattern)) for needle, pattern in pairs]


READY, SERVED, STOPPED, DIED, SIGNAL, STARTED, IDLE_WAIT = (
    "ready", "served", "stopped", "died", "signal", "started", "waits",
)  # fmt: skip

MARKS: tuple[Mark, ...] = (
    *_marks(
        READY,
        ("Application startup complete", r"Application startup complete"),
        ("The server is fired up", r"The server is fired up"),
        ("server is listening on", r"server is listening on"),
        ("Uvicorn running on", r"Uvicorn running on"),
        ("smoke prompt answered", r"smoke prompt answered"),
    ),
    *_marks(
        SERVED,
        ('" 200', r'"(?:POST|PUT) /\S{1,200} HTTP/[\d.]+" 200'),
        ("eneration throughput: ", r"Running: [1-9]\d{0,5} reqs.*|generation throughput: (?!0\.0 )\d"),
        ("gen throughput (token/s): ", r"gen throughput \(token/s\): (?!0\.00?,)\d"),
        ("slot release", r"slot +release"),
        ("Processed prompts", r"Processed prompts: +100%"),
        ("Mean acceptance length", r"Mean acceptance length"),
    ),
    *_marks(
        STOPPED,
        ("Application shutdown complete", r"Application shutdown complete"),
        ("Finished server process", r"Finished server process"),
        ("exited with code 0", r"exited with code 0\b(?! \(dropped)"),
    ),
    *_marks(
        DIED,
        ("EngineCore failed to start", r"EngineCore failed to start"),
        ("EngineCore encountered a fatal", r"EngineCore encountered a fatal error"),
        ("EngineDeadError", r"EngineDeadError"),
        ("ngine core initialization failed", r"ngine core initialization failed"),
        ("Engine process failed to start", r"Engine process failed to start"),
        ("WorkerProc initialization failed", r"WorkerProc initialization failed"),
        ("WorkerProc hit an exception", r"WorkerProc hit an exception"),
        ("WorkerProc failed to start", r"WorkerProc failed to start"),
        ("died unexpectedly", r"died unexpectedly"),
        ("has died", r"(?:rocess|orker|ngine|ctor|ode)\b.{0,60}has died"),
        ("is dead", r"(?:rocess|orker|ngine|cheduler|ctor|ode)\b.{0,60}\bis dead"),
        ("Scheduler hit an exception", r"Scheduler hit an exception"),
        ("sigquit from a child", r"Received sigquit from a child process"),
        ("Engine loop has died", r"Engine loop has died"),
        ("ackground loop has errored", r"ackground loop (?:has errored|is stopped)"),
        ("ChildFailedError", r"ChildFailedError"),
        ("exitcode", r"exitcode\s*:?\s*-?[1-9]\d{0,2}"),
        ("exit code", r"(?i)(?:exit(?:ed)? (?:with )?code:?|exitcode:?|exit status) -?[1-9]\d{0,2}\b"),
        ("xited with code", r"xited with code [1-9]\d{0,2}"),
        ("CrashLoopBackOff", r"CrashLoopBackOff|Back-off restarting failed container"),
        ("Back-off restarting", r"Back-off restarting failed container"),
        ("ctor died", r"ctor died|ActorDiedError"),
        ("marked dead", r"marked dead"),
    ),
    *_marks(
        SIGNAL,
        ("SIGKILL", r"SIGKILL"),
        (
            "SIGTERM",
            r"(?i)(?:received|got|caught|terminated by|by signal|sending).{0,30}SIGTERM"
            r"|SIGTERM.{0,20}(?:received|handler)",
        ),
        ("signal 9", r"[Ss]ignal:? ?\(?9\b"),
        ("signal 15", r"[Ss]ignal:? ?\(?15\b"),
        ("OOMKilled", r"OOMKilled"),
        ("oom-kill", r"oom-kill|invoked oom-killer"),
        (
            "Killed",
            r"^\s*(?:\S{1,80}: )?(?:line \d+:\s+\d+ )?Killed\b|Memory cgroup out of memory"
            r"|Out of memory: Killed process",
        ),
        ("ut of memory: Kill", r"ut of memory: Kill"),
        ("exit code 137", r"137"),
        ("code 137", r"137"),
        ("Evicted", r"Evicted|was low on resource"),
    ),
    *_marks(
        STARTED,
        ("API server version", r"vLLM API server version|API server version"),
        ("server_args=ServerArgs", r"server_args=ServerArgs"),
        ("Initializing a V1 LLM engine", r"Initializing a V\d LLM engine"),
    ),
    *_marks(
        IDLE_WAIT,
        ("No available shared memory broadcast", r"No available shared memory broadcast block found"),
    ),
)  # fmt: skip

TROUBLE = (
    "Traceback (most recent", "Error: ", "Error(", "Exception: ", "rror response from daemon", "nvidia-container-cli",
    "Fatal Python error", "core dumped", "Segmentation fault", "terminate called", " ERROR ", "ERROR:", "error: ",
    "CRITICAL", "FATAL", "fatal", "panic", "failed", "Failed", "timed out", "Xid", "ImagePullBackOff", "Aborted",
)  # fmt: skip
"""Texts around which the log is kept to be read line by line."""

STAGES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("the start of the server", r"API server version|server_args=ServerArgs|non-default args"),
        ("the start of the engine", r"Initializing a V\d LLM engine|Waiting for init message|Resolved architecture"),
        ("the start of the workers", r"world_size=|Init torch distributed|vLLM is using nccl|rank \d+ in world size"),
        (
            "the loading of weights",
            r"Starting to load model|Load weight begin|Loading (?:safetensors|pt|weights)|checkpoint shards"
            r"|load_tensors:",
        ),
        ("the profiling of memory", r"Model loading took|Load weight end|Loading weights took"),
        ("the compilation", r"torch\.compile|Dynamo bytecode transform|Compiling a graph|DeepGEMM warmup|[Aa]utotun"),
        ("the allocation of the KV cache", r"GPU KV cache size|Available KV cache memory|KV Cache is allocated"),
        ("the capture of CUDA graphs", r"[Cc]aptur(?:ing|e).{0,40}(?:CUDA|cuda) graph|Graph capturing"),
        ("the last steps of the start", r"init engine \(profile|Kernel JIT monitor activated|Started server process"),
    )
)
"""What the server is at, in order; the last line that matches says how far it came."""

WRAPPERS = re.compile(
    r"EngineDeadError|ngine core initialization failed|See (?:root cause|stack trace)"
    r"|stack trace (?:\(above\)|above)|Worker failed with error|WorkerProc initialization failed"
    r"|EngineCore (?:encountered|failed)|Engine process failed|Engine loop|[Bb]ackground loop|ChildFailedError"
    r"|CancelledError|^cancelled|Failed core proc|RayTaskError|SystemExit|KeyboardInterrupt|BrokenPipeError"
    r"|ConnectionResetError|EOFError|Executor failed|ContextTerminated|Cancelled by cancel scope"
    r"|Rank \d+ scheduler (?:is dead|died)|scheduler (?:is dead|died)|Initialization failed\. |GeneratorExit"
    r"|child process|Process group watchdog|died unexpectedly|Engine core proc"
)
"""Exceptions that only report that something else died; the reason is elsewhere."""

ANSWERED = re.compile(r'"[A-Z]{3,7} /\S{0,200} HTTP/[\d.]+" 4\d\d')
"""A request that the server refused, and lived on."""

REQUEST_FAILED = re.compile(r'"[A-Z]{3,7} /\S{0,200} HTTP/[\d.]+" 5\d\d')
