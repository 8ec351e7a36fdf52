"""Loaded by vLLM in each of soak.py's server processes, through an entry point that soak.py writes.

Gives the dummy weights telling values, and lets the process that holds the GPU write its memory and its Triton
compilations to the file that SOAK_WORKER_LOG names, every few seconds.
"""

import json
import os
import threading
import time
from pathlib import Path

import tiny

INTERVAL = 5.0


def register() -> None:
    """Called by vLLM as a general plugin."""
    tiny.use_telling_weights()
    if not any(thread.name == "soak" for thread in threading.enumerate()):
        threading.Thread(target=_observe, name="soak", daemon=True).start()


def _observe() -> None:
    import torch

    compiled = tiny.count_compilations()
    log = Path(os.environ["SOAK_WORKER_LOG"])
    while True:
        time.sleep(INTERVAL)
        if not torch.cuda.is_initialized():
            continue
        line = {
            "time": time.time(),
            "pid": os.getpid(),
            "torch_reserved": torch.cuda.memory_reserved(),
            "torch_allocated": torch.cuda.memory_allocated(),
            "compiled": compiled(),
        }
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
