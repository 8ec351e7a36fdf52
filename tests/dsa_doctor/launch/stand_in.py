#!/usr/bin/env python3
"""A small real process that stands in for the vllm command: `serve MODEL --port N` with the manners that MANNER names.

Only the standard library, so that it starts at once. Every process of it writes its pid into the folder PIDS.
"""

import http.server
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
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


def option(name, default=None):
    """Return the value of an option: the last one, as argparse has it."""
    found = [after for before, after in zip(sys.argv, sys.argv[1:], strict=False) if before == name]
    return found[-1] if found else default


def key():
    """As vLLM: the option wins over the variable."""
    return option("--api-key") or os.environ.get("STAND_IN_KEY") or os.environ.get("VLLM_API_KEY")


class Handler(http.server.BaseHTTPRequestHandler):
    def reply(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuses(self):
        wanted = "another key" if os.environ["MANNER"] == "refuses" else key()
        refused = self.path.startswith("/v1") and wanted and self.headers["Authorization"] != f"Bearer {wanted}"
        if refused:
            self.reply({"error": "Unauthorized"}, status=401)
        return refused

    def do_GET(self):
        if self.refuses():
            return
        self.reply({"data": [{"id": "tiny"}]} if self.path == "/v1/models" else {})

    def do_POST(self):
        if self.refuses():
            return
        Path(os.environ["PIDS"], "asked").touch()
        length = int(self.headers["Content-Length"])
        asked = json.loads(self.rfile.read(length))
        assert asked["model"] == "tiny"
        assert asked["temperature"] == 0
        manner = os.environ["MANNER"]
        if manner == "silent":
            time.sleep(600)
        if manner in RAW_ANSWERS:
            self.wfile.write(RAW_ANSWERS[manner])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        elif manner == "drips":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                self.wfile.write(b" ")
                time.sleep(0.05)
        elif manner == "smoke error":
            self.reply({"error": "engine is dead"}, status=500)
        else:
            text = {"degenerate": "!!!!!!!!!!!!!!!!", "empty": "", "strange": [1]}.get(manner, " Paris, of course.")
            self.reply({"choices": [{"text": text}]})

    def address_string(self):
        return "client"

    def log_message(self, *arguments):
        say("INFO access " + arguments[0] % arguments[1:])


RAW_ANSWERS = {
    "not http": b"SSH-2.0-OpenSSH_9.6\r\n",
    "not json": b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n<html>Paris?</html>\n",
    "breaks off": b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{",
    "hangs up": b"",
    "too long": b"HTTP/1.1 200 OK\r\n\r\n" + b'["' + b"x" * 3_000_000 + b'"]',
}


def serve(port):
    if uds := option("--uds"):
        family, address = socket.AF_UNIX, uds
    else:
        host = option("--host", "127.0.0.1")
        family, address = (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, port)
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if os.environ["MANNER"] == "shares its port":
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind(address)
    listening.listen()
    if certificate := option("--ssl-certfile"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, option("--ssl-keyfile"))
        listening = context.wrap_socket(listening, server_side=True)
    server = http.server.ThreadingHTTPServer(address, Handler, bind_and_activate=False)
    server.socket = listening
    server.serve_forever()


def wait_for_go():
    while not Path(os.environ["PIDS"], "go").exists():
        time.sleep(0.01)


def fail_when_told():
    wait_for_go()
    say("Traceback (most recent call last):", SELECTOR_ERROR)
    os._exit(3)


def talk():
    """Write 1 KiB lines as fast as the disk takes them, up to TALK bytes."""
    line = b"INFO " + b"x" * 1018 + b"\n"
    for _ in range(int(os.environ["TALK"]) // (len(line) * 256)):
        os.write(1, line * 256)
    Path(os.environ["PIDS"], "talked").touch()


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
    if key() is not None:
        say(f"INFO non-default args: {{'api_key': ['{key()}']}}")
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
    if manner == "fails when told":
        wait_for_go()
        say("Traceback (most recent call last):", SELECTOR_ERROR)
        sys.exit(3)
    if manner == "fails when told, serving":
        threading.Thread(target=fail_when_told, daemon=True).start()
    if manner == "fills its disk":
        wait_for_go()
        try:
            while True:
                os.write(1, b"x" * 4095 + b"\n")
        except OSError:
            os._exit(28)
    if manner == "talks":
        threading.Thread(target=talk, daemon=True).start()
    if manner == "talks, loading":
        talk()
        while True:
            time.sleep(0.1)
    if manner == "hangs":
        spawn("engine")
        while True:
            time.sleep(0.1)
    if manner.startswith("ignores SIGTERM"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        spawn("stubborn engine")
        spawn("stubborn engine", start_new_session=True)
        while manner == "ignores SIGTERM, loading":
            time.sleep(0.1)
    if manner == "leaves its engine":
        spawn("stubborn engine", start_new_session=True)
        while not list(Path(os.environ["PIDS"]).glob("engine-*")):
            time.sleep(0.01)
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
    if manner == "has an engine":
        spawn("engine", start_new_session=True)
    serve(port)


if __name__ == "__main__":
    if sys.argv[1:] == ["engine"]:
        engine(stubborn=False)
    elif sys.argv[1:] == ["stubborn engine"]:
        engine(stubborn=True)
    else:
        main(sys.argv[1:])
