"""The product against the module of transformers' DeepSeek-V4: from what it gives, the module's weights follow."""

import pytest
import torch

from dsa_kernels.mhc import hc_prenorm_gemm

transformers = pytest.importorskip("transformers")
modeling = pytest.importorskip("transformers.models.deepseek_v4.modeling_deepseek_v4")

HIDDEN, TOKENS, STREAMS, SPLITS = 128, 37, 4, 3


def test_the_weights_of_the_streams_are_those_of_the_hyper_connection(device):
    config = transformers.DeepseekV4Config(hidden_size=HIDDEN, hc_mult=STREAMS)
    module = modeling.DeepseekV4HyperConnection(config)
    generator = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5
    streams = torch.randn(1, TOKENS, STREAMS, HIDDEN, generator=generator).bfloat16()
    with torch.no_grad():
        wanted, _, _ = module(streams)

    fn = module.fn.data.to(device)
    out = torch.empty(SPLITS, TOKENS, fn.shape[0], device=device)
    sqrsum = torch.empty(SPLITS, TOKENS, device=device)
    hc_prenorm_gemm(streams.view(TOKENS, -1).to(device), fn, out, sqrsum, SPLITS)
    mean_square = sqrsum.sum(0).cpu() / (STREAMS * HIDDEN)
    mixes = out.sum(0).cpu() * torch.rsqrt(mean_square + config.rms_norm_eps)[:, None]
    post = mixes[:, STREAMS : 2 * STREAMS] * module.scale[1] + module.base[STREAMS : 2 * STREAMS]
    assert torch.allclose(2 * torch.sigmoid(post), wanted[0], rtol=1e-5, atol=1e-5)
