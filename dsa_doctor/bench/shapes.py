"""From a model and how it is served to the shapes of every op: pure, without torch."""

from dataclasses import dataclass
from typing import Literal

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.planner.rows import kv_layout
from dsa_doctor.resolver.plugin_gate import PLUGIN_KV_CACHE_DTYPES
from dsa_doctor.resolver.request import TRITON_BACKEND

KvFormat = Literal["bf16", "fp8_ds_mla"]
OPS = (
    "sparse MLA decode",
    "sparse MLA prefill",
    "paged logits",
    "ragged logits",
    "top-k",
    "indexer_topk",
    "q quantisation",
    "k-cache write",
)
"""The ops in the order of the table."""

_NEOX_INDEXERS = ("deepseek_v32",)
"""Model types whose indexer turns halves of the rope part; the others turn neighbours."""

_PAGE = 64


class BenchError(ValueError):
    """What was asked for cannot be measured; the message names the option and what is accepted."""


@dataclass(frozen=True)
class Load:
    """How the model is served: the options of `dsa-doctor bench`."""

    tensor_parallel_size: int = 8
    kv_cache_dtype: str = "auto"
    speculative_tokens: int = 0
    context: int = 32768
    batch_sizes: tuple[int, ...] = (1, 16, 64)
    prefill_tokens: int = 4096
    batch_invariant: bool = False


@dataclass(frozen=True)
class Setting:
    """What the shapes follow from.

    Attributes:
        heads: attention heads of one rank.
        d_qk: width of a latent row with its rope part.
        index_heads: heads of the indexer, whole on every rank; 0 where its indexer is not this project's.
        next_n: query tokens of a request in a decode step: one and the speculative ones.
        context: tokens that a request has in the cache.
        prefill_tokens: query tokens of a prefill chunk, the last ones of the context.
        batch_invariant: whether ops that take it are measured with that promise too.
    """

    model: str
    tensor_parallel_size: int
    heads: int
    d_qk: int
    kv_format: KvFormat
    index_heads: int
    index_topk: int
    rope: int
    is_neox: bool
    next_n: int
    context: int
    batch_sizes: tuple[int, ...]
    prefill_tokens: int
    batch_invariant: bool = False


@dataclass(frozen=True)
class Shape:
    """One row of the table: an op and the figures that its speed depends on."""

    op: str
    values: dict[str, int | str]

    @property
    def batch(self) -> int:
        """Requests of a decode step; 1 for a prefill chunk."""
        return int(self.values.get("batch", 1))


def setting_of(model: ModelGeometry, load: Load) -> Setting:
    """Return what is to be measured.

    Raises:
        BenchError: the model has no DSA, or an option does not go with it.
    """
    if model.compression is not None:
        raise BenchError(
            f"MODEL {model.name} attends to a window and to compressed rows, whose shapes bench does not draw. "
            "kernels/benchmarks/bench_two_caches.py of a checkout times its ops."
        )
    if not model.uses_dsa or not model.kv_lora_rank:
        raise BenchError(f"MODEL {model.name} has no DeepSeek Sparse Attention. `dsa-doctor models` lists models.")
    if model.kv_lora_rank != 512 or model.head_size not in (512, 576):
        raise BenchError(
            f"MODEL {model.name} has KV rows of {model.kv_lora_rank}+{model.qk_rope_head_dim}; the kernels take 512+64 "
            "and 512+0."
        )
    parallel = load.tensor_parallel_size
    if model.num_attention_heads % parallel:
        raise BenchError(
            f"--tensor-parallel-size {parallel} does not divide the {model.num_attention_heads} heads of {model.name}. "
            f"Accepted: {', '.join(str(one) for one in _divisors(model.num_attention_heads))}."
        )
    if model.max_position_embeddings and load.context > model.max_position_embeddings:
        raise BenchError(
            f"--context {load.context} is more than {model.name} takes. Accepted: 1 to {model.max_position_embeddings}."
        )
    own_indexer = model.family == "mla" and model.index_head_dim == 128
    next_n = load.speculative_tokens + 1
    if load.context < next_n:
        raise BenchError(f"--context {load.context} is shorter than the {next_n} query tokens of a decode step.")
    return Setting(
        model=model.name,
        tensor_parallel_size=parallel,
        heads=model.num_attention_heads // parallel,
        d_qk=model.head_size,
        kv_format=_kv_format(model, load.kv_cache_dtype),
        index_heads=model.index_n_heads if own_indexer else 0,
        index_topk=model.index_topk,
        rope=model.qk_rope_head_dim,
        is_neox=model.model_type in _NEOX_INDEXERS,
        next_n=next_n,
        context=load.context,
        batch_sizes=tuple(dict.fromkeys(load.batch_sizes)),
        prefill_tokens=min(load.prefill_tokens, load.context),
        batch_invariant=load.batch_invariant,
    )


def _kv_format(model: ModelGeometry, kv_cache_dtype: str) -> KvFormat:
    accepted = [one for one in PLUGIN_KV_CACHE_DTYPES if one != "float16"]  # the inputs are bf16
    if kv_cache_dtype not in accepted:
        raise BenchError(f"--kv-cache-dtype {kv_cache_dtype} is not served. Accepted: {', '.join(accepted)}.")
    if kv_layout(kv_cache_dtype, TRITON_BACKEND) != "656-byte fp8 rows":
        return "bf16"
    if model.head_size != 576:
        raise BenchError(
            f"--kv-cache-dtype {kv_cache_dtype}: fp8_ds_mla holds rows of 512+64, {model.name} has {model.head_size}. "
            "Accepted: auto, bfloat16."
        )
    return "fp8_ds_mla"


def _divisors(heads: int) -> list[int]:
    return [one for one in range(1, heads + 1) if heads % one == 0]


def shapes_of(setting: Setting) -> tuple[Shape, ...]:
    """Return every shape, in the order of `OPS`: the decode batches and one prefill chunk."""
    found = []
    cache: dict[str, int | str] = {"heads": setting.heads, "cache": setting.kv_format, "k": setting.index_topk}
    heads: dict[str, int | str] = {"heads": setting.index_heads}
    chunk = setting.prefill_tokens
    prefill: dict[str, int | str] = {"rows": chunk, "keys": setting.context}
    batches = [(one, {"batch": one, "next_n": setting.next_n}) for one in setting.batch_sizes]
    for _, step in batches:
        found.append(Shape(OPS[0], {**step, "context": setting.context, **cache}))
    found.append(Shape(OPS[1], {"tokens": chunk, "context": setting.context, **cache}))
    if not setting.index_heads:
        return tuple(found)
    found += [Shape(OPS[2], {**step, "context": setting.context, **heads}) for _, step in batches]
    found.append(Shape(OPS[3], {**prefill, **heads}))
    for rows in (*(one * setting.next_n for one in setting.batch_sizes), chunk):
        found.append(Shape(OPS[4], {"rows": rows, "width": setting.context, "k": setting.index_topk}))
    found.append(Shape(OPS[5], {**prefill, **heads, "k": setting.index_topk}))
    steps = dict.fromkeys((max(setting.batch_sizes) * setting.next_n, chunk))
    if setting.rope:
        found += [Shape(OPS[6], {"tokens": tokens, **heads, "rope": setting.rope}) for tokens in steps]
    found += [Shape(OPS[7], {"tokens": tokens}) for tokens in steps]
    return tuple(found)


@dataclass(frozen=True)
class Fit:
    """What of a shape fits into memory.

    Attributes:
        rows: rows of the cache, or of logits; 0 where the shape does not fit at all.
        wanted: rows that it has when served.
        bytes_needed: of the shape as served.
    """

    rows: int
    wanted: int
    bytes_needed: int

    @property
    def whole(self) -> bool:
        """Whether the shape is measured as it is served."""
        return self.rows == self.wanted


def fit(shape: Shape, setting: Setting, free_bytes: int) -> Fit:
    """Say how many cache rows a shape gets in `free_bytes` of GPU memory.

    Caches shrink, so that requests share rows: at least as many as one request has. Logits do not.
    """
    if shape.op in OPS[:3]:
        fp8, paged = setting.kv_format == "fp8_ds_mla", shape.op == OPS[2]
        row = 132 if paged else 656 if fp8 else 2 * setting.d_qk
        per_request = -(-setting.context // _PAGE) * _PAGE
        wanted = shape.batch * per_request
        rest = 4 * shape.batch * setting.next_n * setting.context if paged else 2**29
        most = max(0, free_bytes - rest) // row // _PAGE * _PAGE
        rows = min(wanted, most)
        return Fit(rows if rows >= per_request else 0, wanted, wanted * row + rest)
    rows = int(shape.values.get("rows", shape.values.get("tokens", 0)))
    width = int(shape.values.get("width", shape.values.get("keys", 1)))
    if shape.op in (OPS[6], OPS[7]):
        width = 8 * 128 * max(1, setting.index_heads)
    elif shape.op == OPS[5]:
        width = 1024
    needed = 4 * rows * width + 2**29
    return Fit(rows if needed <= free_bytes else 0, rows, needed)
