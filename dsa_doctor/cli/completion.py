"""What a shell completes: names from the catalog, looked up only while a shell asks."""

from collections.abc import Iterable


def complete_model(incomplete: str) -> list[str]:
    """Return the known models and their Hub ids that begin so, whatever the case."""
    from dsa_doctor.catalog.models import KNOWN_MODELS

    return _starting((name for model in KNOWN_MODELS for name in (model.name, model.hub_id)), incomplete)


def complete_target(incomplete: str) -> list[str]:
    """Return the targets that begin so."""
    from dsa_doctor.catalog.targets import KNOWN_GPUS

    return _starting((gpu.alias for gpu in KNOWN_GPUS), incomplete)


def complete_backend(incomplete: str) -> list[str]:
    """Return the attention backends of the installed vLLM, and the plugin's, that begin so."""
    from dsa_doctor.compat.choices import attention_backends, installed_sources

    sources = installed_sources()
    backends = attention_backends(sources) if sources is not None else ()
    return _starting(("TRITON_MLA_SPARSE", *sorted(backends)), incomplete)


def complete_dtype(incomplete: str) -> list[str]:
    """Return the KV cache dtypes of the installed vLLM that begin so."""
    from dsa_doctor.compat.choices import installed_sources, kv_cache_dtypes

    sources = installed_sources()
    return _starting(kv_cache_dtypes(sources) if sources is not None else ("auto", "bfloat16", "fp8"), incomplete)


def complete_finding(incomplete: str) -> list[str]:
    """Return the ids of the findings that begin so."""
    from dsa_doctor.catalog.findings import KNOWN_FINDINGS

    return _starting((one.id for one in KNOWN_FINDINGS), incomplete) if incomplete else []


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.lower().startswith(incomplete.lower())]
