import pytest

from dsa_kernels.mhc.dispatch import ROUTES, find_route, tile_of


@pytest.mark.parametrize(
    ("tokens", "splits", "rows"),
    [
        (1, 64, 16),
        (16, 108, 16),
        (17, 64, 16),
        (17, 108, 32),
        (33, 108, 64),
        (64, 64, 32),
        (64, 1, 16),
        (512, 13, 64),
        (2048, 3, 64),
        (4096, 1, 32),
        (8192, 1, 64),
    ],
)
def test_tokens_of_a_program_on_an_a100(tokens, splits, rows):
    assert find_route(tokens, splits, 108).rows == rows


def test_every_row_of_the_table_serves_somebody():
    served = {find_route(tokens, splits, 108) for tokens in (1, 17, 64, 8192) for splits in (1, 64, 108)}
    assert served == set(ROUTES)


@pytest.mark.parametrize("multiprocessors", [1, 2, 46, 132])
def test_every_shape_is_served(multiprocessors):
    for tokens in (1, 15, 33, 100_000):
        assert find_route(tokens, 1, multiprocessors).least_tokens <= tokens


def test_a_step_is_a_multiple_of_the_kernels_share_of_a_warp():
    for route in ROUTES:
        tile = tile_of(route, gluon=True)
        assert tile.step == 32 * tile.num_warps
