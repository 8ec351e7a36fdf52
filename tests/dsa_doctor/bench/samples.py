"""Made-up results for the renderers; the figures of no machine."""

from dataclasses import replace

from dsa_doctor.bench import Load, Report, setting_of
from dsa_doctor.catalog.models import find_model
from dsa_kernels.bench import Machine, PeerResult, Result, Timing

MACHINE = Machine(
    gpu="Sample GPU 80GB",
    capability="9.0",
    override_arch="",
    driver="1.2.3",
    torch="2.0",
    triton="3.0",
    copy_bytes_per_s=2e12,
    bf16_flop_per_s=500e12,
    l2_bytes=50 * 2**20,
)
SM80 = replace(MACHINE, override_arch="sm80")


def result(op="top-k", status="ok", shape=None, median=100.0, **changes):
    timing = Timing(median, median * 0.95, median * 1.1, 20) if status == "ok" else None
    moved, flop = changes.pop("moved_bytes", 1e8), changes.pop("flop", 0.0)
    return Result(
        op=op,
        shape=shape or {"rows": 64, "width": 32768, "k": 2048},
        status=status,
        limit=1e-5,
        error={"ok": 1e-7, "wrong": 0.5}.get(status),
        message={"ok": "", "wrong": "top-k: relative error 5.00e-01, allowed 1e-05"}.get(status, "RuntimeError: no"),
        timing=timing,
        moved_bytes=moved,
        flop=flop,
        byte_floor_us=moved / 2e12 * 1e6,
        flop_floor_us=flop / 500e12 * 1e6,
        **changes,
    )


def results():
    """One of every kind of row."""
    mla = {"next_n": 1, "context": 32768, "heads": 8, "cache": "bf16", "k": 2048}
    return (
        result("sparse MLA decode", shape={"batch": 1, **mla}, median=12.0, moved_bytes=2.4e6, flop=3.6e7),
        result("sparse MLA decode", shape={"batch": 64, **mla}, median=75.0, moved_bytes=1.5e8, flop=2.3e9),
        result("ragged logits", "failed", {"rows": 4096, "keys": 32768, "heads": 32}),
        result("top-k", "wrong", {"rows": 64, "width": 32768, "k": 2048}),
        result("top-k", shape={"rows": 4096, "width": 32768, "k": 2048}, median=2500.0, moved_bytes=6e8),
        result("k-cache write", "skipped", {"tokens": 4096}),
        result(
            "paged logits",
            shape={"batch": 64, "next_n": 2, "context": 32768, "heads": 32},
            median=180.0,
            moved_bytes=2.9e8,
            flop=3.4e10,
            peers={"DeepGEMM": PeerResult(Timing(100.0, 99.0, 101.0, 9)), "torch": PeerResult(None, "ImportError: no")},
        ),
    )


def setting():
    return setting_of(find_model("GLM-5-FP8").geometry(), Load())


def report_with(*, status=None, machine=MACHINE):
    chosen = (result(status=status),) if status else results()
    return Report(setting(), machine, chosen, 41.4)
