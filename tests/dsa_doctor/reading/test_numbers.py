"""What is a number in text from outside, and that lines which only look like one are read without a crash."""

import io
import re

import pytest

from dsa_doctor.explain import explain
from dsa_doctor.launch.stages import LogFacts
from dsa_doctor.reading.numbers import DECIMAL, GROUPED, WHOLE

ODD = ["0..", ".", ",", "1.2.3", "9" * 5000, "-", "1,,2", "٣.٥"]


@pytest.mark.parametrize("text", [*ODD, "0", "12", "5,712,437", "46.97", "1" * 15])
def test_what_matches_is_a_number(text):
    for pattern, number in ((WHOLE, int), (GROUPED, lambda one: int(one.replace(",", ""))), (DECIMAL, float)):
        for match in re.finditer(pattern, text):
            assert number(match[0]) >= 0


def test_numbers_are_read_whole():
    assert re.fullmatch(GROUPED, "5,712,437")
    assert re.fullmatch(GROUPED, "5712437")
    assert re.fullmatch(DECIMAL, "46.97")
    assert not re.fullmatch(GROUPED, "5,71")


@pytest.mark.parametrize("odd", ODD)
def test_a_line_of_a_server_with_an_odd_number_is_read(odd):
    facts = LogFacts()
    for line in (
        f"GPU KV cache size: {odd} tokens",
        f"Available KV cache memory: {odd} GiB",
        f"Model loading took {odd} GiB",
        f"Loading safetensors checkpoint shards:  {odd}% Completed",
    ):
        facts.read(line)
    assert facts.kv_tokens is None or facts.kv_tokens < 10**15


@pytest.mark.parametrize("odd", ODD)
def test_a_log_with_odd_statistics_is_explained(odd):
    line = (
        f"INFO Avg prompt throughput: {odd} tokens/s, Avg generation throughput: {odd} tokens/s, "
        f"Running: {odd} reqs, Waiting: {odd} reqs, Avg Draft acceptance rate: {odd}%\n"
    )
    assert explain(io.BytesIO(line.encode() * 5)).findings is not None
