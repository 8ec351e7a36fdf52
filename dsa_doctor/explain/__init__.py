"""Diagnosis of logs: reads a log in a stream, finds what failed, and says what helps and what would fail next."""

from dsa_doctor.explain.diagnose import explain
from dsa_doctor.explain.schema import EXPLANATION_SCHEMA_VERSION, Explanation, LogFinding

__all__ = ["EXPLANATION_SCHEMA_VERSION", "Explanation", "LogFinding", "explain"]
