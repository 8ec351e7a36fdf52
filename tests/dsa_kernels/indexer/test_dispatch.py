from pathlib import Path

import pytest

from dsa_kernels.indexer.dispatch import (
    PAGED_ROUTES,
    RAGGED_ROUTES,
    find_paged_route,
    find_ragged_route,
    paged_config,
    ragged_config,
)
from dsa_kernels.targets import SHARED_MEMORY_LIMIT

HEADS = (16, 32, 64, 128)


def test_the_configurations_are_those_that_were_measured():
    """Golden: a changed configuration is to be measured again, then written here."""
    assert configurations() == Path(__file__).with_name("configurations.txt").read_text()


def configurations() -> str:
    lines = []
    for capability in sorted(SHARED_MEMORY_LIMIT):
        for heads in HEADS:
            for gluon in (False, True):
                values = ", ".join(map(str, vars(ragged_config(capability, heads, gluon)).values()))
                lines.append(f"ragged {capability} {heads} {'gluon' if gluon else 'triton'}: {values}")
            for next_n in (1, 2, 4):
                values = ", ".join(map(str, vars(paged_config(capability, heads, next_n)).values()))
                lines.append(f"paged {capability} {heads} next_n {next_n}: {values}")
    return "\n".join(lines) + "\n"


def test_every_row_of_the_tables_serves_somebody():
    ragged = {
        id(find_ragged_route(capability, heads, gluon))
        for capability in SHARED_MEMORY_LIMIT
        for heads in HEADS
        for gluon in (False, True)
    }
    paged = {
        id(find_paged_route(capability, heads, next_n))
        for capability in SHARED_MEMORY_LIMIT
        for heads in HEADS
        for next_n in (1, 2)
    }
    assert ragged == {id(route) for route in RAGGED_ROUTES}
    assert paged == {id(route) for route in PAGED_ROUTES}


@pytest.mark.parametrize("capability", [70, 91, 110, 130])
def test_a_target_that_is_not_known_is_served_as_the_smallest(capability):
    assert ragged_config(capability, 32, True).num_warps in (4, 8)
    assert paged_config(capability, 32, 1).most_columns in (128, 256)
