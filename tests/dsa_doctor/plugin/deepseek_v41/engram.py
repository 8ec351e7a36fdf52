"""Which rows of an engram's table the n-grams that end at a token hash to."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def _primes(config: dict[str, Any]) -> list[list[list[int]]]:
    """Return [engram layer][length of the n-gram][head]: each a prime of its own, above the engram's vocabulary."""
    seen: set[int] = set()
    found = []
    for _ in config["engram_layer_ids"]:
        lengths = []
        for _ in range(config["engram_max_ngram_size"] - 1):
            heads, number = [], config["engram_vocab_size"] - 1
            for _ in range(config["engram_n_heads"]):
                number += 1
                while number in seen or any(number % one == 0 for one in range(2, int(number**0.5) + 1)):
                    number += 1
                seen.add(number)
                heads.append(number)
            lengths.append(heads)
        found.append(lengths)
    return found


def engram_rows(config: dict[str, Any], layer: int, ids: Tensor, pad: int) -> Tensor:
    """Return [T, lengths * heads] rows of a layer's table, of a request's compressed ids [T].

    A word before the request's first one, and all before it, count as `pad`.
    """
    most = config["engram_max_ngram_size"]
    bound = max(1, (np.iinfo(np.int64).max // config["engram_compressed_vocab_size"]) // 2)
    factors = np.random.default_rng(10007 * layer).integers(0, bound, size=most, dtype=np.int64) * 2 + 1
    primes = _primes(config)[config["engram_layer_ids"].index(layer)]
    found = []
    for token in range(len(ids)):
        rows, first, mixed = [], 0, 0
        for back in range(most):
            word = int(ids[token - back]) if token >= back else pad
            mixed ^= word * int(factors[back])
            for prime in primes[back - 1] if back else ():
                rows.append(first + mixed % prime)
                first += prime
        found.append(rows)
    return torch.tensor(found)
