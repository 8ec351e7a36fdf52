"""Verdicts of the real resolver on handwritten facts, and reports made of them."""

from datetime import date

from dsa_doctor.catalog.lookup import find_geometry
from dsa_doctor.catalog.targets import target_from_text
from dsa_doctor.facts.schema import Facts
from dsa_doctor.policy import Policy, Report, apply_policy
from dsa_doctor.policy.report import ManifestPin
from dsa_doctor.resolver import Request, Target, query_for, resolve
from dsa_doctor.verdict.schema import Verdict
from tests.dsa_doctor import facts_library as library

TODAY = date(2026, 3, 1)
PIN = ManifestPin(file="requirements.txt", line=3, text="vllm==0.32.0", requirement="vllm==0.32.0")

NATIVE = {"9.0": "FLASHMLA_SPARSE", "10.0": "FLASHMLA_SPARSE", "12.0": None, "8.0": None, "8.6": None, "8.9": None}


def facts_for(model: str, target: str, *, plugin: bool = False, **changes) -> Facts:
    """Handwritten facts of a stock wheel with the selector's answer to exactly this case."""
    geometry, gpu = find_geometry(model), target_from_text(target)
    query = query_for(geometry, gpu.capability, Request())
    answer = library.answer(str(gpu.capability), NATIVE.get(str(gpu.capability))).model_copy(update={"query": query})
    return library.facts(answers=(answer,), plugin=plugin, **changes)


def verdict(model: str = "GLM-5-FP8", target: str = "a100", *, facts: Facts | None = None, **options) -> Verdict:
    gpu = target_from_text(target)
    named = Target(name=gpu.name, capability=str(gpu.capability), source="--target")
    judged = facts if facts is not None else facts_for(model, target, **options)
    return resolve(judged, model=find_geometry(model), target=named, request=Request())


def report(
    *verdicts: Verdict, policy: Policy | None = None, manifest: ManifestPin | None = None, today=TODAY
) -> Report:
    return apply_policy(
        [(None, one) for one in verdicts or (verdict(),)], policy or Policy(), today=today, manifest=manifest
    )
