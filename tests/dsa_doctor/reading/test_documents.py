"""JSON and TOML that no author would write: every one ends in a value or a sentence, at once."""

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsa_doctor.reading import ReadingError, parse_json, parse_toml

DEEP = 100_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ('{"a": 1,}', "not valid JSON: line 1 column"),
        ('{\n "a": tru}', "not valid JSON: line 2 column 7"),
        ("[" * DEEP + "]" * DEEP, "nested deeper than 100 levels"),
        ('{"a":' * DEEP + "1" + "}" * DEEP, "nested deeper than 100 levels"),
        ("[" * 500 + "]" * 500, "nested deeper than 100 levels"),
        ("[" + "1," * 1_000_000 + "1]", "holds more than 1000000 values"),
        ('{"a":\n1' + "0" * 5000 + "}", r"line 2: 1000.*\(5001 characters\) is larger than 64 bits hold"),
        ('{"a": -18446744073709551616}', "line 1: -18446744073709551616 is larger than 64 bits hold"),
        ('{"a": 1e999}', "line 1: 1e999 is larger than a number can be"),
        ('{"a": 1\n, "b": -Infinity}', "line 2: -Infinity is not a number that JSON knows"),
        ('{"a": NaN}', "line 1: NaN is not a number that JSON knows"),
        ('{"a": 1, "a": 2}', 'the key "a" stands twice in one object, with different values'),
        ('{"b": {"\\u202e": [], "\\u202e": {}}}', r'the key "\\u202e" stands twice'),
    ],
)
def test_json_that_is_refused(text, said):
    start = time.monotonic()
    with pytest.raises(ReadingError, match=said):
        parse_json(text)
    assert time.monotonic() - start < 5


def test_json_that_is_odd_but_has_one_meaning():
    assert parse_json('{"a": 1, "a": 1}') == {"a": 1}
    assert parse_json("[" * 100 + "]" * 100)
    assert parse_json(str(2**64 - 1)) == 2**64 - 1
    assert parse_json(str(-(2**64) + 1)) == -(2**64) + 1


def test_numbers_that_transformers_writes_are_read_where_asked():
    low, high, none = parse_json("[-Infinity, Infinity, NaN]", finite=False)
    assert (low, high) == (-math.inf, math.inf)
    assert math.isnan(none)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)  # fmt: skip
def test_what_json_writes_comes_back(value):
    assert parse_json(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = [" + "[" * DEEP + "]" * DEEP + "]", "nested deeper than 100 levels"),
        ("a = " + "[\n" * DEEP + "]\n" * DEEP, "nested deeper than 100 levels"),
        ("a = " + "[\n" * 150 + "]\n" * 150, "nested deeper than 100 levels"),
        (".".join("a" * 150) + " = 1", "nested deeper than 100 levels"),
        (".".join("a" * 500_000) + " = 1", "line 1: too many dots"),
        ("a = " + "9" * 5000, "not valid TOML"),
        ("a = 1\na = 2", "not valid TOML"),
        ("a = 1\nb c", "not valid TOML .*line 2"),
    ],
)
def test_toml_that_is_refused(text, said):
    start = time.monotonic()
    with pytest.raises(ReadingError, match=said):
        parse_toml(text)
    assert time.monotonic() - start < 5


def test_toml_is_read():
    assert parse_toml("a.b = [1, {c = 2}]\r\n[d]\n") == {"a": {"b": [1, {"c": 2}]}, "d": {}}


def test_the_dearest_dotted_keys_that_are_read_take_no_time():
    start = time.monotonic()
    with pytest.raises(ReadingError, match="nested deeper"):
        parse_toml(".".join("a" * 8_000) + " = 1")
    assert time.monotonic() - start < 10


def test_a_long_line_with_dots_is_read():
    versions = "1.2.3, " * 1000
    assert parse_toml(f"a = '{versions}'") == {"a": versions}
