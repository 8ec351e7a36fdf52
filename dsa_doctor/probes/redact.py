"""Moved to `dsa_doctor.redaction`."""

from dsa_doctor.redaction import last_lines, redact

__all__ = ["last_lines", "redact"]
