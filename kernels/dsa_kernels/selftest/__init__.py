"""Adversarial self-tests of the ops on the device at hand: what has broken kernels before, against references."""

from dsa_kernels.selftest.case import CannotJudge, Case, NotHere, Outcome, Place
from dsa_kernels.selftest.registry import GROUPS, OPS, Group
from dsa_kernels.selftest.run import describe, run_case

__all__ = [
    "GROUPS",
    "OPS",
    "CannotJudge",
    "Case",
    "Group",
    "NotHere",
    "Outcome",
    "Place",
    "describe",
    "run_case",
]
