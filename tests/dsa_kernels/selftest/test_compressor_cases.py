"""Every case of the compressor passes on the references and fails on an op with the fault that it is there for."""

import pytest
import torch

from dsa_kernels import compressor

pytestmark = pytest.mark.usefixtures("references")


def halves_swapped(kv_cache, **given):
    state = given["state_cache"].unflatten(-1, (2, 2, -1)).flip(2).flatten(-3)
    compressor.naive_compress_to_rows(kv_cache, **given | {"state_cache": state})


def without_the_group_before(kv_cache, **given):
    state = given["state_cache"].unflatten(-1, (2, 2, -1))[:, :, :, 1].flatten(-2)
    compressor.naive_compress_to_rows(kv_cache, **given | {"state_cache": state, "overlap": False})


@pytest.mark.parametrize("compress", [halves_swapped, without_the_group_before])
def test_wrong_overlaps_fail(run, install, compress):
    assert run("compressor", "rows of groups that overlap").status == "pass"
    install(compressor, compress_to_rows=compress)
    assert run("compressor", "rows of groups that overlap").status == "fail"


def test_a_lost_step_of_a_long_window_fails(run, install):
    assert run("compressor", "rows of long groups").status == "pass"

    def last_states_only(kv_cache, **given):
        state = given["state_cache"].clone()
        for request, table in enumerate(given["block_table"].tolist()):
            del request
            for index, block in enumerate(table):
                if index * 4 % 128 < 8:  # the first 8 of each 128 tokens
                    state[block, :, 512:] = float("-inf")
        compressor.naive_compress_to_rows(kv_cache, **given | {"state_cache": state})

    install(compressor, compress_to_rows=last_states_only)
    assert run("compressor", "rows of long groups").status == "fail"


def by_the_tokens_position(kv_cache, **given):
    table = given["cos_sin_cache"].roll(-3, 0)
    compressor.naive_compress_to_index_keys(kv_cache, **given | {"cos_sin_cache": table})


def padded_tokens_too(kv_cache, **given):
    states = given["state_slots"].clamp_min(0)
    compressor.naive_compress_to_index_keys(kv_cache, **given | {"state_slots": states})


@pytest.mark.parametrize("compress", [by_the_tokens_position, padded_tokens_too])
def test_wrong_index_keys_fail(run, install, compress):
    assert run("compressor", "index keys").status == "pass"
    install(compressor, compress_to_index_keys=compress)
    assert run("compressor", "index keys").status == "fail"


def forth(o, positions, table, groups):
    cos, sin = table.chunk(2, -1)
    return compressor.naive_inverse_rope(o, positions, torch.cat((cos, -sin), -1), groups)


def groups_mixed(o, positions, table, groups):
    order = torch.arange(o.shape[1]).view(groups, -1).T.reshape(-1)
    return compressor.naive_inverse_rope(o[:, order], positions, table, groups)


@pytest.mark.parametrize("rotate", [forth, groups_mixed])
def test_a_wrong_rope_of_the_output_fails(run, install, rotate):
    assert run("compressor", "the output").status == "pass"
    install(compressor, inverse_rope_grouped=rotate)
    assert run("compressor", "the output").status == "fail"


def every_row(k, positions, weight, eps, table, cache, slots, ratio):
    compressor.naive_index_key_norm_rope_store(
        k, positions * 2 + 1, weight, eps, table.repeat(3, 1), cache, slots, ratio
    )


def by_the_last_position(k, positions, weight, eps, table, cache, slots, ratio):
    compressor.naive_index_key_norm_rope_store(k, positions, weight, eps, table.roll(-1, 0), cache, slots, ratio)


@pytest.mark.parametrize("store", [every_row, by_the_last_position])
def test_wrong_keys_without_pooling_fail(run, install, store):
    assert run("compressor", "keys without").status == "pass"
    install(compressor, index_key_norm_rope_store=store)
    assert run("compressor", "keys without").status == "fail"
