"""Makes a small archive of a vLLM wheel, its dependencies and dsa-doctor's, for a GPU machine without network.

    python scripts/gpu/pack_vllm.py --wheel vllm-0.26.0-*.whl --out build/gpu/vllm.tar.xz
    python scripts/gpu/pack_vllm.py --wheel vllm-0.32.0-*.whl --deep-gemm vllm-0.26.0-*.whl --jit --out vllm.tar.xz

The second has what DeepSeek-V4 and GLM-5.3-Flash need: compilers, and DeepGEMM from a wheel built for the GPU machine's
torch, where the other wheel's is not.

What a run on one Hopper GPU does not need is left out: GPU code of other architectures, FlashAttention 2 (an empty
stand-in takes its place, so dense-MHA prefill is not covered) and, without --jit, 3; the parts of other features. Code
is left out by taking its entries out of their fat binaries in place, so that the files keep their layout and cuobjdump
reads them as before. Unpack the archive into a folder and put its `site` on PYTHONPATH, and of one with --jit also
`site/nvidia_cutlass_dsl/dsl_packages`.
"""

import argparse
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY)]

from dsa_doctor.binaries import scan_fatbins  # noqa: E402
from dsa_doctor.binaries.fatbin import MAGIC, GpuImage  # noqa: E402

LEFT_OUT_LIBRARIES = ("_vllm_fa2_C", "_qutlass_C", "_rust_tool_parser")
LEFT_OUT_WITHOUT_JIT = ("_vllm_fa3_C",)
"""What only models need that need compilers at run time besides: GLM-5.3-Flash's native path takes it."""
LEFT_OUT_FOLDERS = (
    "vllm/vllm-rs",
    "vllm/third_party/fmha_sm100",
    "vllm/third_party/tml_fa4",
    "vllm/entrypoints/serve/instrumentator/static",
    "vllm/kernels/helion/configs",
)
MACHINE_CODE = (("machine_code", "sm_90a"), ("machine_code", "sm_90"))
"""What a Hopper GPU runs, the better first."""
JIT_CODE = (("ptx", "sm_90"), ("ptx", "sm_89"), ("ptx", "sm_80"))
"""What its driver compiles where a fat binary holds none of the above: the highest that is there."""

DEPENDENCIES = (
    # vLLM's, in the version that its wheel asks for
    "blake3",
    "cachetools",
    "cbor2",
    "fastapi",
    "starlette",
    "msgspec",
    "openai<3",  # 3.0 imports another HTTP client
    "jiter",
    "distro",
    "sniffio",
    "openai-harmony==0.0.8",
    "oss-harmony",
    "partial-json-parser",
    "pybase64",
    "pydantic",
    "annotated-types",
    "typing-inspection",
    "pyzmq",
    "compressed-tensors",
    "loguru",
    "uvicorn",
    "watchfiles",
    "prometheus-fastapi-instrumentator",
    "python-json-logger",
    "model-hosting-container-standards",
    "jmespath",
    "nvidia-ml-py",
    "packaging",
    "typing-extensions",
    # dsa-doctor's
    "zstandard",
    "lz4",
    "ahocorasick-rs",
)
JIT_DEPENDENCIES = (
    "tilelang",
    "apache-tvm-ffi",
    "torch-c-dlpack-ext",
    "z3-solver<4.15.5",
    "quack-kernels",
    "nvidia-cutlass-dsl",
    "nvidia-cutlass-dsl-libs-base",
    "nvidia-cutlass-dsl-libs-core",
    "nvidia-cutlass-dsl-libs-cu13",
)
"""TileLang and CuTe's compiler, which the modules of DeepSeek-V4 and GLM-5.3-Flash import."""
PLATFORMS = ("2_28", "2_27", "2_24", "2_17")
UNUSED_FILES = (
    "zstandard/_cffi*.so",
    "bin",
    "tilelang/3rdparty/composable_kernel",
    "tilelang/3rdparty/tvm/src",
    "nvidia_cutlass_dsl/dsl_packages/iket",
)
STAND_INS = (
    "llguidance",
    "xgrammar",
    "xgrammar/structural_tag",
    "xgrammar/openai_tool_call_schema",
    "outlines_core",
    "lmformatenforcer",
)
STAND_IN = '''"""Stands in for a package that guided decoding alone needs."""


class _Names(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


class Anything(metaclass=_Names):
    pass


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Anything
'''


def used_by_hopper(images: list[GpuImage]) -> list[GpuImage]:
    """Return the entries of one fat binary that a Hopper GPU can load: machine code, or else the highest PTX.

    Where there is none, the smallest entry: a fat binary without any is nothing that NVIDIA's tools make.
    """
    for accepted in (MACHINE_CODE, *((one,) for one in JIT_CODE)):
        found = [image for image in images if (image.kind, image.architecture) in accepted]
        if found:
            return found
    return [min(images, key=lambda image: image.size)]


def slim(data: bytes) -> tuple[bytes, int]:
    """Take the entries that a Hopper GPU does not load out of every fat binary; return the bytes and how many went.

    Each fat binary keeps its address and its room: the kept entries move up, its size says less, zeros follow.
    """
    slimmed, removed = bytearray(data), 0
    position = data.find(MAGIC)
    while position >= 0:
        header, size = struct.unpack_from("<HQ", data, position + 6)
        start, end = position + header, position + header + size
        scan = scan_fatbins(data, position, end) if header >= 16 and end <= len(data) else None
        if scan is None or scan.problems or not scan.images:
            position = data.find(MAGIC, position + len(MAGIC))
            continue
        kept = used_by_hopper(list(scan.images))
        entries, at = [], start
        for image in scan.images:
            entry_header, stored = struct.unpack_from("<IQ", data, at + 4)
            assert at + entry_header == image.offset
            if image in kept:
                entries.append(data[at : image.offset + stored])
            at = image.offset + stored
        content = b"".join(entries)
        struct.pack_into("<Q", slimmed, position + 8, len(content))
        slimmed[start:end] = content + bytes(size - len(content))
        removed += size - len(content)
        position = data.find(MAGIC, end)
    return bytes(slimmed), removed


def unpack(wheel: Path, folder: Path, python_version: str, *, left_out: tuple[str, ...]) -> None:
    """Unpack what is needed of the wheel: all but some libraries, by the beginnings of their names."""
    own_abi = f".cpython-{python_version.replace('.', '')}-"
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = Path(entry.filename)
            library = ".so" in path.suffixes
            if entry.is_dir() or path.as_posix().startswith(LEFT_OUT_FOLDERS):
                continue
            if library and (path.name.startswith(left_out) or _is_for_other_python(path.name, own_abi)):
                continue
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            data = archive.read(entry)
            if library:
                data, removed = slim(data)
                print(f"{path}: {len(data) / 2**20:.1f} MiB, {removed / 2**20:.1f} MiB of it left out")
            target.write_bytes(data)
    (folder / "vllm" / "vllm_flash_attn" / "_vllm_fa2_C.py").write_text('"""Left out of this archive."""\n')


def _is_for_other_python(name: str, own_abi: str) -> bool:
    return ".cpython-" in name and own_abi not in name


def unpack_deep_gemm(wheel: Path, folder: Path, python_version: str) -> None:
    """Unpack DeepGEMM alone, as the package of its own that vLLM prefers to the one in its wheel.

    From a wheel built for the GPU machine's torch: it is bound to torch's C++ interface, vLLM's own modules are not.
    """
    inside, own_abi = "vllm/third_party/deep_gemm/", f".cpython-{python_version.replace('.', '')}-"
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(inside) and not name.endswith("/") and not _is_for_other_python(name, own_abi):
                target = folder / "deep_gemm" / name.removeprefix(inside)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))


def asked_by(folder: Path, package: str) -> dict[str, str]:
    """Return what an unpacked package requires without extras: name to the requirement as its metadata has it."""
    [metadata] = folder.glob(f"{package.replace('-', '_')}-*.dist-info/METADATA")
    found = {}
    for line in metadata.read_text(encoding="utf-8").splitlines():
        required = line.removeprefix("Requires-Dist: ")
        if required != line and "extra ==" not in required:
            plain = re.sub(r"\[.*?\]|;.*", "", required).strip()
            found[re.split(r"[<>=!~ ]", plain)[0].lower().replace("_", "-")] = plain
    return found


def install_dependencies(folder: Path, python_version: str, *, jit: bool) -> None:
    """Fetch the dependencies as wheels for the GPU machine's Python, without their own dependencies."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(folder)]
    command += ["--only-binary=:all:", "--python-version", python_version, "--implementation", "cp"]
    command += [f"--platform=manylinux_{one}_x86_64" for one in PLATFORMS] + ["--platform=manylinux2014_x86_64"]
    asked = asked_by(folder, "vllm")
    names = (*DEPENDENCIES, *(JIT_DEPENDENCIES if jit else ()))
    subprocess.run([*command, *(asked.get(name, name) for name in names)], check=True)
    matching = [asked_by(folder, "pydantic")["pydantic-core"]]
    subprocess.run([*command, *matching], check=True)
    for pattern in UNUSED_FILES:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for copied in folder.glob("z3/lib/libz3.so"):  # the wheel holds the file twice
        [original] = folder.glob("z3/lib/libz3.so.*")
        copied.unlink()
        copied.symlink_to(original.name)
    for name in STAND_INS:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(STAND_IN)


def describe_dsa_doctor(folder: Path) -> None:
    """Add the metadata of dsa-doctor's own wheel, so that vLLM finds the plugin's entry point; its code lies beside."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--wheel-dir", scratch, str(REPOSITORY)], check=True)
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            wheel.extractall(folder, [name for name in wheel.namelist() if ".dist-info/" in name])


def split(archive: Path, size: int) -> list[Path]:
    """Cut a file into parts of at most `size` bytes, `NAME.00` and on, which follow each other; return them."""
    parts = []
    with archive.open("rb") as source:
        while data := source.read(size):
            part = archive.with_name(f"{archive.name}.{len(parts):02d}")
            part.write_bytes(data)
            parts.append(part)
    archive.unlink()
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--python-version", default="3.12", help="of the GPU machine")
    parser.add_argument("--deep-gemm", type=Path, help="take DeepGEMM from this wheel, built for the machine's torch")
    parser.add_argument("--jit", action="store_true", help="bring what DeepSeek-V4 and GLM-5.3-Flash compile with")
    parser.add_argument("--part-mib", type=int, help="cut the archive into parts of so many MiB")
    parser.add_argument("--preset", type=int, default=9, help="of xz; 2 takes a fifth of the time for a fifth more")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "site"
        folder.mkdir()
        left_out = (*LEFT_OUT_LIBRARIES, *(() if options.jit else LEFT_OUT_WITHOUT_JIT))
        if options.deep_gemm:
            left_out += ("_C_extension", "_C.cpython")
            unpack_deep_gemm(options.deep_gemm, folder, options.python_version)
        unpack(options.wheel, folder, options.python_version, left_out=left_out)
        install_dependencies(folder, options.python_version, jit=options.jit)
        describe_dsa_doctor(folder)
        with tarfile.open(options.out, "w:xz", preset=options.preset) as archive:
            archive.add(folder, "site")
    parts = split(options.out, options.part_mib << 20) if options.part_mib else [options.out]
    for part in parts:
        print(f"{part}: {part.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
