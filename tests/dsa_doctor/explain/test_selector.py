import pytest

from dsa_doctor.explain.selector import parse, split_reasons


def test_reasons_with_commas_of_their_own():
    listed = "sparse not supported, vllm._flashmla_C is not available, likely was not compiled due to insufficient nvcc"
    assert split_reasons(listed) == (
        "sparse not supported",
        "vllm._flashmla_C is not available, likely was not compiled due to insufficient nvcc",
    )


def test_python_quotes_and_older_spelling():
    error = parse(
        "No valid attention backend found with head_size: 576, use_sparse: True. Reasons: {'TRITON_MLA': ['a', 'b']}"
    )
    assert error.settings["head_size"] == "576"
    assert error.use_sparse is True
    assert [(one.name, one.reasons) for one in error.backends] == [("TRITON_MLA", ("a", "b"))]


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [("{TRITON_MLA: [sparse not supported]}", True), ("{X_SPARSE: [non-sparse not supported]}", False), ("{", None)],
)
def test_reasons_tell_what_the_configuration_does_not(reasons, expected):
    assert parse(f"No valid attention backend found. Reasons: {reasons}").use_sparse is expected


def test_text_behind_the_map_is_not_part_of_it():
    error = parse("use_sparse=True). Reasons: {TRITON_MLA: [a]}. Later: {OTHER_THING: [b]}")
    assert [one.name for one in error.backends] == ["TRITON_MLA"]


def test_a_map_that_is_cut_short():
    error = parse("use_sparse=True). Reasons: {TRITON_MLA: [a], FLASHMLA_SPARSE: [compute capa")
    assert [one.name for one in error.backends] == ["TRITON_MLA"]


def test_only_the_cache_dtype():
    error = parse("kv_cache_dtype=fp8, use_sparse=True). Reasons: {A_MLA: [kv_cache_dtype not supported], B_MLA: [x]}")
    assert error.only_cache_dtype == ("A_MLA",)
