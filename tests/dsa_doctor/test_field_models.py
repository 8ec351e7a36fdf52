"""Checkpoints of public reports, judged with the installed vLLM: one gathering, the right answers written down."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from dsa_doctor.inputs import Options
from dsa_doctor.preflight import judge_fleet

DEEPSEEK_V41_FLASH = {
    "architectures": ["DeepseekV41ForCausalLM"],
    "model_type": "deepseek_v41",
    "hidden_size": 4096,
    "num_hidden_layers": 43,
    "num_attention_heads": 64,
    "num_key_value_heads": 1,
    "head_dim": 512,
    "vocab_size": 129280,
    "q_lora_rank": 1024,
    "qk_rope_head_dim": 64,
    "index_topk": 512,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "n_routed_experts": 256,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 2048,
    "max_position_embeddings": 1048576,
    "quantization_config": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "weight_block_size": [32, 32],
        "scale_fmt": "ue8m0",
    },
}
GLM53_FLASH_AWQ = {
    "architectures": ["Glm5NextForConditionalGeneration"],
    "model_type": "glm5_next",
    "num_hidden_layers": 45,
    "num_attention_heads": 64,
    "hidden_size": 4096,
    "vocab_size": 154880,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 0,
    "qk_nope_head_dim": 256,
    "v_head_dim": 256,
    "q_lora_rank": 1536,
    "index_topk": 2048,
    "index_n_heads": 32,
    "index_head_dim": 128,
    "intermediate_size": 12288,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 288,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "num_nextn_predict_layers": 1,
    "max_position_embeddings": 1048576,
}


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Verdicts by (model, target)."""
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for name, config in {"v41": DEEPSEEK_V41_FLASH, "glm53": GLM53_FLASH_AWQ}.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
        paths.append(str(folder / name))
    targets = ["a100", "4090", "h100"]
    # In a process of its own, as a command is: nothing that other tests keep in this one is judged.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        verdicts = process.submit(judge_fleet, paths, targets, Options(tensor_parallel_size=8)).result()
    keys = [(name, target) for name in ("v41", "glm53") for target in targets]
    return dict(zip(keys, verdicts, strict=True))


@pytest.mark.slow
def test_v41_flash_is_served_by_the_plugin_on_8x(judged):
    for target in ("a100", "4090"):
        verdict = judged["v41", target]
        assert [one.state for one in verdict.layers][1:] == ["plugin", "plugin"]
        assert verdict.configuration.attention_backend == "TRITON_MLA_SPARSE"
        found = {one.id: one for one in verdict.findings}
        assert found["DSA904"].status == "pass"  # the registry has it
        assert found["DSA919"].status == "warn"  # no GPU has run it


@pytest.mark.slow
def test_v41_flash_is_native_on_an_h100(judged):
    verdict = judged["v41", "h100"]
    assert [one.state for one in verdict.layers] == ["native"] * 3
    assert verdict.exit_code == 0
    assert verdict.configuration.attention_backend == "FLASHMLA_SPARSE_DSV41"


@pytest.mark.slow
def test_glm53_flash_is_native_on_an_h100_and_served_by_the_plugin_on_8x(judged):
    verdict = judged["glm53", "h100"]
    doubts = [(one.summary, one.evidence) for one in verdict.findings if one.status in {"fail", "unknown"}]
    assert (verdict.exit_code, doubts) == (0, [])
    for target in ("a100", "4090"):
        verdict = judged["glm53", target]
        states = {one.layer: one.state for one in verdict.layers}
        assert (states["attention"], states["indexer"]) == ("plugin", "plugin")
        assert verdict.configuration.attention_backend == "TRITON_MLA_SPARSE"
