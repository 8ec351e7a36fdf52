"""The bytes of one weight in each storage format, with everything that lies beside it.

Every format is described by the same few numbers: how the values are packed, what shares a scale, whether zero points
and an order of columns are stored, and what a module holds once. The sources of each are named where it is made.
"""

from math import ceil, prod
from typing import Literal, NamedTuple

from pydantic import Field

from dsa_doctor.facts.observation import Fact

Packing = Literal["values", "int32 rows", "int32 columns", "int32 stream", "nibbles", "unknown"]
"""How values lie in memory.

values: whole bytes. int32 rows: 32 // bits to an int32, along each row, padded. int32 columns: the same along each
column. int32 stream: bits back to back in int32, along each row. nibbles: two to a byte along each row.
"""
Scales = Literal["none", "tensor", "channel", "group", "block"]
"""What shares one scale: the tensor, an output row, `group_size` columns of a row, or a `block` of rows and columns."""
ZeroPoints = Literal["none", "values", "int32 rows", "int32 columns"]
"""Zero points, one per scale: in bytes, packed along the output rows by 32 // bits, or as bits back to back there."""

_INT32 = 4


class Size(NamedTuple):
    """Bytes, between two bounds; the same number twice where they are known."""

    low: int
    high: int

    def times(self, count: int) -> "Size":
        """Return the size of `count` copies."""
        return Size(self.low * count, self.high * count)

    def plus(self, other: "Size") -> "Size":
        """Return the size of both together."""
        return Size(self.low + other.low, self.high + other.high)


class WeightFormat(Fact):
    """How the weight of one linear module is stored.

    Attributes:
        name: short, for people: int4, fp8, nvfp4.
        packing: how the values lie in memory.
        bits: of one value; the lower bound where packing is unknown.
        most_bits: the upper bound of the bits of one value, scales included, where packing is unknown.
        scales: what shares a scale.
        group_size: columns that share a scale, where groups do.
        block: rows and columns that share a scale, where blocks do.
        scale_bytes: bytes of one scale.
        zero_points: how zero points are stored.
        column_bytes: bytes per input column: the group index of an activation order.
        module_bytes: bytes that every module holds once: global scales, scales of activations, the unpacked shape.
        optional_bytes: bytes a column that some writers of the format store and others do not.
        activations: what the layer's inputs are quantised to, e.g. "float8" or "int8"; empty where they are not.
        ordered: whether columns have an order of their own (actorder "group", desc_act), stored or not.
    """

    name: str
    packing: Packing
    bits: float = Field(gt=0, le=64)
    most_bits: float = Field(default=0, ge=0, le=64)
    scales: Scales = "none"
    group_size: int = Field(default=0, ge=0)
    block: tuple[int, int] = (1, 1)
    scale_bytes: int = Field(default=0, ge=0, le=8)
    zero_points: ZeroPoints = "none"
    column_bytes: int = Field(default=0, ge=0, le=8)
    module_bytes: int = Field(default=0, ge=0)
    optional_bytes: int = Field(default=0, ge=0, le=8)
    activations: str = ""
    ordered: bool = False

    @property
    def is_known(self) -> bool:
        """Whether the bytes follow from the shape alone."""
        return self.packing != "unknown" and not self.optional_bytes

    def within(self, share: float) -> "WeightFormat":
        """Return the format at one point of its range: 0 is the low end, 1 the high one."""
        if self.packing == "unknown":
            bits = self.bits + share * (self.most_bits - self.bits)
            return self.model_copy(update={"bits": bits, "most_bits": bits})
        if self.optional_bytes:
            stored = self.optional_bytes if share >= 0.5 else 0
            return self.model_copy(update={"column_bytes": self.column_bytes + stored, "optional_bytes": 0})
        return self

    def size(self, shape: tuple[int, ...]) -> Size:
        """Return the bytes of a weight of `shape`: output rows, then input columns; leading sides are copies."""
        rows, columns = (shape[-2], shape[-1]) if len(shape) > 1 else (1, prod(shape))
        if self.packing == "unknown":
            one = Size(int(rows * columns * self.bits / 8), ceil(rows * columns * self.most_bits / 8))
        else:
            bytes_ = self._values(rows, columns) + self._scale_count(rows, columns) * self.scale_bytes
            bytes_ += self._zero_points(rows, columns) + columns * self.column_bytes + self.module_bytes
            one = Size(bytes_, bytes_ + columns * self.optional_bytes)
        return one.times(prod(shape[:-2]))

    def _values(self, rows: int, columns: int) -> int:
        bits = int(self.bits)
        if self.packing == "int32 rows":
            return rows * -(-columns // (32 // bits)) * _INT32
        if self.packing == "int32 columns":
            return columns * -(-rows * bits // 32) * _INT32
        if self.packing == "int32 stream":
            return rows * -(-columns * bits // 32) * _INT32
        if self.packing == "nibbles":
            return rows * -(-columns // 2)
        return rows * columns * -(-bits // 8)

    def _scale_count(self, rows: int, columns: int) -> int:
        if self.scales == "tensor":
            return 1
        if self.scales == "block":
            return -(-rows // self.block[0]) * -(-columns // self.block[1])
        return rows * self._groups(columns)

    def _groups(self, columns: int) -> int:
        if self.scales == "none":
            return 0
        return -(-columns // self.group_size) if self.scales == "group" and self.group_size else 1

    def _zero_points(self, rows: int, columns: int) -> int:
        bits = int(self.bits)
        if self.zero_points == "values":
            return self._scale_count(rows, columns)
        if self.zero_points == "int32 rows":
            return -(-rows // (32 // bits)) * self._groups(columns) * _INT32
        if self.zero_points == "int32 columns":
            return self._groups(columns) * -(-rows * bits // 32) * _INT32
        return 0


def unknown(name: str, low: float, high: float) -> WeightFormat:
    """Return a format of which only the bits per value are known to lie in a range."""
    return WeightFormat(name=name, packing="unknown", bits=low, most_bits=high)


FP8_PER_TENSOR = WeightFormat(name="fp8", packing="values", bits=8, scales="tensor", scale_bytes=4)


def fp8_blocks(rows: int, columns: int, *, scale_bytes: int = 4) -> WeightFormat:
    """Return FP8 with one scale a block, as DeepSeek and transformers' finegrained FP8 store it (weight_scale_inv)."""
    return WeightFormat(
        name="fp8", packing="values", bits=8, scales="block", block=(rows, columns), scale_bytes=scale_bytes
    )


MXFP4 = WeightFormat(name="mxfp4", packing="nibbles", bits=4, scales="group", group_size=32, scale_bytes=1)
"""OCP MXFP4: e2m1 values, one e8m0 exponent for 32 of them."""
MXFP8 = WeightFormat(name="mxfp8", packing="values", bits=8, scales="group", group_size=32, scale_bytes=1)
"""OCP MXFP8: e4m3 values, one e8m0 exponent for 32 of them."""


def nvfp4(*, group_size: int = 16, input_scale: bool = True) -> WeightFormat:
    """Return NVFP4 as ModelOpt stores it: e2m1, an e4m3 scale a group, float32 weight_scale_2 and input_scale."""
    return WeightFormat(
        name="nvfp4",
        packing="nibbles",
        bits=4,
        scales="group",
        group_size=group_size,
        scale_bytes=1,
        module_bytes=8 if input_scale else 4,
    )
