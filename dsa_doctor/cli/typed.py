"""What the user typed, checked before anything expensive: one sentence and exit 2, without importing vLLM."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, cast

from dsa_doctor.cli.output import fail_usage

if TYPE_CHECKING:
    from dsa_doctor.resolver.request import PluginMode

_MOST_LISTED = 12


def check_models(texts: Iterable[str]) -> None:
    """Exit 2 where a MODEL is neither a known name, nor a path, nor a Hub id."""
    from dsa_doctor.catalog.lookup import MistypedModelError, check_spelling

    for text in texts:
        try:
            check_spelling(text)
        except MistypedModelError as error:
            fail_usage(str(error))


def plugin_mode_of_environment() -> "PluginMode":
    """Return DSA_DOCTOR_PLUGIN, read as the plugin reads it; exit 2 where it would stop vLLM."""
    from dsa_doctor.plugin.mode import plugin_mode

    try:
        return cast("PluginMode", plugin_mode())
    except ValueError as error:
        fail_usage(str(error))


def check_choices(*, kv_cache_dtype: str | None, attention_backend: str | None, foreign: bool = False) -> None:
    """Exit 2 where a KV cache dtype or an attention backend is none that the installed vLLM has.

    Args:
        kv_cache_dtype: as typed; None for none.
        attention_backend: as typed; None for none.
        foreign: whether another vLLM than the installed one is judged, whose own names are not known.
    """
    from dsa_doctor.compat.choices import attention_backends, installed_sources, kv_cache_dtypes
    from dsa_doctor.resolver.request import KV_CACHE_DTYPES, TRITON_BACKEND

    if (kv_cache_dtype is None and attention_backend is None) or foreign:
        return
    sources = installed_sources()
    if kv_cache_dtype is not None:
        dtypes = dict.fromkeys((*KV_CACHE_DTYPES, *(kv_cache_dtypes(sources) if sources is not None else ())))
        if kv_cache_dtype not in dtypes:
            fail_usage(unknown_choice("--kv-cache-dtype", kv_cache_dtype, tuple(dtypes)))
    backends = attention_backends(sources) if sources is not None else ()
    if attention_backend is not None and backends:
        names = tuple(dict.fromkeys((TRITON_BACKEND, *sorted(backends))))
        if attention_backend.upper() not in names and attention_backend.lower() != "auto":
            fail_usage(unknown_choice("--attention-backend", attention_backend, names))


def unknown_choice(option: str, given: str, accepted: Sequence[str]) -> str:
    """Return the sentence for a value that is none of those accepted, with what was probably meant."""
    by_lower = {one.lower(): one for one in accepted}
    near = [by_lower[one] for one in get_close_matches(given.lower(), by_lower, n=2, cutoff=0.6)]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    listed = ", ".join(accepted[:_MOST_LISTED])
    more = f" and {len(accepted) - _MOST_LISTED} more" if len(accepted) > _MOST_LISTED else ""
    return f"{option} {given} is not known.{hint} Accepted: {listed}{more}."
