"""The resolver: pure functions from facts to a verdict. No I/O, neither torch nor vllm; same facts, same verdict."""

from dsa_doctor.resolver.request import Request, Target, query_for
from dsa_doctor.resolver.resolve import resolve

__all__ = ["Request", "Target", "query_for", "resolve"]
