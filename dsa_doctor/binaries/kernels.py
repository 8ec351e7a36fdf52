"""Names of the kernels in a fat binary entry, without disassembling it."""

import re
from collections.abc import Iterator

from dsa_doctor.binaries.fatbin import Buffer, GpuImage
from dsa_doctor.binaries.payload import PayloadError, payload_chunks

_ELF_HEADER_SIZE = 64
_FIRST_NAME = b"\0.shstrtab\0"
_TEXT_SECTION = re.compile(rb"\0\.text\.([^\0]+)(?=\0)")
_PTX_ENTRY = b".entry"
_PTX_NAME = re.compile(rb"\.entry\s+([\w$]+)")
_LARGEST_NAME_TABLE = 1 << 24
_LARGEST_PTX = 1 << 29
_LONGEST_LINE = 1 << 20


def kernel_names(data: Buffer, image: GpuImage) -> frozenset[str]:
    """Return the mangled names of the functions in `image`: kernels, and in a cubin also non-inlined device functions.

    A cubin holds one section `.text.<name>` per function, and ptxas writes the table of section names first, right
    after the ELF header, followed by the symbol names, which start with ".shstrtab" again. So the head of the
    decompressed image is enough, which is a hundredth of the work of decompressing it. The tests compare this with the
    section headers of every image of the installed vLLM.

    Raises:
        PayloadError: the payload is damaged, not of the kind it claims, or its names do not end within bounds.
    """
    if image.kind == "machine_code":
        return _cubin_names(data, image)
    if image.kind == "ptx":
        return _ptx_names(data, image)
    raise PayloadError("neither a cubin nor PTX")


def mangled_fragment(qualified_name: str) -> str:
    """Return what the Itanium C++ ABI writes for a nested name: "marlin::Marlin" gives "6marlin6Marlin"."""
    return "".join(f"{len(part)}{part}" for part in qualified_name.split("::"))


def _cubin_names(data: Buffer, image: GpuImage) -> frozenset[str]:
    head = bytearray()
    for chunk in payload_chunks(data, image, limit=1 << 40, chunk_size=1 << 16):
        searched = max(len(head) - len(_FIRST_NAME), _ELF_HEADER_SIZE + 1)
        head += chunk
        if len(head) > _ELF_HEADER_SIZE + len(_FIRST_NAME) and not (
            head.startswith(b"\x7fELF") and head.startswith(_FIRST_NAME, _ELF_HEADER_SIZE)
        ):
            raise PayloadError("the image does not start with an ELF header and the names of its sections")
        end = head.find(_FIRST_NAME, searched)
        if end >= 0:
            return _decoded(_TEXT_SECTION.findall(bytes(head[_ELF_HEADER_SIZE : end + 1])))
        if len(head) > _LARGEST_NAME_TABLE:
            break
    raise PayloadError("the section names of the image do not end")


def _ptx_names(data: Buffer, image: GpuImage) -> frozenset[str]:
    names: set[bytes] = set()
    rest = b""
    for chunk in payload_chunks(data, image, limit=_LARGEST_PTX, chunk_size=1 << 20):
        text = rest + chunk
        whole_lines = text.rfind(b"\n") + 1
        names.update(_entries(text, whole_lines))
        rest = text[whole_lines:]
        if len(rest) > _LONGEST_LINE:
            raise PayloadError("not PTX: a line without end")
    names.update(_entries(rest, len(rest)))
    return _decoded(names)


def _entries(text: bytes, end: int) -> Iterator[bytes]:
    """Yield the entry names in `text[:end]`; a plain search is faster than a pattern in hundreds of megabytes."""
    position = text.find(_PTX_ENTRY, 0, end)
    while position >= 0:
        if match := _PTX_NAME.match(text, position, end):
            yield match[1]
        position = text.find(_PTX_ENTRY, position + 1, end)


def _decoded(names: "set[bytes] | list[bytes]") -> frozenset[str]:
    return frozenset(name.decode("ascii", "replace") for name in names)
