"""The cases of FlashMLA's sparse tests and of DeepGEMM's attention tests, as data that the runner can choose from."""

import dataclasses
import importlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from loading import single_cases, use_folders, values_of_main_block

FLASH_MLA = ("FlashMLA sparse prefill", "FlashMLA sparse decoding")
DEEP_GEMM = ("DeepGEMM ragged logits", "DeepGEMM paged logits")
GEMM = "DeepGEMM skip-head-mid GEMM"

UNCHECKED = "ran; the suite checks nothing here"
SKIPPED_BY_SUITE = "the suite itself leaves this case out on this GPU"


class MismatchError(AssertionError):
    """The suite's own comparison said no; it printed the numbers."""


@dataclass(frozen=True)
class Case:
    """One case of another project's test.

    Attributes:
        suite: which test.
        name: its parameters.
        run: runs it and returns a remark ("" or measured numbers); raises when it fails.
        skip: why our ops cannot take it; "" where they can.
    """

    suite: str
    name: str
    run: Callable[[], str]
    skip: str = ""


def flash_mla_cases(folder: Path) -> list[Case]:
    """All cases of test_flash_mla_sparse_prefill.py and test_flash_mla_sparse_decoding.py under folder/tests."""
    use_folders(folder / "tests")
    prefill = importlib.import_module("test_flash_mla_sparse_prefill")
    decoding = importlib.import_module("test_flash_mla_sparse_decoding")
    parameters = [(FLASH_MLA[0], prefill.run_test, one) for one in values_of_main_block(prefill, "testcases")]
    for raw in decoding.gen_testcase():
        parameters.append((FLASH_MLA[1], decoding.test_flash_mla, raw.to_test_param()))
    cases, counts = [], dict.fromkeys(FLASH_MLA, 0)
    for suite, test, given in parameters:
        # The seed that the file itself would count up to, so that a case holds the same data whatever else is run.
        chosen = dataclasses.replace(given, seed=counts[suite], num_runs=0)
        counts[suite] += 1
        cases.append(Case(suite, describe(chosen), _flash_mla_run(test, chosen), unsupported(chosen)))
    return cases


def unsupported(parameters: Any) -> str:
    """Why our ops cannot take these FlashMLA parameters, or ""."""
    decode = parameters.decode
    if decode is None:
        return ""
    if decode.extra_topk is not None:
        return "decoding with a second (extra) cache of fp8 rows: no op of ours"
    return "" if parameters.d_qk == 576 else "512-wide fp8 cache format (V4/MODEL1): no op of ours"


def describe(parameters: Any) -> str:
    """The fields that differ from their defaults, in one line."""
    found = {}
    for one in (parameters, parameters.decode):
        for field in dataclasses.fields(one) if one is not None else ():
            value = getattr(one, field.name)
            if field.name != "decode" and value not in (None, field.default):
                found[field.name] = value
    return " ".join(f"{name}={value}" for name, value in found.items() if name not in ("seed", "num_runs"))


def _flash_mla_run(test: Callable[[Any], Any], parameters: Any) -> Callable[[], str]:
    def run() -> str:
        try:
            # A copy: a test writes into its parameters.
            answer = test(dataclasses.replace(parameters))
        finally:
            torch.use_deterministic_algorithms(False)
        if not getattr(answer, "is_correct", answer):
            raise MismatchError("outside the suite's tolerance")
        return "" if parameters.check_correctness else UNCHECKED

    return run


def deep_gemm_cases(folder: Path) -> list[Case]:
    """All cases of test_attention.py under folder/tests; folder/deep_gemm holds the project's testing and utils."""
    use_folders(folder / "tests", folder)
    module = importlib.import_module("test_attention")
    cases = [Case(GEMM, "all", lambda: "", "a GEMM: no op of ours")]
    for suite, name in zip(DEEP_GEMM, ("test_mqa_logits", "test_paged_mqa_logits"), strict=True):
        for values, run in single_cases(module, name):
            cases.append(Case(suite, " ".join(f"{key}={value}" for key, value in values.items()), _deep_gemm_run(run)))
    return cases


def _deep_gemm_run(case: Callable[[], None]) -> Callable[[], str]:
    testing = importlib.import_module("deep_gemm.testing")

    def run() -> str:
        torch.manual_seed(0)
        random.seed(0)
        testing.MEASURED.clear()
        try:
            case()
        except testing.ChecksDone:
            if not testing.MEASURED:
                raise MismatchError("reached the timing without a comparison") from None
            return "calc_diff " + ", ".join(f"{value:.1e}" for value in testing.MEASURED)
        return SKIPPED_BY_SUITE

    return run
