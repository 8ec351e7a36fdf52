"""Decompresses the payload of a fat binary entry, in pieces and within bounds.

The decompressors are imported where they are used: a server with the plugin gathers facts and reads no payload.
"""

from collections.abc import Iterator

from dsa_doctor.binaries.fatbin import Buffer, GpuImage

_LARGEST_WINDOW = 1 << 27
_LZ4_RATIO = 255
"""An LZ4 block cannot expand further: each length byte adds at most 255 bytes."""


class PayloadError(ValueError):
    """The payload is damaged, or larger than the caller allows."""


def payload_chunks(data: Buffer, image: GpuImage, *, limit: int, chunk_size: int = 1 << 18) -> Iterator[bytes]:
    """Yield the decompressed payload of `image` in order; a caller who has seen enough stops iterating.

    Args:
        data: the file that `image` was found in.
        image: the entry.
        limit: most bytes to yield or hold; a payload that goes on is an error, so a lying size costs no memory.
        chunk_size: bytes per piece; an LZ4 block comes in one piece, since it cannot be decoded in part.

    Raises:
        PayloadError: the payload is damaged or longer than `limit`.
    """
    if image.offset + image.size > len(data):
        raise PayloadError("the payload is cut off")
    if image.compression == "none":
        if image.size > limit:
            raise PayloadError(f"the payload has {image.size} bytes, the limit is {limit}")
        for offset in range(image.offset, image.offset + image.size, chunk_size):
            yield data[offset : min(offset + chunk_size, image.offset + image.size)]
    elif image.compression == "lz4":
        import lz4.block  # type: ignore[import-untyped]

        size = image.decompressed_size
        if size > limit or size > image.size * _LZ4_RATIO:
            raise PayloadError(f"the payload claims {size} bytes from {image.size}, the limit is {limit}")
        try:
            yield lz4.block.decompress(data[image.offset : image.offset + image.size], uncompressed_size=size)
        except (lz4.block.LZ4BlockError, ValueError) as error:
            raise PayloadError(f"damaged LZ4 block: {error}") from error
    else:
        yield from _zstd_chunks(memoryview(data)[image.offset : image.offset + image.size], limit, chunk_size)


def _zstd_chunks(stored: memoryview, limit: int, chunk_size: int) -> Iterator[bytes]:
    import zstandard

    reader = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).stream_reader(stored)
    total = 0
    while True:
        try:
            chunk = reader.read(chunk_size)
        except zstandard.ZstdError as error:
            raise PayloadError(f"damaged zstd frame: {error}") from error
        if not chunk:
            return
        total += len(chunk)
        if total > limit:
            raise PayloadError(f"the payload goes on after {limit} bytes")
        yield chunk
