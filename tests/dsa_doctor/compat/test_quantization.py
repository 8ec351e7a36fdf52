"""What each release of vLLM takes of quantised checkpoints, read from its sources."""

from pathlib import Path

import pytest

from dsa_doctor.compat.quantization import quantization_support
from dsa_doctor.compat.sources import SourceTree
from tests.releases import RELEASES, release_folder

EXPECTED: dict[str, tuple[object, ...]] = {
    # 0.26.0, 0.28.0, 0.30.0, 0.32.0, 0.33.0; each value was looked up in the sources by hand.
    "fused_indexer_key": (True,) * 5,
    "widened_key_scales": (("block",),) * 2 + (("block", "channel", "group"),) * 3,
    "one_scheme_for_experts": (True,) * 5,
    "orders_columns": (True, True, False, False, False),
    "orders_columns_gptq": (True, True, False, False, False),
    "int4_fp8_linear": ("9.0",) * 5,
    "int4_fp8_experts": ("9.0", "9.0", "9.0", "", ""),
    "int4_int8_linear": (True,) * 5,
    "int4_int8_experts": (False,) * 5,
    "head_by_class": (False,) * 5,
    "mtp_splits_fused": (False,) * 5,
    "mtp_takes_gptq": (True, True, False, False, False),
    "awq_bits": ((4,),) * 5,
    "gptq_bits": ((4, 8),) * 5,
}


@pytest.mark.parametrize("version", RELEASES)
def test_each_release(version: str) -> None:
    column = RELEASES.index(version)
    found = quantization_support(SourceTree(release_folder(version)))
    assert found is not None
    assert {name: getattr(found, name) for name in EXPECTED} == {name: row[column] for name, row in EXPECTED.items()}
    assert {"awq", "gptq", "fp8", "compressed-tensors", "modelopt", "auto-round", "quark"} <= set(found.methods)
    assert ("bitsandbytes" in found.methods) == (version == "0.26.0")
    assert "gguf" not in found.methods


def test_sources_that_are_not_known_say_nothing(tmp_path: Path) -> None:
    assert quantization_support(SourceTree(tmp_path)) is None
