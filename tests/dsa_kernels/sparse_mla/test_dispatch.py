from pathlib import Path

import pytest

from dsa_kernels.sparse_mla.dispatch import MAX_HEADS, ROUTES, find_route, routes_on, tile_config
from dsa_kernels.targets import SHARED_MEMORY_LIMIT, VERIFIED_TARGETS, multiprocessor_memory
from tests.dsa_kernels.aot.tables import compiled_rows


@pytest.mark.parametrize("capability", sorted(SHARED_MEMORY_LIMIT))
@pytest.mark.parametrize("heads", [1, 16, 17, 128])
@pytest.mark.parametrize("fp8", [False, True])
def test_without_gluon_there_is_only_triton(capability, heads, fp8):
    assert tile_config(capability, heads, fp8, gluon=False).kernel == "triton"


@pytest.mark.parametrize(
    ("capability", "convert"), [(80, False), (86, False), (87, False), (89, True), (90, True), (120, True)]
)
def test_few_heads_over_fp8_rows_are_decoded_as_the_target_does_it_best(capability, convert):
    for heads in (1, 8, 16, 32):
        config = tile_config(capability, heads, fp8=True, gluon=True)
        assert (config.kernel, config.convert) == ("mma_h16", convert)
    assert not tile_config(capability, 16, fp8=False, gluon=True).convert


@pytest.mark.parametrize(
    ("capability", "kernel"),
    [(80, "mma_h64"), (86, "mma_h16"), (87, "mma_h64"), (89, "mma_h16"), (90, "wgmma_h64"), (120, "mma_h16")],
)
@pytest.mark.parametrize("fp8", [False, True])
def test_many_heads_get_the_matrix_instruction_of_the_target(capability, kernel, fp8):
    config = tile_config(capability, 128, fp8=fp8, gluon=True)
    assert config.kernel == kernel
    assert config.convert == (fp8 and capability >= 89)


@pytest.mark.parametrize("capability", [80, 87])
@pytest.mark.parametrize("fp8", [False, True])
def test_up_to_32_heads_are_two_programs_of_16_where_a_tile_of_64_would_be_half_empty(capability, fp8):
    few = tile_config(capability, 16, fp8=fp8, gluon=True)
    assert few.block_h == 16
    assert {tile_config(capability, heads, fp8=fp8, gluon=True) for heads in (17, 24, 32)} == {few}
    assert tile_config(capability, 33, fp8=fp8, gluon=True).block_h == 64


@pytest.mark.parametrize("capability", [86, 89, 120, 121])
@pytest.mark.parametrize("fp8", [False, True])
def test_a_tile_of_64_heads_does_not_fit_small_shared_memory(capability, fp8):
    assert len({tile_config(capability, heads, fp8=fp8, gluon=True) for heads in (1, 16, 17, 64, 128)}) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("capability", VERIFIED_TARGETS)
def test_programs_for_few_heads_share_a_multiprocessor(capability, once):
    rows = [row for row in compiled_rows(once, capability) if row.kernel == "attend_mma_h16_kernel"]
    assert {row.op for row in rows} == {"sparse_mla_fwd", "sparse_mla_with_kvcache"}
    for row in rows:
        config = tile_config(capability, 16, fp8="fp8_ds_mla" in row.variant, gluon=True)
        assert config.programs_per_sm * (row.shared_bytes + 1024) <= multiprocessor_memory(capability)
        assert config.programs_per_sm * 32 * row.num_warps * row.registers <= 65_536


@pytest.mark.parametrize("gluon", [False, True])
def test_the_tiles_are_those_that_were_measured(gluon):
    """Golden: every target class x heads x format; a changed tile is to be measured again, then written here."""
    written = Path(__file__).with_name("tiles-gluon.txt" if gluon else "tiles-triton.txt").read_text()
    assert tiles(gluon) == written


def tiles(gluon: bool) -> str:
    lines = ["capability format heads: kernel, block_h x block_n, warps, stages, programs_per_sm, convert"]
    for capability in sorted(SHARED_MEMORY_LIMIT):
        for fp8 in (False, True):
            for heads in (1, 8, 16, 17, 32, 33, 64, 128):
                one = tile_config(capability, heads, fp8, gluon)
                shape = f"{one.block_h} x {one.block_n}, {one.num_warps}, {one.num_stages}, {one.programs_per_sm}"
                kv_format = "fp8" if fp8 else "two-byte"
                lines.append(f"{capability} {kv_format} {heads}: {one.kernel}, {shape}, {one.convert}")
    return "\n".join(lines) + "\n"


def test_every_row_of_the_table_serves_somebody():
    reached = {
        id(route)
        for capability in SHARED_MEMORY_LIMIT
        for gluon in (False, True)
        for route, _, _ in routes_on(capability, gluon)
    }
    assert reached == {id(route) for route in ROUTES}


@pytest.mark.parametrize("gluon", [False, True])
@pytest.mark.parametrize("capability", [*sorted(SHARED_MEMORY_LIMIT), 70, 91, 130])
def test_the_routes_of_a_target_cover_every_head_count_once(capability, gluon):
    for kv_format in ("two-byte", "fp8_ds_mla"):
        spans = [heads for _, one, heads in routes_on(capability, gluon) if one == kv_format]
        assert [count for span in spans for count in span] == list(range(1, MAX_HEADS + 1))
        for span in spans:
            chosen = {id(find_route(capability, heads, kv_format == "fp8_ds_mla", gluon)) for heads in span}
            assert len(chosen) == 1


def test_more_heads_than_the_table_knows_are_served_as_the_most():
    assert tile_config(80, 4 * MAX_HEADS, fp8=False, gluon=True) == tile_config(80, MAX_HEADS, fp8=False, gluon=True)
