"""Where the children import from: the judged environment's folders, in its order."""

import sys
from pathlib import Path

import pytest

from dsa_doctor.compat import emulation
from dsa_doctor.probes.child import run_child
from dsa_doctor.probes.environment import Environment

QUESTIONS = {
    "dispatcher.py": ({"libraries": [], "probably_missing": [], "ops": []}, {"registered": {}}),
    "deep_gemm_import.py": ({"module": "deep_gemm", "parents": {}, "probably_missing": []}, {"importable": True}),
    "selector.py": (
        {
            "emulation": emulation.__file__,
            "queries": [],
            "plugins": [],
            "unloadable": "any",
            "timeout": 120,
            "serve_parsers": [],
        },
        {"version": "9.8.7"},  # it comes past torch and vllm; the stand-in has nothing to ask
    ),
}


@pytest.fixture
def order(tmp_path: Path) -> list[str]:
    """A search path with packages of its own in front, and a folder at its end whose modules bear others' names."""
    first, last = tmp_path / "first", tmp_path / "last"
    for package, line in (("vllm", "__version__ = '9.8.7'"), ("deep_gemm", "import colorsys, typing")):
        (first / package).mkdir(parents=True)
        (first / package / "__init__.py").write_text(line + "\n")
    last.mkdir()
    for module in ("torch", "typing", "colorsys", "vllm", "deep_gemm"):
        (last / f"{module}.py").write_text("raise ImportError('the wrong one')\n")
    return Environment(Path(sys.executable), (first, *Environment.current().search_path, last)).import_order()


@pytest.mark.parametrize("script", QUESTIONS)
def test_a_folder_at_the_end_of_the_path_comes_last(script: str, order: list[str]) -> None:
    request, expected = QUESTIONS[script]
    result = run_child(script, {"search_path": order, **request}, python=Path(sys.executable), timeout=120)
    assert result.status == "answered", result.cause
    assert {name: result.answer[name] for name in expected} == expected


def test_a_folder_at_the_start_of_the_path_comes_first(order: list[str]) -> None:
    request, _ = QUESTIONS["deep_gemm_import.py"]
    turned = {"search_path": [order[-1], *order[:-1]], **request}
    result = run_child("deep_gemm_import.py", turned, python=Path(sys.executable), timeout=120)
    assert result.answer["raised"][0].startswith("ImportError: the wrong one")
