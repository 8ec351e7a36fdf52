"""Says in seconds whether an unpacked archive of vLLM works on this GPU: one line per library and op, none fatal.

PYTHONPATH=build/gpu/site:.:kernels python scripts/gpu/probe.py
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HEADS, ROWS, PAGE = 64, 256, 64


def machine() -> str:
    """Name the GPU, the software and where nvcc and its headers are, which DeepGEMM needs."""
    import torch
    import triton

    nvcc = shutil.which("nvcc")
    home = Path(os.environ.get("CUDA_HOME") or (Path(nvcc).parent.parent if nvcc else "/usr/local/cuda"))
    release = "none"
    if (home / "bin" / "nvcc").exists():
        release = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True).stdout.split()[
            -1
        ]
    headers = {name: (home / "include" / name).exists() for name in ("cuda.h", "cuda_runtime.h", "nv/target")}
    return (
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, CUDA home {home}, "
        f"nvcc {release}, headers {headers}, g++ {shutil.which('g++')}"
    )


def vllm_itself() -> str:
    """Import vLLM and its platform."""
    import vllm
    from vllm.platforms import current_platform

    return (
        f"{vllm.__version__}, {type(current_platform).__name__}, capability {current_platform.get_device_capability()}"
    )


def c_op() -> str:
    """Run an op of _C: RMS norm against PyTorch's own."""
    import torch
    import vllm._custom_ops as ops

    x = torch.randn(32, 1024, dtype=torch.bfloat16, device="cuda")
    weight, out = torch.ones(1024, dtype=torch.bfloat16, device="cuda"), torch.empty_like(x)
    ops.rms_norm(out, x, weight, 1e-5)
    expected = torch.nn.functional.rms_norm(x.float(), (1024,), weight.float(), 1e-5)
    return f"largest difference {(out.float() - expected).abs().max().item():.4f}"


def top_k_op() -> str:
    """Run top_k_per_row_decode against torch.topk."""
    import torch
    import vllm._custom_ops as ops

    logits = torch.randn(4, 4096, device="cuda")
    lengths = torch.full((4,), 4096, dtype=torch.int32, device="cuda")
    found = torch.empty(4, 512, dtype=torch.int32, device="cuda")
    ops.top_k_per_row_decode(logits, 1, lengths, found, 4, logits.stride(0), logits.stride(1), 512)
    expected = logits.topk(512).indices
    return f"same sets: {bool((found.sort().values == expected.sort().values).all())}"


def moe_op() -> str:
    """Run an op of _moe_C: sum over a token's experts."""
    import torch
    import vllm._custom_ops as ops

    x, out = torch.randn(8, 2, 256, device="cuda"), torch.empty(8, 256, device="cuda")
    ops.moe_sum(x, out)
    return f"largest difference {(out - x.sum(1)).abs().max().item():.6f}"


def index_cache_op() -> str:
    """Run the op that writes the indexer's fp8 cache."""
    import torch
    import vllm._custom_ops as ops

    keys = torch.randn(PAGE, 128, dtype=torch.bfloat16, device="cuda")
    cache = torch.zeros(1, PAGE, 132, dtype=torch.uint8, device="cuda")
    ops.indexer_k_quant_and_cache(keys, cache, torch.arange(PAGE, device="cuda"), 128, "ue8m0")
    return f"{int((cache != 0).sum())} of {cache.numel()} bytes written"


def flash_mla() -> str:
    """Run FlashMLA's sparse prefill and its fp8 decode once."""
    import torch
    from vllm.v1.attention.ops.flashmla import flash_mla_sparse_fwd

    q = torch.randn(4, HEADS, 576, dtype=torch.bfloat16, device="cuda")
    kv = torch.randn(1024, 1, 576, dtype=torch.bfloat16, device="cuda")
    rows = torch.stack([torch.randperm(1024, device="cuda")[:ROWS] for _ in range(4)]).int().unsqueeze(1)
    out = flash_mla_sparse_fwd(q, kv, rows, 576**-0.5)[0]
    selected = kv[rows[:, 0].long(), 0].float()  # [4, ROWS, 576]
    weights = torch.einsum("thd,trd->thr", q.float(), selected).mul(576**-0.5).softmax(-1)
    expected = torch.einsum("thr,trd->thd", weights, selected[..., :512])
    return f"largest difference {(out.float() - expected).abs().max().item():.4f}"


def deep_gemm() -> str:
    """Let DeepGEMM compile and run its ragged logits kernel."""
    import torch
    from vllm.utils.deep_gemm import fp8_fp4_mqa_logits

    q = torch.randn(64, 32, 128, device="cuda").to(torch.float8_e4m3fn)
    k, scale = torch.randn(256, 128, device="cuda").to(torch.float8_e4m3fn), torch.ones(256, device="cuda")
    weights = torch.randn(64, 32, device="cuda")
    starts = torch.zeros(64, dtype=torch.int32, device="cuda")
    ends = torch.full((64,), 256, dtype=torch.int32, device="cuda")
    out = fp8_fp4_mqa_logits((q, None), (k, scale), weights, starts, ends, clean_logits=False)
    scores = torch.einsum("mhd,nd->mhn", q.float(), k.float()).relu()
    expected = torch.einsum("mhn,mh->mn", scores, weights)  # [M, N]
    return f"largest difference {(out[:, :256] - expected).abs().max().item():.4f} of {expected.abs().max().item():.0f}"


def our_kernels() -> str:
    """Run the plugin's own op on the same shapes."""
    import torch

    from dsa_kernels.indexer import fp8_mqa_logits

    q = torch.randn(64, 32, 128, device="cuda").to(torch.float8_e4m3fn)
    k, scale = torch.randn(256, 128, device="cuda").to(torch.float8_e4m3fn), torch.ones(256, device="cuda")
    starts = torch.zeros(64, dtype=torch.int32, device="cuda")
    ends = torch.full((64,), 256, dtype=torch.int32, device="cuda")
    out = fp8_mqa_logits(q, (k, scale), torch.randn(64, 32, device="cuda"), starts, ends, clean_logits=False)
    return f"finite: {bool(out.isfinite().all())}"


PROBES = (machine, vllm_itself, c_op, moe_op, top_k_op, index_cache_op, flash_mla, our_kernels, deep_gemm)


def run(probe: Callable[[], str]) -> bool:
    """Run one probe, and print its line."""
    start = time.monotonic()
    try:
        import torch

        found = probe()
        torch.cuda.synchronize()
        works = True
    except Exception as error:
        found, works = f"{type(error).__name__}: {str(error)[:600]}", False
    print(
        f"{'ok    ' if works else 'FAILED'} {probe.__name__:<15} {time.monotonic() - start:6.1f} s  {found}", flush=True
    )
    return works


def main() -> int:
    """Run all probes; a CUDA error in one makes the later ones fail too, so the first failure tells."""
    return 0 if min([run(probe) for probe in PROBES]) else 1


if __name__ == "__main__":
    sys.exit(main())
