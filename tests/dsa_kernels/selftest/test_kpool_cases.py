"""Every case of pooled index keys passes on the references and fails on an op with the fault that it is there for."""

import pytest
import torch

from dsa_kernels import kpool
from dsa_kernels.fp8 import naive_quantize_fp8
from dsa_kernels.kpool.naive import hadamard_matrix, naive_rotate

pytestmark = pytest.mark.usefixtures("references")


def in_another_order(x):
    order = torch.arange(128).view(64, 2).T.reshape(-1)
    return naive_quantize_fp8(naive_rotate(x)[:, order])


def not_normalised(x):
    return naive_quantize_fp8((x.double() @ hadamard_matrix()).float() * 128**0.5)


def saturating(x):
    codes, scale = kpool.naive_hadamard_quantize_fp8(x)
    return (codes.float() * 2).clamp(-448, 448).to(torch.float8_e4m3fn), scale / 2


@pytest.mark.parametrize("rotate", [in_another_order, not_normalised, saturating])
def test_a_wrong_rotation_fails(run, install, rotate):
    assert run("kpool", "rotate").status == "pass"
    install(kpool, hadamard_quantize_fp8=rotate)
    assert run("kpool", "rotate").status == "fail"


def unmasked(cache, key, gate, ape, slots, mask):
    kpool.naive_kpool_compress_and_cache(cache, key, gate, ape, slots)


def one_softmax(cache, key, gate, ape, slots, mask):
    kpool.naive_kpool_compress_and_cache(cache, key, gate.float().mean(-1, True).expand_as(gate), ape, slots, mask)


def without_ape(cache, key, gate, ape, slots, mask):
    kpool.naive_kpool_compress_and_cache(cache, key, gate, torch.zeros_like(ape), slots, mask)


@pytest.mark.parametrize("compress", [unmasked, one_softmax, without_ape])
def test_wrong_pools_of_a_prefill_fail(run, install, compress):
    assert run("kpool", "pools of a prefill").status == "pass"
    install(kpool, kpool_compress_and_cache=compress)
    assert run("kpool", "pools of a prefill").status == "fail"


def forgets(cache, tail, tails, key, gate, ape, slots, positions):
    kept = tail.clone()
    kpool.naive_kpool_decode_update(cache, tail, tails, key, gate, ape, slots, positions)
    tail.copy_(kept)


def pads_are_kept(cache, tail, tails, key, gate, ape, slots, positions):
    kpool.naive_kpool_decode_update(cache, tail, tails.clamp_min(0), key, gate, ape, slots, positions.clamp_min(0))


def last_token_is_left_out(cache, tail, tails, key, gate, ape, slots, positions):
    late = torch.where(positions % 4 == 3, positions - 1, positions)
    kpool.naive_kpool_decode_update(cache, tail, tails, key, gate, ape, slots, late)


@pytest.mark.parametrize("case", ["pools that decoding completes", "pools that a draft completes"])
@pytest.mark.parametrize("update", [forgets, pads_are_kept, last_token_is_left_out])
def test_wrong_tails_fail(run, install, case, update):
    assert run("kpool", case).status == "pass"
    install(kpool, kpool_decode_update=update)
    assert run("kpool", case).status == "fail"


def test_a_pool_that_ends_inside_a_step_reads_what_the_step_left(run, install):
    def from_before_the_step(cache, tail, tails, key, gate, ape, slots, positions):
        before = tail.clone()
        kpool.naive_kpool_decode_update(cache, tail, tails, key, gate, ape, torch.full_like(slots, -1), positions)
        for token in range(key.shape[1]):
            part = [one[:, token : token + 1] for one in (tails, key, gate)]
            kpool.naive_kpool_decode_update(
                cache, before.clone(), *part, ape, slots[:, token : token + 1], positions[:, token : token + 1]
            )

    install(kpool, kpool_decode_update=from_before_the_step)
    assert run("kpool", "pools that decoding completes").status == "pass"
    assert run("kpool", "pools that a draft completes").status == "fail"
