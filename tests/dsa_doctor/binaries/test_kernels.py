import re
import struct
import subprocess
from pathlib import Path

import pytest

from dsa_doctor.binaries import PayloadError, SharedObject, kernel_names, mangled_fragment, payload_chunks, scan_fatbins
from dsa_doctor.binaries.fatbin import GpuImage
from tests.dsa_doctor.binaries.fatbins import container, entry


def images_of(path: Path) -> tuple[SharedObject, tuple[GpuImage, ...]]:
    file = SharedObject(path)
    return file, scan_fatbins(file.data, *(file.section(".nv_fatbin") or (0, 0))).images


@pytest.mark.slow
def test_kernels_of_every_image_are_those_that_cuobjdump_lists(main_extension: Path, cuobjdump: Path) -> None:
    done = subprocess.run([cuobjdump, "-symbols", main_extension], capture_output=True, text=True, check=True)
    listed = []
    for part in done.stdout.split("Fatbin elf code:")[1:]:
        architecture = re.search(r"^arch = (sm_\w+)$", part, re.MULTILINE)
        kernels = re.findall(r"^STT_FUNC .*STO_ENTRY\s+(\S+)$", part, re.MULTILINE)
        listed.append((architecture[1] if architecture else "", frozenset(kernels)))
    file, images = images_of(main_extension)
    cubins = [image for image in images if image.kind == "machine_code"]
    assert len(cubins) == len(listed) > 100
    for image, (architecture, kernels) in zip(cubins, listed, strict=True):
        assert image.architecture.removesuffix("f") == architecture.removesuffix("f")
        assert kernels <= kernel_names(file.data, image)
    assert sum(len(kernels) for _, kernels in listed) > 1000


@pytest.mark.slow
def test_head_of_an_image_names_the_same_functions_as_its_section_headers(extensions: list[Path]) -> None:
    """The short cut of `kernel_names` against a whole parse of each cubin."""
    checked = 0
    for path in extensions:
        if path.stat().st_size > 100_000_000:  # FA2 and FA3: gigabytes when decompressed
            continue
        file, images = images_of(path)
        for image in images:
            if image.kind == "machine_code":
                whole = b"".join(payload_chunks(file.data, image, limit=1 << 28))
                assert kernel_names(file.data, image) == functions_by_section_headers(whole)
                checked += 1
    assert checked > 400


def functions_by_section_headers(cubin: bytes) -> frozenset[str]:
    (headers,) = struct.unpack_from("<Q", cubin, 40)
    count, names_index = struct.unpack_from("<HH", cubin, 60)
    (names,) = struct.unpack_from("<Q", cubin, headers + 64 * names_index + 24)
    found = set()
    for index in range(count):
        (offset,) = struct.unpack_from("<I", cubin, headers + 64 * index)
        name = cubin[names + offset : cubin.index(b"\0", names + offset)].decode()
        if name.startswith(".text."):
            found.add(name.removeprefix(".text."))
    return frozenset(found)


def test_ptx_kernels_are_found_across_chunks() -> None:
    filler = b"// " + b"x" * 100 + b"\n"
    text = b"".join(filler * 4000 + b".visible .entry kernel_%d(\n" % number for number in range(7))
    text += b".entry\tkernel_7()"
    data = container(entry(text, kind=1, compression="zstd"))
    assert kernel_names(data, scan_fatbins(data).images[0]) == {f"kernel_{number}" for number in range(8)}


@pytest.mark.parametrize(
    ("payload", "kind", "complaint"),
    [
        (b"\x7fELF" + b"\0" * 60 + b"\0.shstrtab\0.text.a" + b"\0" * 100, 2, "do not end"),
        (b"\x7fELF" + b"x" * 200, 2, "does not start with"),
        (b"", 2, "do not end"),
        (b"x" * (3 << 20), 1, "a line without end"),
    ],
)
def test_what_is_no_image_is_refused(payload: bytes, kind: int, complaint: str) -> None:
    data = container(entry(payload, kind=kind))
    with pytest.raises(PayloadError, match=complaint):
        kernel_names(data, scan_fatbins(data).images[0])


def test_mangled_fragment() -> None:
    assert mangled_fragment("marlin::Marlin") == "6marlin6Marlin"
