"""The support matrix: real verdicts of the resolver on the facts of a stock wheel."""

from functools import cache
from itertools import product
from pathlib import Path

from dsa_doctor.catalog.capability import SHARED_MEMORY_PER_BLOCK, Capability, vllm_minimum
from dsa_doctor.catalog.lookup import find_geometry
from dsa_doctor.catalog.models import DEFAULT_MODEL, KNOWN_MODELS
from dsa_doctor.catalog.targets import USUAL_GPUS_PER_NODE, target_from_text
from dsa_doctor.facts.schema import SelectorQuery
from dsa_doctor.inputs import Options, load_facts
from dsa_doctor.preflight import judge_fleet
from dsa_doctor.resolver import Request, query_for
from dsa_doctor.resolver.request import PluginMode
from dsa_doctor.verdict.schema import Verdict
from generator.tables import code, page, table

_FACTS = Path(__file__).parents[2] / "tests" / "data" / "facts-vllm-0.33.0.json"
_CAPABILITIES = sorted(one for one in SHARED_MEMORY_PER_BLOCK if one >= vllm_minimum())
_TARGETS = tuple(str(capability) for capability in _CAPABILITIES)
_MODELS = tuple(known.name for known in KNOWN_MODELS)


def matrix_page() -> str:
    """Return the verdicts by layer and by model."""
    return page(
        "Support matrix",
        f"Verdicts of `dsa-doctor check` on the facts of a stock wheel, for {USUAL_GPUS_PER_NODE} GPUs with"
        " tensor parallelism and the KV cache dtype `auto`. They say what the installed files and vLLM's own selector"
        " allow. They do not say that a GPU has run it: [verified.md](verified.md) lists what has run where. For"
        " another release, another build or other options, run `dsa-doctor check`.",
        f"Judged: {_software()}.",
        f"## {DEFAULT_MODEL}, layer by layer",
        _by_layer(),
        "An arrow leads from the state without the plugin to the state with it. The states are explained in "
        "[three-layers.md](three-layers.md#states).",
        "## Models",
        "`native`: vLLM serves it by itself. `plugin`: with dsa-doctor installed. `no` names the layers that are not "
        "resolved, or the finding that rules it out. `unknown` names the layers that could not be determined. `?`: the "
        "facts of this page hold no answer of the selector for it; `dsa-doctor check` asks for one.",
        table(
            ("Model", *map(str, _CAPABILITIES)),
            ((known.name, *(_cell(known.name, one) for one in _CAPABILITIES)) for known in KNOWN_MODELS),
        ),
    )


def _by_layer() -> str:
    rows = []
    for capability in _CAPABILITIES:
        without, served = (
            _verdicts((DEFAULT_MODEL,), _TARGETS, mode)[DEFAULT_MODEL, str(capability)] for mode in ("off", "auto")
        )
        backend = served.configuration.attention_backend if served.configuration else ""
        states = [
            first.state if first.state == second.state else f"{first.state} → {second.state}"
            for first, second in zip(without.layers, served.layers, strict=True)
        ]
        rows.append((str(capability), *states, code(backend) or "none"))
    return table(("Compute capability", "1 `csrc`", "2 `attention`", "3 `indexer`", "Attention backend"), rows)


def _cell(model: str, capability: Capability) -> str:
    if not _asked(model, capability):
        return "?"
    return verdict_word(_verdicts(_MODELS, _TARGETS)[model, str(capability)])


def verdict_on(model: str, target: str, ranks: int) -> str:
    """Return the verdict on a known model and a GPU, in the words of the matrix; "?" where the facts hold no answer."""
    geometry, gpu = find_geometry(model), target_from_text(target)
    if geometry.compression is None:
        query = query_for(geometry, gpu.capability, Request(tensor_parallel_size=ranks))
        if query not in _queries():
            return "?"
    return verdict_word(_verdicts(_MODELS, (target,), ranks=ranks)[model, target])


def verdict_word(verdict: Verdict) -> str:
    """Return a verdict in a word or two, as the matrix explains them."""
    if verdict.exit_code == 0:
        return "plugin" if any(layer.state == "plugin" for layer in verdict.layers) else "native"
    for state, word in (("unresolved", "no"), ("unknown", "unknown")):
        layers = [str(layer.number) for layer in verdict.layers if layer.state == state]
        if layers:
            return f"{word}: {', '.join(layers)}"
    failed = [one.id for one in verdict.findings if one.status == "fail"]
    return "no: " + ", ".join(f"[{one}](checks/{one}.md)" for one in failed)


def _asked(model: str, capability: Capability) -> bool:
    if find_geometry(model).compression is not None:
        return True  # its family picks its attention class without asking
    request = Request(tensor_parallel_size=USUAL_GPUS_PER_NODE)
    return query_for(find_geometry(model), capability, request) in _queries()


@cache
def _verdicts(
    models: tuple[str, ...], targets: tuple[str, ...], mode: PluginMode = "auto", ranks: int | None = None
) -> dict[tuple[str, str], Verdict]:
    """Judge all at once: the facts are read once."""
    options = Options(plugin_mode=mode, tensor_parallel_size=ranks)
    return dict(zip(product(models, targets), judge_fleet(models, targets, options, facts_file=_FACTS), strict=True))


@cache
def _queries() -> frozenset[SelectorQuery]:
    selector = load_facts(_FACTS).selector.value
    if selector is None:
        raise ValueError(f"{_FACTS.name} holds no answer of vLLM's selector")
    return frozenset(answer.query for answer in selector.answers)


def _software() -> str:
    software = load_facts(_FACTS).software.value
    if software is None:
        raise ValueError(f"{_FACTS.name} holds no software")
    names = ("vllm", "torch", "triton", "flashinfer-python")
    return ", ".join(f"{name} {software.packages[name]}" for name in names)
