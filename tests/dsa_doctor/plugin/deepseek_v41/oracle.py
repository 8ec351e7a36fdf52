"""DeepSeek-V4.1's text model in plain PyTorch and fp32, written from its description: the truth for the plugin's path.

There is no class for it in transformers. One request at a time, all its tokens at once, no cache. Each part is checked
against vLLM's own torch references or transformers' DeepSeek-V4 in `test_deepseek_v41_oracle.py`.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softmax, softplus

from tests.dsa_doctor.plugin.deepseek_v41.engram import engram_rows
from tests.dsa_doctor.plugin.deepseek_v41.rope import angles, rotate_end
from tests.dsa_doctor.plugin.deepseek_v41.streams import Mixes, collapse, mixes, spread


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


@dataclass
class Selections:
    """What the indexers and routers of the model under test chose for one request, which the oracle takes over.

    Attributes:
        rows: of each index source [T, topk] positions among the compressed rows, -1 where nothing is.
        blocks: [T, candidate blocks], of the candidate source.
        experts: of each layer [T, experts of a token].
        regrets: filled by the oracle: per index source or router and token, by how much the worst that was chosen
            scores below the worst that was to be, in parts of the scores' spread; 9 where rows are missing, stand
            twice, lie in the future or outside the candidates.
    """

    rows: dict[int, Tensor]
    blocks: Tensor
    experts: list[Tensor]
    regrets: dict[str, list[float]] = field(default_factory=dict)


class Oracle:
    """The model of a checkpoint.

    Args:
        config: its text_config.
        tensors: the checkpoint's tensors by their names in it.
        words: token to compressed id.
    """

    def __init__(self, config: dict[str, Any], tensors: dict[str, Tensor], words: list[int]) -> None:
        self.config, self.tensors, self.words = config, tensors, words

    def weight(self, name: str) -> Tensor:
        return self.tensors[name].float()

    def logits(self, tokens: Tensor, chosen: Selections) -> Tensor:
        """Return [T, vocabulary] of one request's tokens [T]."""
        eps, layers = self.config["rms_norm_eps"], self.config["num_hidden_layers"]
        streams = self.weight("embed.weight")[tokens][:, None].repeat(1, self.config["hc_mult"], 1)
        carried: Tensor | None = None
        self.latents: dict[int, Tensor] = {}
        for layer in range(layers):
            prefix = f"layers.{layer}."
            if layer in self.config.get("engram_layer_ids", ()):
                streams = self.engram(prefix, layer, tokens, streams)
            for part, serve in (("attn", self.attention), ("ffn", self.experts)):
                found = self.mixes(f"{prefix}hc_{part}_", streams)
                given = normed(collapse(streams, carried), self.weight(f"{prefix}{part}_norm.weight"), eps)
                streams = spread(streams, serve(f"{prefix}{part}.", layer, given, chosen), found)
                carried = found.before
        assert carried is not None
        last = normed(collapse(streams, carried), self.weight("norm.weight"), eps)
        return last @ self.weight("head.weight").T

    def mixes(self, prefix: str, streams: Tensor) -> Mixes:
        parameters = (self.weight(f"{prefix}{name}") for name in ("fn", "scale", "base"))
        config = self.config
        return mixes(streams, *parameters, config["rms_norm_eps"], config["hc_eps"], config["hc_sinkhorn_iters"])

    def engram(self, prefix: str, layer: int, tokens: Tensor, streams: Tensor) -> Tensor:
        """Add the value of the n-grams that end at each token, as far as its key fits each stream."""
        config, eps = self.config, self.config["rms_norm_eps"]
        ids = torch.tensor([self.words[token] for token in tokens.tolist()])
        pad = self.words[config["engram_pad_token_id"]]
        rows = engram_rows(config, layer, ids, pad)
        table = self.tensors[f"{prefix}engram.embed.weight"].float()
        scale = torch.exp2(self.tensors[f"{prefix}engram.embed.scale"].view(torch.uint8).float() - 127)
        table = table * scale.repeat_interleave(table.shape[1] // scale.shape[1], 1)
        given = table[rows].flatten(1) @ self.weight(f"{prefix}engram.wkv.weight").T
        *keys, value = given.split(config["hidden_size"], -1)
        one = torch.ones(())
        fit = (
            normed(streams, one, eps)
            * self.weight(f"{prefix}engram.q_weight")
            * self.weight(f"{prefix}engram.k_weight")
            * normed(torch.stack(keys, 1), one, eps)
        ).sum(-1, keepdim=True) / config["hidden_size"] ** 0.5
        gate = torch.sigmoid(torch.where(fit < 0, -1, 1) * fit.abs().clamp_min(1e-6).sqrt())
        return streams + gate * value[:, None]

    def attention(self, prefix: str, layer: int, x: Tensor, chosen: Selections) -> Tensor:
        """Attend each token to its window and to the rows chosen by the latest index source at or below the layer."""
        config, eps = self.config, self.config["rms_norm_eps"]
        ratio, heads, width = config["compress_ratios"][layer], config["num_attention_heads"], config["head_dim"]
        positions = torch.arange(len(x))
        turn = angles(config, positions, compressed=ratio > 0)
        latent = normed(x @ self.weight(f"{prefix}wq_a.weight").T, self.weight(f"{prefix}q_norm.weight"), eps)
        query = (latent @ self.weight(f"{prefix}wq_b.weight").T).view(len(x), heads, width)
        query = rotate_end(query, turn[:, None])
        rows = normed(x @ self.weight(f"{prefix}wkv.weight").T, self.weight(f"{prefix}kv_norm.weight"), eps)
        rows = rotate_end(rows, turn)
        distance = positions[:, None] - positions
        seen = (distance >= 0) & (distance < config["sliding_window"])
        if ratio:
            if layer in config["kv_source_layer_ids"]:
                self.latents[layer] = self.compressed(prefix, ratio, x)
            source = max(one for one in config["kv_source_layer_ids"] if one <= layer)
            compressed = self.latents[source]
            starts = torch.arange(len(compressed)) * ratio
            if layer in config["index_source_layer_ids"]:
                self.judge(prefix, layer, source, latent, x, chosen)
            index = max(one for one in config["index_source_layer_ids"] if one <= layer)
            taken = torch.zeros(len(x), len(compressed) + 1, dtype=torch.bool)
            taken.scatter_(1, chosen.rows[index].long() % (len(compressed) + 1), True)  # -1 goes to the column too many
            rows = torch.cat((rows, rotate_end(compressed, angles(config, starts, compressed=True))))
            seen = torch.cat((seen, taken[:, :-1]), 1)
        scores = torch.einsum("thd,sd->ths", query, rows) * width**-0.5
        scores = scores.masked_fill(~seen[:, None], float("-inf"))
        sink = self.weight(f"{prefix}attn_sink")[None, :, None].expand(len(x), -1, 1)
        shares = softmax(torch.cat((scores, sink), -1), -1)[..., :-1]
        out = rotate_end(torch.einsum("ths,sd->thd", shares, rows), turn[:, None], inverse=True)
        groups, rank = config["o_groups"], config["o_lora_rank"]
        grouped = out.reshape(len(x), groups, -1)
        first = self.weight(f"{prefix}wo_a.weight").view(groups, rank, -1)
        return torch.einsum("tgd,grd->tgr", grouped, first).flatten(1) @ self.weight(f"{prefix}wo_b.weight").T

    def compressed(self, prefix: str, ratio: int, x: Tensor) -> Tensor:
        """Return the latent of each whole group of `ratio` tokens, before its rope."""
        values = x @ self.weight(f"{prefix}compressor.wkv.weight").T
        whole = len(x) // ratio
        values = values[: whole * ratio].view(whole, ratio, -1)
        if ratio > 1:
            gates = (x @ self.weight(f"{prefix}compressor.wgate.weight").T)[: whole * ratio].view(whole, ratio, -1)
            values = values * softmax(gates, 1)
        return normed(values.sum(1), self.weight(f"{prefix}compressor.norm.weight"), self.config["rms_norm_eps"])

    def scores(self, prefix: str, source: int, latent: Tensor, x: Tensor) -> Tensor:
        """Return [T, compressed rows] of an index source; the future gets -inf."""
        config = self.config
        ratio, heads, width = config["compress_ratios"][source], config["index_n_heads"], config["index_head_dim"]
        own, compressed = f"layers.{source}.attn.indexer.", self.latents[source]
        keys = normed(
            compressed @ self.weight(f"{own}wk.weight").T, self.weight(f"{own}k_norm.weight"), config["rms_norm_eps"]
        )
        starts, positions = torch.arange(len(keys)) * ratio, torch.arange(len(x))
        keys = rotate_end(keys, angles(config, starts, compressed=True))
        query = (latent @ self.weight(f"{prefix}indexer.wq_b.weight").T).view(len(x), heads, width)
        query = rotate_end(query, angles(config, positions, compressed=True)[:, None])
        weights = x @ self.weight(f"{prefix}indexer.weights_proj.weight").T * (heads * width) ** -0.5
        found = torch.einsum("ths,th->ts", torch.einsum("thd,sd->ths", query, keys).relu(), weights)
        return found.masked_fill(starts + ratio - 1 > positions[:, None], float("-inf"))

    def judge(self, prefix: str, layer: int, source: int, latent: Tensor, x: Tensor, chosen: Selections) -> None:
        """Note how far the selection of one index source, and its candidate blocks, are from the best."""
        config, block = self.config, self.config["candidate_block_size"]
        scores = self.scores(prefix, source, latent, x)
        blocks = -(-scores.shape[1] // block)
        if layer == config["candidate_source_layer_id"]:
            padded = torch.nn.functional.pad(scores, (0, blocks * block - scores.shape[1]), value=float("-inf"))
            best = padded.view(len(x), blocks, block).amax(-1)
            newest = scores.isfinite().sum(1) - 1
            best.scatter_(1, newest[:, None] // block, 1e30)
            chosen.regrets["blocks"] = regrets(best, chosen.blocks)
        if layer > config["candidate_source_layer_id"]:
            allowed = torch.zeros(len(x), blocks + 1, dtype=torch.bool)
            allowed.scatter_(1, chosen.blocks.long() % (blocks + 1), True)
            inside = allowed[:, :-1].repeat_interleave(block, 1)[:, : scores.shape[1]]
            scores = scores.masked_fill(~inside, float("-inf"))
        chosen.regrets[f"layer {layer}"] = regrets(scores, chosen.rows[layer])

    def experts(self, prefix: str, layer: int, x: Tensor, chosen: Selections) -> Tensor:
        """Return the weighted sum of each token's routed experts, and the shared one."""
        config, limit = self.config, self.config["swiglu_limit"]

        def expert(name: str, x: Tensor) -> Tensor:
            gate, up = (x @ self.weight(f"{prefix}{name}.{part}.weight").T for part in ("w1", "w3"))
            gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
            return (torch.nn.functional.silu(gate) * up) @ self.weight(f"{prefix}{name}.w2.weight").T

        affinity = softplus(x @ self.weight(f"{prefix}gate.weight").T).sqrt()
        order = chosen.experts[layer]
        chosen.regrets[f"experts {layer}"] = regrets(affinity + self.weight(f"{prefix}gate.bias"), order)
        share = affinity.gather(1, order)
        share = share / share.sum(-1, keepdim=True) * config["routed_scaling_factor"]
        out = expert("shared_experts", x)
        for number in range(config["n_routed_experts"]):
            token, place = (order == number).nonzero(as_tuple=True)
            out[token] += share[token, place, None] * expert(f"experts.{number}", x[token])
        return out


def regrets(scores: Tensor, taken: Tensor) -> list[float]:
    """Return per token how far a selection is from the best of `scores`; see `Selections`."""
    found = []
    for seen, row in zip(scores, taken.long(), strict=True):
        chosen = row[row >= 0]
        wanted = min(int(seen.isfinite().sum()), len(row))
        inside = chosen[chosen < len(seen)]
        if not (len(chosen) == len(chosen.unique()) == len(inside) == wanted) or not seen[inside].isfinite().all():
            found.append(9.0)
        elif wanted < 2:
            found.append(0.0)
        else:
            spread_of = seen[seen.isfinite() & (seen < 1e29)].std().clamp_min(1e-9)
            found.append(float((seen.topk(wanted).values[-1] - seen[chosen].min()) / spread_of))
    return found
