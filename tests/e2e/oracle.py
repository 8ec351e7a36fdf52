"""Makes the tiny checkpoint, and computes what transformers' own model says about it. Run under the CPU environment.

    python oracle.py make FOLDER
    python oracle.py answer FOLDER < requests.json > answers.json
    python oracle.py score < requests.json > answers.json

The oracle is transformers' GlmMoeDsaForCausalLM, unchanged but for one thing: the arguments of its indexer's query-key
product are rounded to e4m3 with power-of-two scales, as DSA implementations store them (transformers keeps fp32). The
prompts under `unrounded` are answered by the model without even that. All else is fp32 on both sides.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers.models.glm_moe_dsa.modeling_glm_moe_dsa as modeling
from torch.overrides import TorchFunctionMode
from transformers import GlmMoeDsaConfig, GlmMoeDsaForCausalLM, PreTrainedTokenizerFast

INDEX_TOPK = 128
VOCABULARY = 128


def make(folder: Path) -> None:
    """Write a three-layer checkpoint (one dense layer, two with experts) whose attention depends on the selection.

    16 index heads: with few, many scores are exactly zero (every head's relu is), and ties would have to be broken
    alike on both sides.
    """
    torch.manual_seed(0)
    config = GlmMoeDsaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=64,
        num_hidden_layers=3,
        mlp_layer_types=["dense", "sparse", "sparse"],
        first_k_dense_replace=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_shared_experts=1,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        routed_scaling_factor=1.0,
        kv_lora_rank=512,
        q_lora_rank=128,
        qk_rope_head_dim=64,
        qk_nope_head_dim=64,
        v_head_dim=64,
        index_topk=INDEX_TOPK,
        index_head_dim=128,
        index_n_heads=16,
        max_position_embeddings=1024,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        tie_word_embeddings=False,
        dtype="float32",
    )
    model = GlmMoeDsaForCausalLM(config).float()
    for name, parameter in model.named_parameters():
        if "embed" in name:
            torch.nn.init.normal_(parameter)
        elif parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=(1.5 if parameter.dim() == 2 else 1.0) / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    file = folder / "config.json"
    # What GLM-5's own config.json says and transformers does not write.
    said = {"indexer_rope_interleave": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}, indent=1))
    _write_tokenizer(folder)


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"t{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="t1", pad_token="t2").save_pretrained(folder)


def to_e4m3_and_back(values: torch.Tensor) -> torch.Tensor:
    """Round each vector of the last dimension to e4m3 codes times one power-of-two scale."""
    scale = torch.exp2(torch.ceil(torch.log2(values.abs().amax(-1, keepdim=True).clamp_min(1e-10) / 448)))
    return (values / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


class RoundedIndexer(TorchFunctionMode):
    """While entered, the first matrix product (the indexer's query times keys) takes rounded arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function is torch.matmul and not self.seen:
            self.seen = True
            q, keys = arguments  # [B, S, H, D], [B, 1, D, T]
            return torch.matmul(to_e4m3_and_back(q), to_e4m3_and_back(keys.transpose(-1, -2)).transpose(-1, -2))
        return function(*arguments, **(options or {}))


def answer(folder: Path, request: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return greedy tokens and their log-probabilities for each prompt, computed without any cache.

    The prompts under `rounded` are answered with the indexer's arguments rounded, those under `unrounded` by the model
    as it is.
    """
    model = load(folder)
    unrounded = [decode(model, prompt, request["max_tokens"]) for prompt in request["unrounded"]]
    round_indexers()
    rounded = [decode(model, prompt, request["max_tokens"]) for prompt in request["rounded"]]
    return {"rounded": rounded, "unrounded": unrounded}


def load(folder: Path) -> Any:
    """Return the model of a folder; modules that its configuration says so of round their inputs to int8."""
    model = GlmMoeDsaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    for name, module in model.named_modules():
        if name.endswith(tuple(getattr(model.config, "int8_inputs", ()))):
            module.register_forward_pre_hook(lambda module, given: (to_int8_and_back(given[0]),))
    return model


def round_indexers() -> None:
    """Let every indexer from now on round what it multiplies."""
    original = modeling.GlmMoeDsaIndexer.forward

    @functools.wraps(original)
    def forward(self: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        with RoundedIndexer():
            return original(self, *arguments, **options)

    modeling.GlmMoeDsaIndexer.forward = forward


def to_int8_and_back(values: torch.Tensor) -> torch.Tensor:
    """Round each vector of the last dimension to 8-bit integers times one scale."""
    scale = values.abs().amax(-1, keepdim=True).clamp_min(1e-10) / 127
    return (values / scale).round().clamp(-128, 127) * scale


@torch.no_grad()
def score(request: dict[str, Any]) -> dict[str, list[list[float]]]:
    """Return, by name, the log-probability of every token but the first of each text, under the folder of that name."""
    round_indexers()
    found = {}
    for name, texts in request["texts"].items():
        model = load(Path(request["folders"][name]))
        rows = [model(input_ids=torch.tensor([text]), use_cache=False).logits[0, :-1].log_softmax(-1) for text in texts]
        found[name] = [
            row.gather(1, torch.tensor(text[1:])[:, None])[:, 0].tolist() for row, text in zip(rows, texts, strict=True)
        ]
    return found


@torch.no_grad()
def decode(model: Any, prompt: list[int], max_tokens: int) -> dict[str, Any]:
    """Return greedy tokens, their log-probabilities and the smallest lead of a best token over the second."""
    tokens, logprobs, margins = list(prompt), [], []
    for _ in range(max_tokens):
        row = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].log_softmax(-1)
        best = row.topk(2)
        tokens.append(int(best.indices[0]))
        logprobs.append(float(best.values[0]))
        margins.append(float(best.values[0] - best.values[1]))
    return {"tokens": tokens[len(prompt) :], "logprobs": logprobs, "margin": min(margins)}


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    elif sys.argv[1] == "score":
        sys.stdout.write(json.dumps(score(json.load(sys.stdin))))
    else:
        sys.stdout.write(json.dumps(answer(Path(sys.argv[2]), json.load(sys.stdin))))
