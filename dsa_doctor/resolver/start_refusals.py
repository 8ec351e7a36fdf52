"""What of a server's options the plugin cannot serve a model with: asked by the report, the launcher and the plugin."""

from typing import NamedTuple

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.compat.settings import BREAKABLE_GRAPHS
from dsa_doctor.resolver.request import Request


class Refusal(NamedTuple):
    """One option that is in the way.

    Attributes:
        asked: option and value, or what was asked for.
        why: the reason.
        accepted: what is served.
    """

    asked: str
    why: str
    accepted: str

    def __str__(self) -> str:
        return f"{self.asked}: {self.why}; accepted: {self.accepted}"

    @property
    def remedy(self) -> str:
        """Return the option with the first value that is accepted, or what to leave out."""
        option = self.asked.partition(" ")[0]
        if not option.startswith("--"):
            return f"leave out {self.asked}"
        return f"{option} {self.accepted.partition(',')[0]}"


def start_refusals(
    model: ModelGeometry, request: Request, *, graphs: str | None = None, keeps_drafts: bool | None = None
) -> tuple[Refusal, ...]:
    """Return what a start with the plugin would be refused for, besides what the model and its cache's dtype say.

    Args:
        model: the model's geometry.
        request: the options; what is not known there is taken as vLLM's default.
        graphs: VLLM_USE_BREAKABLE_CUDAGRAPH of the server; None is unset.
        keeps_drafts: whether this vLLM's cache of open pools has room for rejected drafts; None is unknown.
    """
    found = [
        Refusal(f"{option} {size}", "context parallelism is not supported", "1")
        for option, size in (
            ("--decode-context-parallel-size", request.decode_context_parallel_size),
            ("--prefill-context-parallel-size", request.prefill_context_parallel_size),
        )
        if size > 1
    ]
    if model.family == "glm5_next":
        found += _pooled(request, graphs, keeps_drafts)
    if model.compression is not None:
        found += _compressed(model.compression.output_groups, request)
    return tuple(found)


def _pooled(request: Request, graphs: str | None, keeps_drafts: bool | None) -> list[Refusal]:
    """GLM-5.3-Flash: hyper-connections, a pooled indexer, layers of linear attention."""
    found = []
    if request.pipeline_parallel_size > 1:
        asked = f"--pipeline-parallel-size {request.pipeline_parallel_size}"
        found.append(Refusal(asked, "vLLM's class hands no hyper-connections from rank to rank", "1"))
    if request.dtype != "bfloat16":
        found.append(
            Refusal(f"--dtype {request.dtype}", "vLLM's pooled indexer computes in bfloat16 alone", "bfloat16")
        )
    if graphs not in (None, "1") and request.enforce_eager is False:
        why = "a whole graph would keep the host's branches of the pooled indexer"
        found.append(Refusal(f"{BREAKABLE_GRAPHS}={graphs}", why, "unset, 1, or --enforce-eager"))
    if request.drafts > 1 and keeps_drafts is False:
        why = "this vLLM keeps a request's last pool of tokens alone, which the second of two rejected drafts spoils"
        accepted = "0, 1, or a vLLM that keeps more (0.31.0 and newer do)"
        found.append(Refusal(f"num_speculative_tokens {request.drafts}", why, accepted))
    return found


def _compressed(groups: int, request: Request) -> list[Refusal]:
    """DeepSeek-V4: rows of bf16, and an output projection in groups of heads."""
    found = []
    if request.dtype != "bfloat16":
        found.append(Refusal(f"--dtype {request.dtype}", "its rows and its compressor are bfloat16", "bfloat16"))
    ranks = request.tensor_parallel_size
    if groups % ranks:
        served = ", ".join(str(one) for one in range(min(groups, ranks), 0, -1) if groups % one == 0)
        why = f"the output projection's {groups} groups cannot be shared out"
        found.append(Refusal(f"--tensor-parallel-size {ranks}", why, served))
    return found
