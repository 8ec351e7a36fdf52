"""Verification of the kernels: compiled for a target without a GPU, or run on the GPU at hand."""

from dsa_doctor.verify.judge import Judged, Report, judge, judge_record
from dsa_doctor.verify.plan import OPS, groups_of
from dsa_doctor.verify.selftest import Record, SelfTest
from dsa_doctor.verify.static import Row, Table, as_human, as_json, verify_target
from dsa_doctor.verify.tables import closing_lines, detail_lines, heading, machine_lines, report_json, row_lines

__all__ = [
    "OPS",
    "Judged",
    "Record",
    "Report",
    "Row",
    "SelfTest",
    "Table",
    "as_human",
    "as_json",
    "closing_lines",
    "detail_lines",
    "groups_of",
    "heading",
    "judge",
    "judge_record",
    "machine_lines",
    "report_json",
    "row_lines",
    "verify_target",
]
