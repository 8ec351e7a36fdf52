"""The resolver: pure functions from facts to a verdict. No I/O, neither torch nor vllm; same facts, same verdict."""

from dsa_doctor.resolver.request import Case, Request, RequestError, Target, query_for
from dsa_doctor.resolver.resolve import resolve, resolve_case

__all__ = ["Case", "Request", "RequestError", "Target", "query_for", "resolve", "resolve_case"]
