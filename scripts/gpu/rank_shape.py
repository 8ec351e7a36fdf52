"""A model as one of several tensor-parallel ranks computes it, with fewer layers: what the speed script serves."""

import json
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
SERVED = {"GLM-5": {"n_group": 1, "topk_group": 1}, "DeepSeek-V3.2": {"n_group": 8, "topk_group": 4}}
"""Models of the catalog, with what their routers add to the catalog's numbers."""
DENSE_LAYERS = 1
SHARED_OUT = ("num_attention_heads", "intermediate_size", "moe_intermediate_size", "vocab_size")
"""What tensor parallelism divides by the number of ranks; the indexer, the latent rows and the router it does not."""


def rank_config(name: str, ranks: int, layers: int, max_model_len: int) -> dict[str, Any]:
    """Return the config.json of a model that is alone what one rank of `name` is: its heads, its part of each expert.

    The first layer is dense, the others have experts. Weights are bf16. There are no other ranks, so no all-reduce.
    """
    sys.path[:0] = [str(REPOSITORY)]
    from dsa_doctor.catalog.models import find_model
    from tests.dsa_doctor.plugin.tiny_models import tiny_config

    known = find_model(name)
    if known is None or name not in SERVED:
        raise ValueError(f"model: got {name!r}, accepted: {', '.join(SERVED)}")
    whole = {key: value for key, value in known.config.items() if key != "quantization_config"}
    divided = {key: whole[key] // ranks for key in SHARED_OUT}
    return tiny_config(
        whole["architectures"][0],
        **{
            **whole,
            **divided,
            **SERVED[name],
            "num_key_value_heads": divided["num_attention_heads"],
            "qk_head_dim": whole["qk_nope_head_dim"] + whole["qk_rope_head_dim"],
            "num_experts_per_tok": 8,
            "num_hidden_layers": layers,
            "first_k_dense_replace": DENSE_LAYERS,
            "num_nextn_predict_layers": 0,
            "max_position_embeddings": max_model_len,
            "indexer_rope_interleave": True,
        },
    )


def write_model(folder: Path, config: dict[str, Any]) -> Path:
    """Write config.json into `folder`, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder
