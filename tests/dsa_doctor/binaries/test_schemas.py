import re
from pathlib import Path

from dsa_doctor.binaries import SharedObject, op_schemas


def test_schemas_of_a_real_extension(main_extension: Path) -> None:
    file = SharedObject(main_extension)
    schemas = op_schemas(file.data, *(file.section(".rodata") or (0, 0)))
    by_name = {schema.split("(")[0]: schema for schema in schemas}
    assert by_name["indexer_k_quant_and_cache"] == (
        "indexer_k_quant_and_cache(Tensor k, Tensor! kv_cache, Tensor slot_mapping, int quant_block_size, "
        "str kv_cache_dtype) -> ()"
    )
    assert by_name["dsv3_fused_a_gemm"].startswith("dsv3_fused_a_gemm(Tensor! output, Tensor mat_a, Tensor mat_b")
    # Every plain string that looks like a schema is found.
    plain = re.findall(rb"(?<=\0)(\w+)\((?:Tensor|int)[ !?][^\0]*\) -> [^\0]+(?=\0)", file.data[: 1 << 30])
    assert len(plain) > 100
    assert {name.decode() for name in plain} <= set(by_name)


def test_only_schemas_are_taken() -> None:
    data = (
        b"\0first(Tensor! a,   int b=3) -> ()\0no schema (x) -> y\0_C::second(Tensor(a!)? x, str s='a') -> Tensor\0"
        b"f(1) -> 2\0third() -> bool\0fourth.out(Tensor[] xs, *, Device d) -> (Tensor, Tensor)\0"
        b"expected (a) -> but got\0"
    )
    assert op_schemas(data, 0, len(data)) == (
        "first(Tensor! a, int b=3) -> ()",
        "_C::second(Tensor(a!)? x, str s='a') -> Tensor",
        "third() -> bool",
        "fourth.out(Tensor[] xs, *, Device d) -> (Tensor, Tensor)",
    )


def test_a_long_string_of_nothing_is_read_quickly() -> None:
    data = b"\0name(Tensor " + b"x(" * 500_000 + b"\0" + b"\0f(int a" * 50_000
    assert op_schemas(data, 0, len(data)) == ()
