"""Stands in for `python -m dsa_kernels.selftest`: the same events, and the ways in which a process can end."""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

PLANS = {
    "topk": ("good", "aborts", "sticks", "good too"),
    "fp8": ("good", "hangs", "last"),
    "logits": ("good",),
    "wheel": ("loads, or not", "never run"),
    "mla-flat": (),
    "paged-logits": ("good",),
}


def say(**what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--group")
    parser.add_argument("--op", action="append")
    parser.add_argument("--skip", action="append", default=[])
    parser.add_argument("--device")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.group == "mla-flat":
        sys.stderr.write(f"a traceback\nImportError: no torch at {Path.home()}/lib\n")
        return 1
    if options.device == "cuda:7":
        say(event="no_device", reason="no such GPU")
        return 0
    left = [case for case in PLANS[options.group] if case not in options.skip]
    say(
        event="machine",
        cases=left,
        gpu="NVIDIA TEST",
        capability="8.0",
        torch="2",
        cuda="13",
        triton="3.6",
        emulated=os.environ.get("DSA_KERNELS_EMULATE", ""),
        triton_override_arch=os.environ.get("TRITON_OVERRIDE_ARCH", ""),
    )
    for case in left:
        gate = options.group == "wheel" and case == "loads, or not"
        say(event="start", case=case, op="an op", provokes="trouble", gate=gate)
        sys.stderr.write(f"about {case}\n")
        if case == "aborts" or gate:
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGABRT)
        if case == "hangs":
            time.sleep(60)
        status = "error" if case == "sticks" else "pass"
        say(
            event="end",
            case=case,
            op="an op",
            provokes="trouble",
            status=status,
            seconds=0.5,
            error=0.0,
            limit=0.0,
            expected="",
            got="CUDA error" if case == "sticks" else "",
        )
        if case == "sticks":
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
