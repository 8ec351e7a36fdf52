"""A failing report is short: answer, layers and first step on one screen, nothing twice, the rest with --verbose."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from dsa_doctor.facts.schema import Facts
from dsa_doctor.inputs import Options
from dsa_doctor.preflight import judge_fleet
from dsa_doctor.render.findings import in_short, short_names
from dsa_doctor.render.human import print_verdict
from tests.dsa_doctor import facts_library as library

DATA = Path(__file__).parents[2] / "data"
REAL = Facts.model_validate_json((DATA / "facts-vllm-0.33.0.json").read_bytes())
SCREEN = 24
"""Lines of the smallest terminal in use."""
LONGEST = 44


def stock(wheel_for: tuple[str, ...] | None = None) -> Facts:
    """Return the facts of a real vLLM 0.33.0 without the plugin; of its wheel, only code for these architectures."""
    raw = json.loads(REAL.model_dump_json())
    raw["software"]["value"]["vllm_plugins"] = []
    if wheel_for is not None:
        for one in raw["csrc"]["value"]["extensions"]:
            one["images"] = [image for image in one["images"] if image["architecture"] in wheel_for]
        for op in raw["csrc"]["value"]["ops"]:
            for kind in ("machine_code", "ptx"):
                op[kind] = [name for name in op[kind] if name in wheel_for]
    return Facts.model_validate(raw)


CASES = {
    "stock vLLM": ("GLM-5-FP8", "a100", stock()),
    "a card of the house": ("GLM-5-FP8", "4090", stock()),
    "a wheel for other GPUs": ("GLM-5-FP8", "a100", stock(("sm_90", "sm_90a"))),
    "DeepSeek-V4": ("DeepSeek-V4-Flash", "a100", stock()),
    "GLM-5.3": ("GLM-5.3-Flash", "a100", stock()),
    "an older vLLM": ("GLM-5-FP8", "a100", library.a100_facts()),
    "no vLLM": ("GLM-5-FP8", "a100", DATA / "facts-h100-no-vllm.json"),
    "an unknown model": ("/nowhere/config.json", "a100", stock()),
}


@pytest.fixture
def verdict(request, tmp_path):
    model, target, facts = CASES[request.param]
    file = facts
    if isinstance(facts, Facts):
        file = tmp_path / "facts.json"
        file.write_text(facts.model_dump_json())
    return judge_fleet([model], [target], Options(), facts_file=file)[0]


def printed(verdict, width, **options):
    stream = io.StringIO()
    print_verdict(Console(file=stream, width=width, no_color=True), verdict, **options)
    return stream.getvalue()


every_case = pytest.mark.parametrize("verdict", CASES, indirect=True)


@every_case
@pytest.mark.parametrize("width", [80, 120])
def test_the_first_screen_holds_answer_layers_and_the_first_step(verdict, width):
    lines = printed(verdict, width).splitlines()
    assert verdict.exit_code != 0
    assert len(lines) <= LONGEST
    assert max(map(len, lines)) <= min(width, 100)
    screen = "\n".join(lines[:SCREEN])
    assert re.match(r".* on .*: (?:does not run|could not be\s+told): ", screen, re.DOTALL)
    assert "\nWhat to do\n  1. " in screen
    if any(layer.state == "unresolved" for layer in verdict.layers):
        assert [f"\n{one.number} {one.layer}" in screen for one in verdict.layers] == [True] * 3
    assert lines[-1].endswith(f"Exit code {verdict.exit_code}.")


@every_case
def test_nothing_is_said_twice(verdict):
    text = re.sub(r"\s+", " ", printed(verdict, 80))
    sentences = [one for one in re.split(r"(?<=[.])\s", text) if len(one.split()) > 4]
    twice = {one for one in sentences if sentences.count(one) > 1}
    assert not twice


@every_case
def test_every_finding_that_does_not_pass_is_named_and_verbose_holds_all(verdict):
    short, full = printed(verdict, 80), re.sub(r"\s+", "", printed(verdict, 80, verbose=True))
    for one in verdict.findings:
        assert one.status in {"pass", "skip"} or one.id in short
        for text in (one.summary, *one.evidence):
            assert re.sub(r"\s+", "", text) in full
    for backend in verdict.backends:
        assert all(re.sub(r"\s+", "", reason) in full for reason in backend.reasons)


def test_findings_of_one_kind_are_one_with_a_count(tmp_path):
    file = tmp_path / "facts.json"
    file.write_text(stock(()).model_dump_json())
    raw = json.loads(file.read_text())
    for one in raw["csrc"]["value"]["extensions"]:
        one["images"] = [{"architecture": "sm_90", "kind": "machine_code", "count": 1}]
    file.write_text(json.dumps(raw))
    verdict = judge_fleet(["GLM-5-FP8"], ["a100"], Options(), facts_file=file)[0]
    kinds = [one.id for one in verdict.findings if one.status == "fail"]
    assert kinds.count("DSA101") > 1
    said = in_short(verdict)
    assert len({one.finding.id for one in said}) == len(said)
    # One of them is the layer's own line.
    assert next(one for one in said if one.finding.id == "DSA101").more == kinds.count("DSA101") - 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("vllm.model_executor.kernels.mhc.tilelang.mix fails", "tilelang.mix fails"),
        ("torch.cuda.is_available() is false.", "torch.cuda.is_available() is false."),
        ("vllm/models/deepseek_v4/common/ops/fused_compress_quant_cache.py",) * 2,
        ("docs.vllm.ai and 10.0, 10.3, 12.0, 12.1 and www.example-of-a-long-name.org.",) * 2,
    ],
)
def test_long_dotted_names_are_cut(text, shown):
    assert short_names(text) == shown
