"""Every case of mHC's product passes on the reference and fails on an op with the fault that it is there for."""

import pytest
import torch

from dsa_kernels import mhc

pytestmark = pytest.mark.usefixtures("references")


def with_fault(change):
    """The reference in its first split, then a fault."""

    def product(x, fn, out, sqrsum, n_splits):
        out.zero_()
        sqrsum.zero_()
        out[0], sqrsum[0] = mhc.naive_hc_prenorm(x, fn)
        change(x, fn, out, sqrsum)

    return product


def cut_tile(x, fn, out, sqrsum):
    out[:, x.shape[0] // 16 * 16 :] = 0


def lost_split(x, fn, out, sqrsum):
    out[-1] = 1


def as_tf32(x, fn, out, sqrsum):
    rounded = ((fn.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
    out[0] = mhc.naive_hc_prenorm(x, rounded)[0]


def spoils_its_tile(x, fn, out, sqrsum):
    out[:, :16] += out[:, :1]


def beyond(x, fn, out, sqrsum):
    whole = out.as_strided((out.shape[0] + 1, *out.shape[1:]), out.stride())
    whole[-1] = 0


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("products of a prefill", cut_tile),
        ("products of a prefill", beyond),
        ("products of few tokens", lost_split),
        ("products of few tokens", cut_tile),
        ("products of one sign", as_tf32),
        ("tokens with NaN", spoils_its_tile),
    ],
)
def test_a_fault_fails_its_case(run, install, case, change):
    assert run("mhc", case).status == "pass"
    install(mhc, hc_prenorm_gemm=with_fault(change))
    assert run("mhc", case).status == "fail"
