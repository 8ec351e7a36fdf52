"""Quantisation sections of checkpoints that people run, put together from what their cards and threads say of them."""

from typing import Any

GLM51_AWQ_4BIT: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": [r"re:model\.layers\.([5-9]|[1-6]\d|7[0-2])\.mlp\..*(gate|up)_proj$"],
            "weights": {"num_bits": 4, "type": "int", "symmetric": False, "group_size": 128, "strategy": "group"},
        }
    },
    "ignore": ["lm_head"],
}
"""Gate and up projections of the experts in layers 5 to 72 in int4, groups of 128; everything else in bf16."""

GLM52_AWQ_INT4: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 32, "strategy": "group"},
        }
    },
    "ignore": ["lm_head", "re:.*self_attn.*"],
}
"""MLP weights in int4, groups of 32; attention and indexer in bf16; no MTP layer (411 GiB)."""

GLM52_W4A16_MTP: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": [r"re:.*mlp\.experts\.\d+\.(gate|up|down)_proj$"],
            "weights": {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 128, "strategy": "group"},
        }
    },
    "ignore": ["lm_head", r"re:model\.layers\.78\..*"],
}
"""Routed experts in int4, groups of 128; everything else and the MTP layer in bf16 (405 GiB)."""

GLM52_NVFP4: dict[str, Any] = {
    "quant_method": "modelopt",
    "quant_algo": "NVFP4",
    "group_size": 16,
    "kv_cache_quant_algo": "FP8",
    "ignore": [
        "lm_head",
        "model.layers.*.self_attn*",
        "model.layers.*.mlp.shared_experts*",
        "model.layers.0.mlp*",
        "model.layers.1.mlp*",
        "model.layers.2.mlp*",
        "model.layers.78*",
    ],
}
"""Routed experts in NVFP4; the MTP layer in bf16 (432.9 GiB)."""

GLM53_FLASH_W4A16: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": [r"re:.*mlp\.experts\..*"],
            "weights": {"num_bits": 4, "type": "int", "symmetric": True, "group_size": 128, "strategy": "group"},
        }
    },
    "ignore": ["lm_head"],
}
"""Routed experts in int4, groups of 128; everything else in bf16."""
