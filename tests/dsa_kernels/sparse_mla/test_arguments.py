import pytest
import torch

from dsa_kernels import ArgumentError, sparse_mla_fwd, sparse_mla_with_kvcache
from tests.dsa_kernels.sparse_mla.cases import make_case


def odd(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, one element past a 16-byte boundary."""
    room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    moved = room[1:].view(tensor.shape)
    moved.copy_(tensor)
    return moved


WRONG = {
    "q: got shape [2, 4608]": lambda c: {"q": c.q.flatten(1)},
    "q: got dtype torch.float32": lambda c: {"q": c.q.float()},
    "q: got 129 heads": lambda c: {"q": c.q[:, :1].expand(2, 129, 576).contiguous()},
    "q: got head dimension 640": lambda c: {"q": torch.zeros(2, 8, 640, dtype=torch.bfloat16, device=c.q.device)},
    "q: got strides": lambda c: {"q": c.q.transpose(1, 2).contiguous().transpose(1, 2)},
    "q: got data at an address 2 bytes off": lambda c: {"q": odd(c.q)},
    "q: got NoneType": lambda c: {"q": None},
    "kv: got shape [200, 576]": lambda c: {"kv": c.kv[:, 0]},
    "kv: got shape [200, 1, 512]": lambda c: {"kv": c.kv[..., :512]},
    "kv: got dtype torch.float16": lambda c: {"kv": c.kv.half()},
    "kv: got a stride of 1154 bytes": lambda c: {
        "kv": torch.zeros(200, 1, 577, dtype=torch.bfloat16, device=c.kv.device)[..., :576]
    },
    "indices: got dtype torch.int64": lambda c: {"indices": c.indices.long()},
    "indices: got shape [1, 1, 64]": lambda c: {"indices": c.indices[:1]},
    "indices: got topk 0": lambda c: {"indices": c.indices[..., :0]},
    "d_v: got 256": lambda c: {"d_v": 256},
    "attn_sink: got shape [7]": lambda c: {"attn_sink": torch.zeros(7, device=c.q.device)},
    "attn_sink: got dtype torch.bfloat16": lambda c: {"attn_sink": c.q[0, :, 0]},
    "topk_length: got shape [3]": lambda c: {"topk_length": torch.zeros(3, dtype=torch.int32, device=c.q.device)},
    "out: got shape [2, 8, 576]": lambda c: {"out": torch.empty_like(c.q)},
    "out: got dtype torch.float32": lambda c: {"out": torch.empty(2, 8, 512, device=c.q.device)},
    "kv: got device meta": lambda c: {"kv": c.kv.to("meta")},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(device, message):
    case = make_case(device)
    with pytest.raises(ArgumentError) as error:
        sparse_mla_fwd(**{**case.arguments(), **WRONG[message](case)})
    assert str(error.value).startswith(message)
    assert "accepted: " in str(error.value)


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "message"),
    [
        ((4, 16, 1, 576), torch.bfloat16, {"kv_format": "fp8"}, "kv_format: got 'fp8'"),
        ((4, 16, 1, 576), torch.uint8, {"kv_format": "fp8_ds_mla"}, "kv_cache: got shape [4, 16, 1, 576]"),
        ((4, 16, 1, 656), torch.float8_e4m3fn, {"kv_format": "fp8_ds_mla"}, "kv_cache: got dtype torch.float8_e4m3fn"),
        ((4, 16, 576), torch.bfloat16, {}, "kv_cache: got shape [4, 16, 576]"),
        ((4, 16, 1, 656), torch.uint8, {}, "kv_cache: got shape [4, 16, 1, 656]"),
    ],
)
def test_wrong_caches_are_named(device, shape, dtype, options, message):
    case = make_case(device)
    cache = torch.zeros(shape, dtype=torch.uint8, device=device).to(dtype)
    with pytest.raises(ArgumentError) as error:
        sparse_mla_with_kvcache(case.q, cache, case.indices, 1.0, **options)
    assert str(error.value).startswith(message)


def test_fp8_tokens_have_a_rope_part(device):
    case = make_case(device, head_dim=512)
    cache = torch.zeros(4, 16, 1, 656, dtype=torch.uint8, device=device)
    with pytest.raises(ArgumentError, match="q: got head dimension 512, accepted: 576"):
        sparse_mla_with_kvcache(case.q, cache, case.indices, 1.0, kv_format="fp8_ds_mla")
