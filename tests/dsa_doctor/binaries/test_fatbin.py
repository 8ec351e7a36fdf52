import contextlib
import re
import shutil
import struct
import subprocess
from collections import Counter, deque
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsa_doctor.binaries import PayloadError, SharedObject, kernel_names, payload_chunks, scan_fatbins
from dsa_doctor.binaries.fatbin import MAGIC, FatbinScan
from tests.dsa_doctor.binaries.fatbins import container, entry


def scan_file(path: Path) -> tuple[SharedObject, FatbinScan]:
    file = SharedObject(path)
    section = file.section(".nv_fatbin")
    return file, scan_fatbins(file.data, *section) if section else FatbinScan((), ())


def listed_by(cuobjdump: Path, option: str, path: Path) -> Counter[str]:
    done = subprocess.run([cuobjdump, option, path], capture_output=True, text=True, check=False)
    return Counter(re.findall(r"\.(sm_\d+[a-z]?)\.(?:cubin|ptx)$", done.stdout, re.MULTILINE))


def as_cuobjdump_writes(counts: Counter[str]) -> Counter[str]:
    """cuobjdump of Triton's wheel writes sm_90a in full, but sm_100f as sm_100."""
    plain: Counter[str] = Counter()
    for architecture, count in counts.items():
        plain[architecture.removesuffix("f")] += count
    return plain


@pytest.mark.slow
def test_every_extension_of_the_installed_vllm_reads_as_cuobjdump_reads_it(
    extensions: list[Path], cuobjdump: Path
) -> None:
    total = 0
    for path in extensions:
        _, scan = scan_file(path)
        assert scan.problems == (), path.name
        cubins = Counter(image.architecture for image in scan.images if image.kind == "machine_code")
        ptx = Counter(image.architecture for image in scan.images if image.kind == "ptx")
        assert as_cuobjdump_writes(cubins) == as_cuobjdump_writes(listed_by(cuobjdump, "--list-elf", path)), path.name
        assert as_cuobjdump_writes(ptx) == as_cuobjdump_writes(listed_by(cuobjdump, "--list-ptx", path)), path.name
        total += len(scan.images)
    assert total > 500


@pytest.fixture(scope="module")
def small_fatbin(main_extension: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest fat binary of the installed vLLM that holds both machine code and PTX, or else the smallest."""
    file, _ = scan_file(main_extension)
    start, end = file.section(".nv_fatbin") or (0, 0)
    pieces = []
    position = start
    while (position := file.data.find(MAGIC, position, end)) >= 0:
        header, size = struct.unpack_from("<HQ", file.data, position + 6)
        pieces.append(file.data[position : position + header + size])
        position += header + size
    smallest = min(pieces, key=lambda piece: (not any(i.kind == "ptx" for i in scan_fatbins(piece).images), len(piece)))
    path = tmp_path_factory.mktemp("fatbin") / "smallest.fatbin"
    path.write_bytes(smallest)
    return path


def exhaust(data: bytes) -> None:
    """Read all there is to read; only PayloadError may come out, and never more bytes than allowed."""
    scan = scan_fatbins(data)
    assert len(scan.images) <= len(data) // 64
    assert len(scan.problems) <= 20
    for image in scan.images:
        with contextlib.suppress(PayloadError):
            assert sum(map(len, payload_chunks(data, image, limit=1 << 22))) <= 1 << 22
        with contextlib.suppress(PayloadError):
            kernel_names(data, image)


def test_small_fatbin_is_sound(small_fatbin: Path) -> None:
    content = small_fatbin.read_bytes()
    scan = scan_fatbins(content)
    assert scan.images
    assert scan.problems == ()
    exhaust(content)


@pytest.mark.parametrize(("architecture", "found"), [(9, []), (10, ["sm_10"]), (999, ["sm_999"]), (1000, [])])
def test_an_architecture_of_two_or_three_digits_is_one(architecture: int, found: list[str]) -> None:
    scan = scan_fatbins(container(entry(b"12345678", architecture=architecture)))
    assert [image.architecture for image in scan.images] == found
    assert [problem.partition(": ")[2] for problem in scan.problems] == ([] if found else ["no entry at offset 16"])


@pytest.mark.parametrize(("header", "read"), [(15, 1), (16, 2), (0, 1)])
def test_a_container_with_a_header_too_small_is_passed_over(header: int, read: int) -> None:
    sound = container(entry(b"12345678"))
    first = bytearray(sound)
    struct.pack_into("<H", first, 6, header)
    scan = scan_fatbins(bytes(first) + sound)
    assert len(scan.images) == read
    assert len(scan.problems) == 2 - read


@settings(max_examples=150, deadline=2000)
@given(data=st.data())
def test_mutated_bytes_never_break_the_reader(small_fatbin: Path, data: st.DataObject) -> None:
    window = small_fatbin.read_bytes()[: 1 << 16]
    mutated = bytearray(window)
    for _ in range(data.draw(st.integers(1, 12))):
        # Half of the mutations hit the first headers, where sizes and counts lie.
        place = data.draw(st.one_of(st.integers(0, min(255, len(window) - 1)), st.integers(0, len(window) - 1)))
        mutated[place] = data.draw(st.integers(0, 255))
    exhaust(bytes(mutated[: data.draw(st.integers(0, len(mutated)))]))


@settings(max_examples=100, deadline=2000)
@given(st.lists(st.one_of(st.just(MAGIC), st.binary(max_size=80), st.just(b"\xff" * 16)), max_size=40).map(b"".join))
def test_arbitrary_bytes_never_break_the_reader(data: bytes) -> None:
    exhaust(data)


def test_many_containers_that_claim_everything_are_read_in_linear_time() -> None:
    lying = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 1 << 40)
    scan = scan_fatbins(lying * 200_000)
    assert scan.images == ()
    assert len(scan.problems) == 20


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("suffix", ["", "a", "f"])
def test_container_is_read_back(compression: str, suffix: str) -> None:
    payload = b".version 9.0\n.visible .entry kernel_of_mine(\n)\n" * 50
    data = container(
        entry(payload, kind=1, architecture=90, suffix=suffix, compression=compression),
        entry(b"\x7fELF", architecture=80),
    )
    ptx, cubin = scan_fatbins(b"\0" * 24 + data + b"\0" * 8 + data).images[:2]
    assert (ptx.kind, ptx.architecture) == ("ptx", f"sm_90{suffix}")
    assert (cubin.kind, cubin.architecture) == ("machine_code", "sm_80")
    assert len(scan_fatbins(b"\0" * 24 + data + b"\0" * 8 + data).images) == 4
    image = scan_fatbins(data).images[0]
    assert b"".join(payload_chunks(data, image, limit=1 << 20)).rstrip(b"\0") == payload.rstrip(b"\0")
    assert kernel_names(data, image) == {"kernel_of_mine"}


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("claims", [0, 1, 1 << 62])
def test_lying_decompressed_size_costs_no_memory(compression: str, claims: int) -> None:
    data = container(entry(b"\0" * (8 << 20), compression=compression, claims=claims))
    chunks = payload_chunks(data, scan_fatbins(data).images[0], limit=1 << 20)
    with pytest.raises(PayloadError):
        deque(chunks, maxlen=0)


def test_other_kinds_are_kept_apart_and_have_no_kernels() -> None:
    data = container(entry(b"bitcode", kind=8))
    image = scan_fatbins(data).images[0]
    assert image.kind == "other"
    with pytest.raises(PayloadError):
        kernel_names(data, image)


PTX = ".version 7.8\n.target sm_{0}\n.address_size 64\n.visible .entry tiny_kernel()\n{{\n ret;\n}}\n"


@pytest.mark.parametrize("architecture", ["80", "90", "90a", "100a", "100f", "120f"])
def test_suffix_and_compression_as_nvidias_fatbinary_writes_them(
    architecture: str, tmp_path: Path, cuobjdump: Path
) -> None:
    tools = sorted(cuobjdump.parents[4].glob("nvidia/cu*/bin/fatbinary"))  # site-packages
    fatbinary = next((str(tool) for tool in tools), shutil.which("fatbinary"))
    if fatbinary is None:
        pytest.skip("fatbinary (wheel nvidia-cuda-nvcc) is not installed")
    ptx = tmp_path / "k.ptx"
    version = "8.8" if architecture.endswith("f") or architecture.startswith("12") else "8.6"
    ptx.write_text(PTX.format(architecture).replace("7.8", version))
    cubin = tmp_path / "k.cubin"
    blackwell = architecture.startswith("1")
    ptxas = cuobjdump.with_name(
        "ptxas-blackwell" if blackwell and cuobjdump.with_name("ptxas-blackwell").exists() else "ptxas"
    )
    subprocess.run([ptxas, f"-arch=sm_{architecture}", ptx, "-o", cubin], check=True, capture_output=True)
    for mode in ("size", "speed", "none"):
        out = tmp_path / f"{mode}.fatbin"
        subprocess.run(
            [
                fatbinary,
                "-64",
                f"--create={out}",
                f"--compress-mode={mode}",
                f"--image3=kind=elf,sm={architecture},file={cubin}",
                f"--image3=kind=ptx,sm={architecture},file={ptx}",
            ],
            check=True,
            capture_output=True,
        )
        data = out.read_bytes()
        images = scan_fatbins(data).images
        assert sorted((image.kind, image.architecture) for image in images) == [
            ("machine_code", f"sm_{architecture}"),
            ("ptx", f"sm_{architecture}"),
        ]
        for image in images:
            assert kernel_names(data, image) == {"tiny_kernel"}
