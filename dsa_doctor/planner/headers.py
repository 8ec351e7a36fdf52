"""Weights as they lie on disk: the headers of local safetensors files, never the tensors.

The format (https://huggingface.co/docs/safetensors): eight bytes little-endian length, that much JSON naming each
tensor's dtype, shape and data_offsets, then the data. Files come from anywhere, so everything is bounded and checked.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from dsa_doctor.facts.observation import Fact
from dsa_doctor.reading import ReadingError, decode, parse_json

MAX_HEADER = 100 * 2**20
"""The format's own limit."""
MAX_FILES = 4096
MAX_INDEX = 256 * 2**20
MAX_VALUES = 8_000_000
"""Values in one header or index: a tensor has eight, and bytes alone do not bound the memory."""
MAX_TOTAL = 2**50
INDEX = "model.safetensors.index.json"

_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64,
}  # fmt: skip


class HeaderError(ValueError):
    """A safetensors file or index that cannot be trusted; the message names the file and what is wrong."""


class StoredTensor(Fact):
    """One tensor of a checkpoint."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


def stored_tensors(folder: Path) -> list[StoredTensor]:
    """Return every tensor of the checkpoint in a folder; empty where it holds no safetensors file.

    The index, where there is one, says which files belong to it; a file that it names outside the folder is refused.

    Raises:
        HeaderError: a file is missing, cut short, or its header does not describe its content.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in _files(folder):
        for tensor in read_header(file):
            if tensor.name in tensors:
                raise HeaderError(f"{file.name}: tensor {tensor.name!r} is in another file of the checkpoint too")
            tensors[tensor.name] = tensor
    return list(tensors.values())


def read_header(file: Path) -> Iterator[StoredTensor]:
    """Yield the tensors that one file's header names.

    Raises:
        HeaderError: see stored_tensors.
    """
    try:
        if not file.is_file():  # a named pipe would be waited for
            raise HeaderError(f"{file.name}: {'not a file' if file.exists() else 'cannot be read (no such file)'}")
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            if len(prefix) < 8:
                raise HeaderError(f"{file.name}: {size} bytes, too short for a safetensors file")
            (length,) = struct.unpack("<Q", prefix)
            if length > min(MAX_HEADER, size - 8):
                raise HeaderError(
                    f"{file.name}: header of {length} bytes, but the file has {size} (download cut short?)"
                )
            header = _parsed(file, stream.read(length))
    except OSError as error:
        raise HeaderError(f"{file.name}: cannot be read ({error.strerror})") from error
    end = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        tensor, last = _tensor(file, name, entry, data=size - 8 - length)
        end = max(end, last)
        yield tensor
    if end != size - 8 - length:
        raise HeaderError(f"{file.name}: tensors end at byte {end} of {size - 8 - length}")


def indexed_bytes(folder: Path) -> int | None:
    """Return the bytes of all tensors as the index in a folder says, or None where it says nothing that can be used.

    It is metadata.total_size of model.safetensors.index.json; the weights themselves need not be there.
    """
    try:
        metadata = _index(folder).get("metadata")
    except (HeaderError, OSError):
        return None
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(size, float) and size.is_integer():  # some writers give a float
        size = int(size)
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size < MAX_TOTAL:
        return None
    return size


def _tensor(file: Path, name: str, entry: Any, *, data: int) -> tuple[StoredTensor, int]:
    broken = HeaderError(f"{file.name}: the entry of tensor {name[:200]!r} is not valid")
    if not isinstance(entry, dict):
        raise broken
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not (_counts(shape) and _counts(offsets) and len(offsets) == 2 and isinstance(dtype, str)):
        raise broken
    start, end = offsets
    if not start <= end <= data:
        raise HeaderError(f"{file.name}: tensor {name[:200]!r} reaches byte {end} of {data} (download cut short?)")
    count = 1
    for one in shape:
        count *= one
        if count > 2**60:
            raise broken
    bits = _DTYPE_BITS.get(dtype)
    if bits is not None and -(count * bits // -8) != end - start:
        raise broken
    return StoredTensor(name=name, dtype=dtype, shape=tuple(shape), bytes=end - start), end


def _counts(value: Any) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= 16
        and all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 2**60 for one in value)
    )


def _parsed(file: Path, text: bytes) -> dict[str, Any]:
    try:
        content = parse_json(decode(text), most_values=MAX_VALUES)
    except ReadingError as error:
        raise HeaderError(f"{file.name}: {error}") from error
    if not isinstance(content, dict):
        raise HeaderError(f"{file.name}: a {type(content).__name__} where an object is needed")
    return content


def _index(folder: Path) -> dict[str, Any]:
    index = folder / INDEX
    if index.stat().st_size > MAX_INDEX:
        raise HeaderError(f"{index.name}: larger than {MAX_INDEX} bytes")
    return _parsed(index, index.read_bytes())


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
    else:
        names = _index(folder).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise HeaderError(f"{index.name}: no weight_map")
        wanted = sorted(set(names.values()))
        if any(Path(name).name != name or not name or name.startswith(".") for name in wanted):
            raise HeaderError(f"{index.name}: names a file outside the folder")
        files = [folder / name for name in wanted]
    if len(files) > MAX_FILES:
        raise HeaderError(f"{folder.name}: {len(files)} safetensors files; at most {MAX_FILES} are read")
    return files
