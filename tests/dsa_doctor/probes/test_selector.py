"""The selector probe, on the installed vLLM, on other releases, and on broken ones."""

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsa_doctor.facts.schema import Selector, SelectorAnswer, SelectorQuery
from dsa_doctor.launch.options import ask_options, known_options
from dsa_doctor.probes import selector
from dsa_doctor.probes.child import CHILDREN
from dsa_doctor.probes.environment import Environment
from tests.once import Once
from tests.releases import RELEASES, release_folder

ROPE = {"qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "kv_lora_rank": 512, "index_topk": 2048}
NO_ROPE = {"qk_nope_head_dim": 256, "qk_rope_head_dim": 0, "kv_lora_rank": 512, "index_topk": 2048}

EXPECTED = {
    # (capability, head_size, KV dtype): the choice in 0.26.0, 0.28.0, 0.30.0, 0.32.0, 0.33.0; None where vLLM refuses.
    # Read from a run of each release's own selector, and compared with its sources; 8 heads per rank.
    ("8.0", 576, "auto"): (None,) * 5,
    ("8.6", 576, "fp8_ds_mla"): (None,) * 5,
    ("8.9", 576, "fp8"): (None,) * 5,
    ("8.0", 512, "auto"): (None,) * 5,
    ("9.0", 576, "auto"): ("FLASH_ATTN_MLA_SPARSE",) * 5,
    ("9.0", 576, "bfloat16"): ("FLASH_ATTN_MLA_SPARSE",) * 5,
    ("9.0", 576, "fp8"): ("FLASHMLA_SPARSE",) * 5,
    ("9.0", 576, "fp8_ds_mla"): ("FLASHMLA_SPARSE",) * 5,
    ("10.0", 576, "fp8"): ("FLASHINFER_MLA_SPARSE",) * 5,
    ("10.0", 576, "fp8_ds_mla"): ("FLASHMLA_SPARSE",) * 5,
}
REASONS = re.compile(r"Reasons: \{(.*)\}\.?$", re.DOTALL)


def query(capability: str, head_size: int = 576, kv_cache_dtype: str = "auto", **more: object) -> SelectorQuery:
    geometry = ROPE if head_size == 576 else NO_ROPE
    values = {"num_heads": 8, "dtype": "bfloat16", **geometry, **more}
    return SelectorQuery(capability=capability, head_size=head_size, kv_cache_dtype=kv_cache_dtype, **values)


def ask(environment: Environment, *queries: SelectorQuery, **options: object) -> tuple[SelectorAnswer, ...]:
    observed, imported = selector.probe(environment, queries, **options)
    assert observed.status == "ok", (observed.cause, observed.evidence)
    assert imported.status == "ok"
    assert isinstance(observed.value, Selector)
    assert [answer.query for answer in observed.value.answers] == list(queries)
    return observed.value.answers


def of_release(version: str) -> Environment:
    return Environment(
        python=Path(sys.executable), search_path=(release_folder(version), *Environment.current().search_path)
    )


@pytest.fixture(scope="module")
def installed(once: Once) -> dict[SelectorQuery, SelectorAnswer]:
    """One run of the installed vLLM's selector over everything that the tests below ask of it."""
    questions = [
        *(query(capability) for capability in ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")),
        query("9.0", kv_cache_dtype="fp8"),
        query("9.0", dtype="float16"),
        query("9.0", block_size=16),
        query("8.0", backend="FLASHMLA_SPARSE"),
        query("9.0", backend="flashmla_sparse"),
        query("9.0", backend="NO_SUCH_BACKEND"),
        query("9.0", kv_cache_dtype="no_such_dtype"),
    ]

    def told() -> list[dict[str, Any]]:
        return [answer.model_dump(mode="json") for answer in ask(Environment.current(), *questions)]

    answers = [SelectorAnswer.model_validate(answer) for answer in once("selector-of-the-installed", told)]
    return {answer.query: answer for answer in answers}


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9"])
def test_refusal_with_a_reason_for_every_backend(
    installed: dict[SelectorQuery, SelectorAnswer], capability: str
) -> None:
    answer = installed[query(capability)]
    assert (answer.chosen, answer.broke) == (None, False)
    assert answer.error is not None
    assert answer.error.startswith(
        "No valid attention backend found for cuda with AttentionSelectorConfig(head_size=576"
    )
    assert not any(candidate.accepted for candidate in answer.candidates)
    listed = REASONS.search(answer.error)
    assert listed is not None
    assert listed.group(1) == ", ".join(f"{one.name}: [{', '.join(one.reasons)}]" for one in answer.candidates)
    by_name = {one.name: one.reasons for one in answer.candidates}
    assert "compute capability not supported" in by_name["FLASHMLA_SPARSE"]
    assert by_name["TRITON_MLA"] == ("sparse not supported",)
    assert answer.deep_gemm_supported is False


@pytest.mark.slow
def test_native_backends_are_chosen_where_this_host_cannot_load_them(
    installed: dict[SelectorQuery, SelectorAnswer],
) -> None:
    hopper = installed[query("9.0")]
    assert hopper.chosen == "FLASH_ATTN_MLA_SPARSE"
    assert (hopper.kv_cache_dtype, hopper.block_size, hopper.error) == ("auto", 64, None)
    quantised = installed[query("9.0", kv_cache_dtype="fp8")]
    assert (quantised.chosen, quantised.kv_cache_dtype) == ("FLASHMLA_SPARSE", "fp8_ds_mla")
    assert installed[query("10.0")].chosen in {"FLASHINFER_MLA_SPARSE", "FLASHMLA_SPARSE", "FLASH_ATTN_MLA_SPARSE_FA4"}
    for capability in ("9.0", "10.0", "12.0"):
        assert installed[query(capability)].deep_gemm_supported is True
    for answer in installed.values():
        accepted = [one.name for one in answer.candidates if one.accepted]
        if answer.query.backend is None:
            assert answer.chosen == (accepted[0] if accepted else None)
        assert all(name.startswith("vllm.") for name in answer.assumed)


@pytest.mark.slow
def test_dtype_and_block_size_reach_the_selector(installed: dict[SelectorQuery, SelectorAnswer]) -> None:
    half = {one.name: one for one in installed[query("9.0", dtype="float16")].candidates}
    assert "dtype not supported" in half["FLASHMLA_SPARSE"].reasons
    assert half["FLASH_ATTN_MLA_SPARSE"].accepted
    small = installed[query("9.0", block_size=16)]
    assert small.chosen is None
    assert "block_size not supported" in next(one for one in small.candidates if one.name == "FLASHMLA_SPARSE").reasons


@pytest.mark.slow
def test_a_backend_asked_for_by_name(installed: dict[SelectorQuery, SelectorAnswer]) -> None:
    refused = installed[query("8.0", backend="FLASHMLA_SPARSE")]
    assert (refused.chosen, refused.broke) == (None, False)
    assert refused.error is not None
    assert refused.error.startswith("Selected backend")
    assert refused.candidates[0].name == "FLASHMLA_SPARSE"
    assert refused.candidates[0].reasons == ("compute capability not supported",)
    assert installed[query("9.0", backend="flashmla_sparse")].chosen == "FLASHMLA_SPARSE"


@pytest.mark.slow
def test_a_question_that_breaks_is_no_refusal(installed: dict[SelectorQuery, SelectorAnswer]) -> None:
    for broken in (query("9.0", backend="NO_SUCH_BACKEND"), query("9.0", kv_cache_dtype="no_such_dtype")):
        answer = installed[broken]
        assert answer.broke
        assert answer.chosen is None
        assert answer.error


@pytest.mark.slow
@pytest.mark.parametrize("version", RELEASES)
def test_the_real_selector_of_each_release(version: str) -> None:
    questions = [query(capability, head_size, dtype) for capability, head_size, dtype in EXPECTED]
    observed, _ = selector.probe(of_release(version), questions, unloadable="any", serve_options=True)
    assert observed.value is not None, (observed.cause, observed.evidence)
    answers = observed.value.answers
    column = RELEASES.index(version)
    assert {question: answer.chosen for question, answer in zip(EXPECTED, answers, strict=True)} == {
        question: choices[column] for question, choices in EXPECTED.items()
    }
    assert not any(answer.broke for answer in answers)
    told = observed.value.serve_options
    assert told is not None
    assert told.value is not None, told.cause
    values = {name: one.values for one in told.value.options for name in one.names}
    assert {"--tensor-parallel-size", "-tp", "--kv-cache-dtype", "--block-size", "--port", "--enforce-eager"} <= set(
        values
    )
    assert "glm47" in (values["--tool-call-parser"] or ())
    assert values["--max-model-len"] is None


VLLM_COMMAND = """
import sys
from dsa_doctor.compat import emulation
emulated = emulation.install("9.0")
emulated.platform()
from vllm.entrypoints.common.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
make_arg_parser(parser.add_subparsers().add_parser("serve"))
parser.parse_args()
"""


@pytest.mark.slow
def test_the_options_are_those_of_the_help(tmp_path: Path) -> None:
    """What the parser told, beside what it prints; the rest of vLLM's command imports what wants a GPU."""
    observed, _ = selector.probe(Environment.current(), [], serve_options=True)
    told = known_options(observed)
    assert told is not None, observed
    command = tmp_path / "vllm"
    command.write_text(f"#!{sys.executable}\n{VLLM_COMMAND}", encoding="utf-8")
    command.chmod(0o755)
    printed = ask_options([str(command)])
    assert printed.problem is None
    assert len(told.names) > 300
    # The help ends with an example of nested options, which reading its text takes for more of them.
    assert told.names == {one for one in printed.names if not one.startswith("--json-arg")}
    assert {"--tool-call-parser", "--dtype"} <= told.values.keys() & printed.values.keys()
    for option in told.values.keys() & printed.values.keys():
        assert told.values[option] == printed.values[option], option


@pytest.mark.parametrize(
    ("parser", "cause"),
    [
        ("raise RuntimeError('moved')", "RuntimeError: moved"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("def make_arg_parser(parser): return parser", "FlexibleArgumentParser"),
    ],
)
def test_a_parser_that_cannot_be_built_is_told(tmp_path: Path, parser: str, cause: str) -> None:
    """The child's own functions, on packages of the shape of vLLM's."""
    child = runpy.run_path(str(CHILDREN / "selector.py"))
    (tmp_path / "homeofparsers.py").write_text(parser + "\n")
    sys.path.insert(0, str(tmp_path))
    try:
        answer = child["_serve_options"](["homeofparsers.moved.away", "homeofparsers"])
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("homeofparsers", None)
    assert cause in answer["error"]
    assert "none of nowhere.parsers is there" in child["_serve_options"](["nowhere.parsers"])["error"]


@pytest.mark.slow
def test_nothing_decided_for_one_capability_leaks_into_the_next() -> None:
    first, *_, last = ask(Environment.current(), query("8.0"), query("12.0"), query("9.0"))
    for answer in (first, last):
        alone = ask(Environment.current(), answer.query)[0]
        assert alone.model_copy(update={"assumed": ()}) == answer.model_copy(update={"assumed": ()})


@pytest.mark.slow
def test_a_missing_extension_stays_missing(tmp_path: Path) -> None:
    real = release_folder("0.28.0")
    for entry in real.iterdir():
        if entry.name != "vllm":
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "vllm").mkdir()
    for entry in (real / "vllm").iterdir():
        if not entry.name.startswith("_flashmla_C"):
            (tmp_path / "vllm" / entry.name).symlink_to(entry)
    environment = Environment(python=Path(sys.executable), search_path=(tmp_path, *Environment.current().search_path))
    answer = ask(environment, query("9.0", backend="FLASHMLA"), unloadable="any")[0]
    assert "vllm._flashmla_C" not in answer.assumed
    assert "vllm._flashmla_C is not available" in " ".join(answer.candidates[0].reasons)


BROKEN = {
    "raises": (
        "raise OSError('token=abcdef libfoo.so.1: no such file')",
        "absent",
        r"vllm cannot be imported: OSError",
    ),
    "segfaults": ("import ctypes; ctypes.string_at(0)", "unknown", r"died of SIGSEGV"),
    "exits": ("import os; os._exit(3)", "unknown", r"exit status 3"),
    "exits cleanly": ("import os; os._exit(0)", "unknown", r"no readable answer"),
    "raises SystemExit": ("raise SystemExit('no licence')", "absent", r"SystemExit: no licence"),
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_vllm_that_cannot_be_imported(site: Callable[..., Environment], body: tuple[str, str, str]) -> None:
    text, status, cause = body
    observed, imported = selector.probe(site({"vllm/__init__.py": text}), [query("8.0")])
    assert (observed.status, imported.status) == (status, status)
    assert re.search(cause, imported.cause or "")
    if text.startswith(("raise", "import ctypes")):
        assert observed.evidence
    assert "abcdef" not in str(observed) + str(imported)


def test_a_vllm_whose_import_hangs(site: Callable[..., Environment]) -> None:
    environment = site({"vllm/__init__.py": "import time\ntime.sleep(600)\n"})
    observed, imported = selector.probe(environment, [query("8.0")], timeout=8.0)
    assert (observed.status, imported.status) == ("unknown", "unknown")
    assert "no answer within 8 s" in (observed.cause or "")
    assert "time.sleep(600)" in observed.evidence[-1]
    assert "vllm/__init__.py" in observed.evidence[-2]


def test_a_torch_that_cannot_be_imported(site: Callable[..., Environment]) -> None:
    environment = site(
        {"torch/__init__.py": "raise ImportError('libcudart.so.13: cannot open')", "vllm/__init__.py": ""}
    )
    observed, imported = selector.probe(environment, [query("8.0")])
    assert (observed.status, imported.status) == ("absent", "absent")
    assert "ImportError: libcudart.so.13" in (imported.cause or "")


def test_a_vllm_of_unknown_shape(site: Callable[..., Environment]) -> None:
    environment = site(
        {
            "vllm/__init__.py": "__version__ = '9.9'",
            "vllm/platforms/__init__.py": "class Odd: pass\ncurrent_platform = Odd()",
        }
    )
    observed, imported = selector.probe(environment, [query("8.0")])
    assert (imported.status, imported.value) == ("ok", "9.9")
    assert observed.status == "unknown"
    assert (observed.cause or "").startswith("this vLLM's selector is not recognised")
    assert "Odd" in (observed.cause or "")


@pytest.mark.slow
def test_a_wheel_whose_main_extension_is_not_there(tmp_path: Path) -> None:
    real = release_folder("0.33.0")
    (tmp_path / "vllm").mkdir()
    for entry in (real / "vllm").iterdir():
        if not entry.name.startswith("_C_stable"):
            (tmp_path / "vllm" / entry.name).symlink_to(entry)
    environment = Environment(python=Path(sys.executable), search_path=(tmp_path, *Environment.current().search_path))
    observed, imported = selector.probe(environment, [query("9.0")], unloadable="any")
    assert imported.status == "ok"
    assert observed.status == "absent"
    assert "No module named 'vllm._C_stable_libtorch'" in (observed.cause or "")


def test_no_vllm_and_no_interpreter(tmp_path: Path) -> None:
    empty = Environment(python=Path(sys.executable), search_path=(tmp_path,))
    assert [one.cause for one in selector.probe(empty, [query("8.0")])] == ["vllm is not installed"] * 2
    (tmp_path / "vllm").mkdir()
    files_only = Environment(python=None, search_path=(tmp_path,))
    assert [one.status for one in selector.probe(files_only, [query("8.0")])] == ["unknown"] * 2


@pytest.mark.slow
def test_nothing_is_written_to_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT"):
        monkeypatch.delenv(name, raising=False)
    ask(Environment.current(), query("9.0"))
    assert list(home.iterdir()) == []
