"""The page that says which known model fits on which GPUs: every plan drawn from the catalog, nothing typed in."""

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.catalog.models import KNOWN_MODELS
from dsa_doctor.catalog.targets import KnownGpu, find_gpu
from dsa_doctor.planner import Hardware, Parallel, Plan, PlanOptions, nearest_shapes, plan
from dsa_doctor.planner.estimates import GIB
from generator.matrix import verdict_on
from generator.tables import page, table

NODES = (
    ("a100", 8, 1),
    ("a100-40gb", 8, 1),
    ("3090", 8, 1),
    ("4090", 8, 1),
    ("l40s", 8, 1),
    ("rtx-pro-6000", 4, 1),
    ("h100", 8, 1),
    ("gb10", 1, 2),
)
"""(target, GPUs of a node, nodes): tensor parallelism over all of them."""

_REVIEWED = (
    "Compared by hand with what people published. DeepSeek-V4-Flash-0731 on 8 x A100 or A800: 19.8 GiB of weights per "
    "GPU were reported at tensor parallel 8 (vllm-project/vllm#50576). On 8 x 3090 it ran with 2.5 GiB of offload per "
    "GPU and 250k tokens (the same thread), where the plan lacks about 2 GiB.",
    "DeepSeek-V4.1-Flash on 8 x A100: about 320 GB of weights on the GPUs and 196 GB of n-gram tables in host memory "
    "were reported (wtdcode/vllm-backport#69); the plan has 305 GB and 203 GB, pinned as 283 GB.",
    "GLM-5.3-Flash in FP8 on 4 x RTX PRO 6000: a million tokens are served (vllm-project/vllm#53963). The plan reaches "
    "them with `--gpu-memory-utilization 0.95`, and fewer with vLLM's 0.92. In four bits on two DGX Spark it is served "
    "with shares of 0.82 to 0.83 (MiaAI-Lab/GLM-5.3-Flash-EXL3-2x-DGX-Sparks#47), the share that the plan takes.",
    "GLM-5.2 in int4 on 8 x A100 80 GB serves (vllm-project/vllm#38476). GLM-5-FP8 there needs offload or a second "
    "node, and DeepSeek-V3.2 does not fit one such node (vllm-project/vllm#38006).",
    "One report goes beyond its plan: GLM-5.3-Flash with int4 experts was served with 256k tokens on four 4090s of "
    "48 GB (wtdcode/vllm-backport#87), where the plan lacks memory at every share. Its reserve for graphs and "
    "collectives is cautious.",
)


def fits_page() -> str:
    """Return the table of every known model on the usual nodes."""
    cards = [(_card(alias), gpus, nodes) for alias, gpus, nodes in NODES]
    heads = [f"{gpus * nodes} x {card.alias}" for card, gpus, nodes in cards]
    rows = [
        (
            ", ".join(names),
            *(
                f"{verdict_on(names[0], card.alias, gpus * nodes)} · {_cell(model, card, gpus, nodes)}"
                for card, gpus, nodes in cards
            ),
        )
        for names, model in _models()
    ]
    return page(
        "What fits where",
        "The verdict of `check` and the plan of `run-model --dry-run` side by side: tensor parallelism over all GPUs "
        "of the column, vLLM's default share of the memory, the KV cache dtype `auto`. First the verdict, on the facts "
        "and in the words of [support-matrix.md](support-matrix.md): `native`, `plugin`, or `no` with the layers that "
        "are not resolved. Then memory alone. `1,048,576 (38.1)`: the largest context, with the weights in GiB per "
        "GPU. `no, 20.3 (89.0)`: GiB that each GPU lacks, and what would fit first; `estimates decide` where it is "
        "no more than what is estimated beside weights and cache. [memory-planning.md](memory-planning.md) says what "
        "the plan counts.",
        table(("Model", *heads), rows),
        "## Review",
        *_REVIEWED,
    )


def _card(alias: str) -> KnownGpu:
    card = find_gpu(alias)
    if card is None:
        raise ValueError(f"{alias} is not in the catalog of GPUs")
    return card


def _models() -> list[tuple[list[str], ModelGeometry]]:
    """Return the known models; those whose plans are the same share a row."""
    rows: list[tuple[list[str], ModelGeometry]] = []
    for known in KNOWN_MODELS:
        model = known.geometry()
        for names, other in rows:
            if _unnamed(other) == _unnamed(model):
                names.append(known.name)
                break
        else:
            rows.append(([known.name], model))
    return rows


def _unnamed(model: ModelGeometry) -> ModelGeometry:
    return model.model_copy(update={"name": "", "hub_id": None, "source": ""})


def _cell(model: ModelGeometry, card: KnownGpu, gpus: int, nodes: int) -> str:
    hardware = Hardware(
        name=card.name,
        gpus_per_node=gpus,
        nodes=nodes,
        memory_bytes=card.memory_bytes,
        free_bytes=card.free_mib * 2**20 if card.free_mib is not None else None,
    )
    # The native backend of 12.x stores fp8 rows under "auto".
    backend = "FLASHINFER_MLA_SPARSE_SM120" if card.capability.major == 12 and model.compression is None else "auto"
    options = PlanOptions(parallel=Parallel(tensor=gpus * nodes), attention_backend=backend)
    found = plan(model, hardware, options)
    weights = f"({_weights(found):.1f})"
    if found.fits:
        return f"{found.largest_context:,} {weights}"
    shapes = [one for one in nearest_shapes(model, hardware, options) if one.what.startswith("--")]
    first = f"; {shapes[0].what.split(' (')[0]}" if shapes else ""
    said = "estimates decide" if found.estimates_decide else "no"
    return f"{said}, {found.shortfall_bytes / GIB:.1f} {weights}{first}"


def _weights(found: Plan) -> float:
    return sum(line.bytes for line in found.lines if line.name.startswith(("weights", "absorbed", "engram"))) / GIB
