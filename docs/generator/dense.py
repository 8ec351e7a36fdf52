"""The page that weighs attention over a selection against attention over everything, by arithmetic and measurements."""

import re
from pathlib import Path

from dsa_doctor.catalog.geometry import ModelGeometry
from dsa_doctor.catalog.models import find_model
from dsa_doctor.planner.cache import stage_caches, token_bytes
from dsa_doctor.planner.families.base import CacheOptions, has_indexer
from dsa_doctor.planner.parallel import Parallel
from dsa_doctor.planner.storage import resident_bytes
from dsa_doctor.planner.weights import layer_weights
from dsa_kernels.bench.work import Work, paged_logits_work, sparse_mla_work, topk_work
from generator.tables import page, table

MODELS = ("GLM-5-FP8", "GLM-5.2-FP8", "DeepSeek-V3.2")
RANKS = 8
CONTEXTS = (2048, 4096, 8192, 32768, 131072)
MEASURED_CONTEXTS = (4096, 32768, 131072)
MEASURED_BATCHES = (1, 64)

_DOCS = Path(__file__).parents[1]
_COPY_BYTES_PER_US = 2.42e6
_FLOP_PER_US = 785e6
"""The ceilings that performance.md and performance-indexer.md were measured under: 2.42 TB/s and 785 TFLOP/s."""


def dense_page() -> str:
    """Return the page."""
    return page(
        "Dense or sparse",
        "A model with DeepSeek Sparse Attention can be run as plain multi-head latent attention: the indexer is left "
        "out, and every token attends to all earlier ones. People do so where sparse kernels are lacking "
        "(vllm-project/vllm#35021, vllm-project/vllm#39594, yhfgyyf/vllm-deepseek-v4-sm89#74). This page says what it "
        "costs and saves.",
        "## In short",
        "- **Up to 2,048 tokens** (`index_topk`) both compute the same: everything is selected. The plugin, too, "
        "leaves short prompts to vLLM's dense kernels.",
        "- **Memory**: dense saves the indexer's keys and weights, and that is all it saves.",
        "- **Time**: dense reads the whole context in every layer for every token. "
        f"At {CONTEXTS[2]:,} tokens that is {_times(CONTEXTS[2])} times what sparse attention and its indexer read "
        f"together, at {CONTEXTS[-1]:,} {_times(CONTEXTS[-1])} times.",
        "- **Output**: beyond 2,048 tokens it is another attention than the one that the model was trained with. The "
        "few public measurements found it no worse.",
        "## Memory",
        f"Per GPU at tensor parallel {RANKS}, bf16 cache; every rank holds all rows and the whole indexer.",
        table(
            ("Model", "cache, sparse", "cache, dense", "saved", "indexer's weights"),
            (_memory(_model(name)) for name in MODELS),
        ),
        "In GLM-5.2 one indexer serves several layers, so there is little to save.",
        "## Bytes and operations of one decoded token",
        f"Attention and indexer of all layers on one of {RANKS} ranks, bf16 cache, at the least: what must be read or "
        "written once, and a multiply-add as two operations. The same arithmetic is the floor in "
        "[performance.md](../performance.md) and [performance-indexer.md](../performance-indexer.md).",
        table(
            ("Model", "context", "MB, sparse", "MB, dense", "GFLOP, sparse", "GFLOP, dense"),
            (_work_row(_model(name), context) for name in MODELS for context in CONTEXTS),
        ),
        f"Bytes are even at {_even()}. A batch multiplies both: each request has a cache of its own. Prefill of n "
        "tokens behind a long context does n times these operations, so there the ratio of operations counts: the "
        "indexer's scores are a dense product of their own, which is why sparse prefill still grows with the context.",
        "## Measured",
        "Attention and indexer of one decode step, all layers of GLM-5, milliseconds. Sparse: our kernels on an H100 "
        "through the sm80 pipeline (attention, logits and top-k of the tables in the two pages above, added up). "
        "Dense: no kernel was measured; the figure is the floor at that card's copy rate "
        f"({_COPY_BYTES_PER_US / 1e6:.2f} TB/s), which no kernel beats by more than a tenth. "
        "**Nothing here has run on an A100.**",
        table(
            ("requests", "context", "sparse, measured", "dense, at best"),
            (
                _measured(_model(MODELS[0]), batch, context)
                for batch in MEASURED_BATCHES
                for context in MEASURED_CONTEXTS
            ),
        ),
        "For one request the measured figure is launches and latency, not bytes, so it stands above dense's floor "
        "still at 32,768 tokens. Whether a dense kernel comes near its floor there was not measured. How much of a "
        "whole step this is: [performance-served.md](../performance-served.md).",
        *_OUTPUT,
        *_ON_8,
    )


_OUTPUT = (
    "## Is it the same model?",
    "Up to 2,048 tokens, yes. Beyond, no. DeepSeek trained V3.2 with the selection in place: after a warm-up of the "
    "indexer alone under dense attention (2.1 billion tokens), all weights were trained for 943.7 billion tokens in "
    "which each query saw 2,048 others ([DeepSeek-V3.2, section 2.1](https://arxiv.org/abs/2512.02556)). GLM-5 was "
    "adapted to it in the same two stages ([GLM-5, section 2](https://arxiv.org/abs/2602.15763)). Attention over "
    "everything is what these weights came from, not what they were last trained with.",
    "That it differs only in speed is a claim that we found nobody prove. What was measured in public, on GLM-5.2 in "
    "two-bit weights:",
    "- perplexity at 4,096 tokens 2.9353 dense, 2.9375 sparse; at 8,192 tokens 3.2875 and 3.2970; the likeliest token "
    "is the same in 95 and 94 % of the places (ggml-org/llama.cpp#25407);",
    "- perplexity at 4,096 tokens 2.6972 dense, 2.7099 sparse (ikawrakow/ik_llama.cpp#2063).",
    "So dense is no worse there, by a few tenths of a percent even better, and its answers are not the same. Nothing "
    "was found beyond 8,192 tokens, nor on tasks other than predicting text. Sparse output that is much worse than "
    "dense is a defect of the indexer in use: one that let every layer of GLM-5.2 choose for itself had a perplexity "
    "20 % higher (ikawrakow/ik_llama.cpp#2045).",
)
_ON_8 = (
    "## When dense is the better choice on 8.x",
    "- The server sees short contexts only: up to about 2,300 tokens dense reads no more, and at 4,096 attention is a "
    "small part of a step either way.",
    "- A layer cannot be resolved by the plugin, and an answer is wanted at all: vLLM's `TRITON_MLA` serves dense MLA "
    "on 8.0, 8.6 and 8.9 in bf16.",
    "- To tell a fault of the indexer from another one: below 2,048 tokens both must agree.",
    "vLLM has no option for it, and `index_topk: null` only stops the start. What does it is "
    "another `config.json` beside the same weights: `architectures` `DeepseekV3ForCausalLM`, `model_type` "
    "`deepseek_v3`, and no key that begins with `index_`. Under it vLLM 0.26 and 0.33 construct tiny GLM-5 and "
    "DeepSeek-V3.2 models on 8.0 with `TRITON_MLA`, and load their checkpoints; the indexer's tensors are passed over. "
    "Nothing was computed with it here, and multi-token prediction was not tried.",
)


def _model(name: str) -> ModelGeometry:
    known = find_model(name)
    if known is None:
        raise ValueError(f"{name} is not in the catalog of models")
    return known.geometry()


def _cache_bytes(model: ModelGeometry) -> tuple[int, int]:
    """Return the bytes of a token's rows and of its index keys, all layers."""
    options = CacheOptions(tensor=RANKS, dtype="bfloat16")
    return token_bytes(stage_caches(model, Parallel(tensor=RANKS), 0, options, mtp=False))


def _memory(model: ModelGeometry) -> tuple[str, ...]:
    rows, keys = _cache_bytes(model)
    weights = sum(
        resident_bytes(one, one.shape, model, layer=layer)
        for layer in range(model.num_hidden_layers)
        for one in layer_weights(model, layer)
        if one.part == "indexer"
    )
    share = f"{keys / (rows + keys):.1%}"
    return model.name, f"{rows + keys:,} B a token", f"{rows:,} B a token", share, f"{weights / 2**20:,.0f} MiB"


def _indexers(model: ModelGeometry) -> int:
    return sum(has_indexer(model, layer) for layer in range(model.num_hidden_layers))


def _attention(model: ModelGeometry, batch: int, attended: int) -> Work:
    """Return the work of one layer's attention for a batch of requests that attend to so many tokens each."""
    heads = model.num_attention_heads // RANKS
    row = _cache_bytes(model)[0] // model.num_hidden_layers
    return sparse_mla_work(batch, heads, attended, batch * attended, row, model.head_size)


def _sparse(model: ModelGeometry, batch: int, context: int) -> Work:
    attention = _attention(model, batch, min(context, model.index_topk))
    logits = paged_logits_work(batch, 1, context, model.index_n_heads)
    choice = topk_work(batch, context, model.index_topk)
    layers, indexers = model.num_hidden_layers, _indexers(model)
    return Work(
        layers * attention.moved_bytes + indexers * (logits.moved_bytes + choice.moved_bytes),
        layers * attention.flop + indexers * logits.flop,
    )


def _dense(model: ModelGeometry, batch: int, context: int) -> Work:
    """Return the work of plain attention: as over a selection of everything, without its indices of four bytes."""
    one = _attention(model, batch, context)
    layers = model.num_hidden_layers
    return Work(layers * (one.moved_bytes - batch * context * 4), layers * one.flop)


def _work_row(model: ModelGeometry, context: int) -> tuple[str, ...]:
    sparse, dense = _sparse(model, 1, context), _dense(model, 1, context)
    figures = (sparse.moved_bytes / 1e6, dense.moved_bytes / 1e6, sparse.flop / 1e9, dense.flop / 1e9)
    return model.name, f"{context:,}", *(f"{one:,.0f}" if one >= 100 else f"{one:.1f}" for one in figures)


def _times(context: int) -> str:
    """Return by how much more bytes dense reads, over all models."""
    ratios = [_dense(one, 1, context).moved_bytes / _sparse(one, 1, context).moved_bytes for one in map(_model, MODELS)]
    return f"{min(ratios):.1f} to {max(ratios):.1f}"


def _even() -> str:
    """Return up to which context dense reads no more bytes than sparse, for each model; to 64 tokens."""

    def largest(model: ModelGeometry) -> int:
        contexts = range(model.index_topk, 2 * model.index_topk, 64)
        return max(one for one in contexts if _dense(model, 1, one).moved_bytes <= _sparse(model, 1, one).moved_bytes)

    return ", ".join(f"{largest(_model(name)):,} tokens ({name})" for name in MODELS)


def _measured(model: ModelGeometry, batch: int, context: int) -> tuple[str, ...]:
    heads = model.num_attention_heads // RANKS
    attention = _sm80("performance.md", "Decode, bf16 cache", (batch, heads), column=4)
    logits = _sm80(
        "performance-indexer.md", "Paged logits", (batch, 1, context, context, model.index_n_heads), column=7
    )
    choice = _sm80("performance-indexer.md", "Top-k, k = 2,048", (batch, context, model.index_topk), column=5)
    sparse = model.num_hidden_layers * attention + _indexers(model) * (logits + choice)
    work = _dense(model, batch, context)
    floor = max(work.moved_bytes / _COPY_BYTES_PER_US, work.flop / _FLOP_PER_US)
    return str(batch), f"{context:,}", f"{sparse / 1e3:.2f}", f"{floor / 1e3:.2f}"


def _sm80(file: str, heading: str, keys: tuple[int, ...], *, column: int) -> float:
    """Return the microseconds of a row of a table of measurements, in the column of the sm80 pipeline.

    Raises:
        ValueError: the table or the row is not there, or the column is another.
    """
    _, found, rest = (_DOCS / file).read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in rest.splitlines() if line.startswith("|")]
    if not found or rows[0][column] != "sm80 pipeline, µs":
        raise ValueError(f"{file} has no table {heading!r} with the sm80 pipeline in column {column}")
    wanted = [f"{key:,}" for key in keys]
    row = next((one for one in rows if one[: len(keys)] == wanted), None)
    if row is None:
        raise ValueError(f"{file}, {heading}: no row {', '.join(wanted)}")
    return float(re.sub(r"\[.*|,", "", row[column]))
