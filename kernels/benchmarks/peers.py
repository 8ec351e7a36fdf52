"""Other implementations of sparse MLA attention, measured in the same run.

The Triton kernel for XPU and the FlashMLA extension come from a vLLM installation, or from a folder that holds
`xpu_mla_sparse.py` and `_flashmla_C.abi3.so` taken out of its wheel. Neither is part of this project.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch

from dsa_kernels.bench import Peer, require
from dsa_kernels.bench.inputs import spaced
from dsa_kernels.bench.mla_cases import CHECKED_TOKENS, MlaInputs

#: (q, kv, indices, sm_scale) -> out
MlaPeer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
PEER_LIMIT = 2e-2


def torch_gather(q: torch.Tensor, kv: torch.Tensor, indices: torch.Tensor, sm_scale: float) -> torch.Tensor:
    """Gather, product, softmax and product in PyTorch; 256 tokens at a time."""
    parts = []
    for rows, index in zip(q.split(256), indices.split(256), strict=True):
        gathered = kv[index[:, 0].long(), 0]  # [s_q, topk, d_qk]
        weights = torch.softmax((rows @ gathered.transpose(1, 2)).float() * sm_scale, dim=-1)
        parts.append(weights.to(q.dtype) @ gathered[..., :512])
    return torch.cat(parts)


def _vllm_folder() -> Path | None:
    if "vllm" in sys.modules and sys.modules["vllm"].__spec__ is None:
        return None  # the stand-in below
    spec = importlib.util.find_spec("vllm")
    return Path(spec.origin).parent if spec and spec.origin else None


def _find(name: str, folder: Path | None, inside_vllm: str) -> Path | None:
    vllm = _vllm_folder()
    candidates = [folder / name] if folder else []
    candidates += [vllm / inside_vllm] if vllm else []
    return next((path for path in candidates if path.exists()), None)


def load_xpu(folder: Path | None) -> MlaPeer | str:
    """VLLM's in-wheel Triton kernel, or why it is not there."""
    path = _find("xpu_mla_sparse.py", folder, "v1/attention/ops/xpu_mla_sparse.py")
    if path is None:
        return "no vLLM installation and no copy of xpu_mla_sparse.py"
    if "vllm" not in sys.modules:
        import triton
        import triton.language as tl

        # All that the file takes from vLLM.
        stand_in = types.ModuleType("vllm.triton_utils")
        stand_in.triton, stand_in.tl = triton, tl
        stand_in.LOG2E, stand_in.LOGE2 = math.log2(math.e), math.log(2)
        sys.modules["vllm"] = types.ModuleType("vllm")
        sys.modules["vllm.triton_utils"] = stand_in
    spec = importlib.util.spec_from_file_location("xpu_mla_sparse", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        return f"{path.name}: {error}"

    def run(q: torch.Tensor, kv: torch.Tensor, indices: torch.Tensor, sm_scale: float) -> torch.Tensor:
        rope = q.shape[2] - 512
        return module.triton_bf16_mla_sparse_interface(q, kv, indices, sm_scale, 512, rope)[0]

    return run


def load_flashmla(folder: Path | None) -> MlaPeer | str:
    """FlashMLA's sparse prefill with heads padded to 64 or 128 beforehand, or why it is not there."""
    path = _find("_flashmla_C.abi3.so", folder, "_flashmla_C.abi3.so")
    if path is None:
        return "no vLLM installation and no copy of _flashmla_C.abi3.so"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{path.name}: {str(error).splitlines()[0]}"

    def run(q: torch.Tensor, kv: torch.Tensor, indices: torch.Tensor, sm_scale: float) -> torch.Tensor:
        # The padding is the kernel's demand, so it is part of its time.
        heads = q.shape[1]
        padded = 64 if heads <= 64 else 128
        if heads != padded:
            q = torch.nn.functional.pad(q, (0, 0, 0, padded - heads))
        results = torch.ops._flashmla_C.sparse_prefill_fwd(q, kv, indices, sm_scale, 512, None, None, None)
        return results[0][:, :heads]

    return run


def load_mla_peers(folder: Path | None) -> dict[str, MlaPeer | str]:
    """Every peer, or the reason why it is not measured."""
    return {"XPU": load_xpu(folder), "torch": torch_gather, "FlashMLA": load_flashmla(folder)}


def mla_peer(peer: MlaPeer, inputs: MlaInputs) -> Peer:
    """A peer over the inputs of a case with a flat bf16 cache."""
    some = spaced(inputs.q.shape[0], CHECKED_TOKENS)

    def call(indices: torch.Tensor) -> torch.Tensor:
        return peer(inputs.q, inputs.cache, indices, inputs.sm_scale)

    def check() -> float:
        return require("peer", call(inputs.selections[0])[some], inputs.expected(some), PEER_LIMIT)

    return Peer([(lambda indices=indices: call(indices)) for indices in inputs.selections], check)
