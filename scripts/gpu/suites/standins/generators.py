"""Stands in for the inputs of DeepGEMM's GEMM tests, which are not run: we have no GEMM."""

from typing import Any, NoReturn

MajorTypeAB = None


def _no_gemm(*arguments: Any, **named: Any) -> NoReturn:
    raise NotImplementedError("inputs of GEMM tests")


generate_normal = get_ue8m0_usage = get_kernel_types = _no_gemm
