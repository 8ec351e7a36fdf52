#!/usr/bin/env python3
"""A small real process that stands in for the vllm command: `serve MODEL --port N` with the manners that MANNER names.

Only the standard library, so that it starts at once. Every process of it writes its pid into the folder PIDS.
"""

import http.server
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HELP = """usage: vllm serve [model_tag] [options]

options:
  --host HOST           Host name.
  --port PORT           Port number.
  --headless            Run in headless mode.
  --tool-call-parser {deepseek_v32,glm45,glm47} or name registered in --tool-parser-plugin
                        Select the tool call parser.
  --enable-auto-tool-choice, --no-enable-auto-tool-choice
  --attention-backend ATTENTION_BACKEND
                        Attention backend to use.
  --kv-cache-dtype {auto,bfloat16,fp8,fp8_ds_mla}
  --tensor-parallel-size TENSOR_PARALLEL_SIZE, -tp TENSOR_PARALLEL_SIZE
  --gpu-memory-utilization GPU_MEMORY_UTILIZATION
  --max-model-len MAX_MODEL_LEN
  --block-size BLOCK_SIZE
"""
LOADING = [
    "INFO Starting to load model tiny...",
    "Loading safetensors checkpoint shards:   0% Completed | 0/2 [00:00<?, ?it/s]\rLoading safetensors checkpoint "
    "shards: 100% Completed | 2/2 [00:01<00:00, 2.00it/s]",
]
PROFILING = ["INFO Loading weights took 1.00 seconds", "INFO Available KV cache memory: 12.50 GiB"]
CHOSEN = [
    "INFO Using TRITON_MLA_SPARSE attention backend out of potential backends: ['TRITON_MLA_SPARSE'].",
    "INFO dsa-doctor: TRITON_MLA_SPARSE will serve tiny.",
    "INFO Model loading took 48.25 GiB memory and 3.000000 seconds",
    "INFO GPU KV cache size: 123,456 tokens, Maximum concurrency: 2.0x",
]
SELECTOR_ERROR = (
    "ValueError: No valid attention backend found for cuda with AttentionSelectorConfig(head_size=576, "
    "dtype=torch.bfloat16, kv_cache_dtype=auto, block_size=64, use_mla=True, has_sink=False, use_sparse=True). "
    "Reasons: {FLASHMLA_SPARSE: [compute capability not supported], TRITON_MLA: [sparse not supported]}"
)


def say(*lines):
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def note(name):
    (Path(os.environ["PIDS"]) / f"{name}-{os.getpid()}").touch()


def spawn(what, **options):
    """Start another process of this run."""
    return subprocess.Popen([sys.executable, __file__, what], **options)


def engine(*, stubborn):
    """Live until told to end, or for ever."""
    note("engine")
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        time.sleep(0.1)


class Handler(http.server.BaseHTTPRequestHandler):
    def reply(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply({"data": [{"id": "tiny"}]} if self.path == "/v1/models" else {})

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        asked = json.loads(self.rfile.read(length))
        assert asked["model"] == "tiny"
        assert asked["temperature"] == 0
        manner = os.environ["MANNER"]
        if manner == "smoke error":
            self.reply({"error": "engine is dead"}, status=500)
        else:
            text = {"degenerate": "!!!!!!!!!!!!!!!!", "empty": "", "strange": [1]}.get(manner, " Paris, of course.")
            self.reply({"choices": [{"text": text}]})

    def log_message(self, *arguments):
        say("INFO access " + arguments[0] % arguments[1:])


def serve(port):
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def main(arguments):
    manner = os.environ.get("MANNER", "good")
    if arguments == ["serve", "--help=all"]:
        if manner == "no help":
            sys.exit("torch is broken")
        if manner == "slow help":
            note("help")
            time.sleep(60)
        say(HELP)
        return
    note("server")
    Path(os.environ["PIDS"], "arguments").write_text("\n".join(arguments))
    Path(os.environ["PIDS"], "environment").write_text(json.dumps(dict(os.environ)))
    port = int(arguments[arguments.index("--port") + 1])
    if manner == "dies at once":
        sys.exit(7)
    if manner == "garbage":
        sys.stdout.buffer.write(bytes(range(256)) * 500 + b"\x1b[31m" + b"x" * 200_000 + b"\n\xff\xfe")
        sys.stdout.flush()
        sys.exit(9)
    say(*LOADING)
    if manner == "dies loading":
        say("Traceback (most recent call last):", SELECTOR_ERROR)
        sys.exit(3)
    if manner == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if manner == "ends without an error":
        return
    if manner == "hangs":
        spawn("engine")
        while True:
            time.sleep(0.1)
    if manner == "ignores SIGTERM":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        spawn("stubborn engine")
        spawn("stubborn engine", start_new_session=True)
    if manner == "leaves its engine":
        spawn("stubborn engine", start_new_session=True)
        time.sleep(1.0)
        sys.exit(5)
    if manner == "stays":
        stage = os.environ["STAGE"]
        spawn("engine", start_new_session=True)
        if stage != "load":
            say(*PROFILING)
        if stage == "capture":
            say("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  10%")
        while True:
            time.sleep(0.1)
    say(*PROFILING, *CHOSEN)
    serve(port)


if __name__ == "__main__":
    if sys.argv[1:] == ["engine"]:
        engine(stubborn=False)
    elif sys.argv[1:] == ["stubborn engine"]:
        engine(stubborn=True)
    else:
        main(sys.argv[1:])
