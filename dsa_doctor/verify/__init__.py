"""Verification of the kernels: what can be checked without a GPU."""

from dsa_doctor.verify.static import Row, Table, as_human, as_json, verify_target

__all__ = ["Row", "Table", "as_human", "as_json", "verify_target"]
