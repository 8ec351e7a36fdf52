"""kv_b_proj as dense prefill over cached context sees it: its input is in the model's dtype, however it is stored."""

from typing import Any

import torch


class ProjectionInModelDtype:
    """A projection whose `weight` never tells a packed or integer dtype.

    vLLM casts the latents to a dtype that it takes from this weight. Where the weight is stored as integers (Marlin
    packs int32; int8 weights of compressed-tensors, seen in vLLM 0.28 to 0.33) that cast turns latents of 0.4, -0.9,
    1.6 into 0, 0, 1, on every GPU and in silence. The linear method takes the latents in the model's dtype, and
    quantises them itself if it must.
    """

    def __init__(self, projection: Any) -> None:
        self._projection = projection
        dtype = getattr(projection, "params_dtype", torch.bfloat16)
        self._placeholder = torch.empty(0, dtype=dtype, device="meta")

    @property
    def weight(self) -> torch.Tensor:
        """Return the weight where it is stored in the model's dtype, else an empty tensor of that dtype.

        Read when it is asked for: weights are packed after the layer was made.
        """
        stored = getattr(self._projection, "weight", None)
        fits = isinstance(stored, torch.Tensor) and stored.dtype == self._placeholder.dtype
        return stored if fits else self._placeholder

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Run the projection."""
        return self._projection(*arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._projection, name)
