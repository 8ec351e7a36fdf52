"""A random checkpoint of a tiny DeepSeek-V4.1, by the names of the published one."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield each tensor's name and shape; the engram's table and scales are yielded by `checkpoint`."""
    hidden, heads, width = config["hidden_size"], config["num_attention_heads"], config["head_dim"]
    streams, groups, rank = config["hc_mult"], config["o_groups"], config["o_lora_rank"]
    yield "embed.weight", (config["vocab_size"], hidden)
    yield "head.weight", (config["vocab_size"], hidden)
    yield "norm.weight", (hidden,)
    for layer in range(config["num_hidden_layers"]):
        at = f"layers.{layer}."
        for part in ("attn", "ffn"):
            yield f"{at}{part}_norm.weight", (hidden,)
            yield f"{at}hc_{part}_fn", (streams * (streams + 2), streams * hidden)
            yield f"{at}hc_{part}_scale", (3,)
            yield f"{at}hc_{part}_base", (streams * (streams + 2),)
        own = f"{at}attn."
        yield f"{own}wq_a.weight", (config["q_lora_rank"], hidden)
        yield f"{own}q_norm.weight", (config["q_lora_rank"],)
        yield f"{own}wq_b.weight", (heads * width, config["q_lora_rank"])
        yield f"{own}wkv.weight", (width, hidden)
        yield f"{own}kv_norm.weight", (width,)
        yield f"{own}wo_a.weight", (groups * rank, heads * width // groups)
        yield f"{own}wo_b.weight", (hidden, groups * rank)
        yield f"{own}attn_sink", (heads,)
        if layer in config["kv_source_layer_ids"]:
            yield f"{own}compressor.wkv.weight", (width, hidden)
            if config["compress_ratios"][layer] > 1:
                yield f"{own}compressor.wgate.weight", (width, hidden)
            yield f"{own}compressor.norm.weight", (width,)
            yield f"{own}indexer.wk.weight", (config["index_head_dim"], width)
            yield f"{own}indexer.k_norm.weight", (config["index_head_dim"],)
        if layer in config["index_source_layer_ids"]:
            queries = config["index_n_heads"] * config["index_head_dim"]
            yield f"{own}indexer.wq_b.weight", (queries, config["q_lora_rank"])
            yield f"{own}indexer.weights_proj.weight", (config["index_n_heads"], hidden)
        own, inner = f"{at}ffn.", config["moe_intermediate_size"]
        yield f"{own}gate.weight", (config["n_routed_experts"], hidden)
        yield f"{own}gate.bias", (config["n_routed_experts"],)
        for expert in ("shared_experts", *(f"experts.{number}" for number in range(config["n_routed_experts"]))):
            yield f"{own}{expert}.w1.weight", (inner, hidden)
            yield f"{own}{expert}.w3.weight", (inner, hidden)
            yield f"{own}{expert}.w2.weight", (hidden, inner)
        if layer in config.get("engram_layer_ids", ()):
            columns = (config["engram_max_ngram_size"] - 1) * config["engram_n_heads"]
            yield f"{at}engram.wkv.weight", (hidden * (streams + 1), columns * config["engram_head_dim"])
            yield f"{at}engram.q_weight", (streams, hidden)
            yield f"{at}engram.k_weight", (streams, hidden)


def checkpoint(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Return the tensors of a text_config, drawn as a trained model has them, in the dtypes of the published one."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes(config):
        drawn = torch.randn(shape, generator=generator)
        if "norm" in name or name.endswith(("q_weight", "k_weight")):
            drawn = 1 + 0.3 * drawn
        elif "sink" not in name and len(shape) > 1 and not name.startswith("embed"):
            drawn = drawn / shape[-1] ** 0.5
        exact = name.rpartition("_")[2] in ("fn", "scale", "base", "sink") or name.endswith("gate.bias")
        found[name] = drawn.float() if exact else drawn.bfloat16()
    for number, layer in enumerate(config.get("engram_layer_ids", ())):
        rows, width = config["engram_num_embeddings"][number], config["engram_head_dim"]
        codes = (4 * torch.randn(rows, width, generator=generator)).to(torch.float8_e4m3fn)
        scale = torch.randint(123, 129, (rows, width // 32), generator=generator, dtype=torch.uint8)
        found[f"layers.{layer}.engram.embed.weight"] = codes
        found[f"layers.{layer}.engram.embed.scale"] = scale.view(torch.float8_e8m0fnu)
    return found
