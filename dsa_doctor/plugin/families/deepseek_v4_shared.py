"""What the backends and attention layers of DeepSeek-V4 and V4.1 have in common on dsa_kernels."""

from typing import Any, ClassVar

import torch
from vllm.platforms.interface import DeviceCapability

from dsa_doctor.catalog.capability import Capability
from dsa_doctor.plugin import ops
from dsa_doctor.plugin.host import acts_on
from dsa_doctor.plugin.invariance import batch_invariant


class AsksForInvariance:
    """A backend whose results depend on the batch unless the server asked that they do not."""

    @classmethod
    def supports_batch_invariance(cls) -> bool:
        """Whether a token's result is the same bits whatever its batch: where that was asked for."""
        return batch_invariant()


class PlainRowsBackend(AsksForInvariance):
    """A backend of bf16 rows, for compute capability 8.x."""

    supported_kv_cache_dtypes: ClassVar[list[str]] = ["auto", "bfloat16"]

    @classmethod
    def supports_compute_capability(cls, capability: DeviceCapability) -> bool:
        """Whether the plugin acts on this capability."""
        return acts_on(Capability(capability.major, capability.minor))


class PlainRowsAttention:
    """An attention layer over plain bf16 rows; stands before vLLM's class."""

    use_fp8_ds_mla_layout: ClassVar[bool] = False

    @classmethod
    def get_padded_num_q_heads(cls, num_heads: int) -> int:
        """Return the heads as they are: the kernels pad within a tile."""
        return int(num_heads)

    def grouped_projection(self: Any, o: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Rotate the output back by its query's position, and project it group by group.

        Args:
            o: [T, H, 512] bf16.
            positions: [T] int64.

        Returns:
            [T, groups * o_lora_rank] bf16, for the projection of all groups at once.
        """
        grouped = ops.inverse_rope_grouped(o, positions, self.rotary_emb.cos_sin_cache, self.n_local_groups)
        weight = self.wo_a.weight.view(self.n_local_groups, self.o_lora_rank, grouped.shape[2])
        projected = torch.empty(
            (o.shape[0], self.n_local_groups, self.o_lora_rank), dtype=grouped.dtype, device=grouped.device
        )
        torch.bmm(grouped, weight.transpose(1, 2), out=projected.transpose(0, 1))
        return projected.flatten(1)
