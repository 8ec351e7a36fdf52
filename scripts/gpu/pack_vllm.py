"""Makes a small archive of a vLLM wheel, its dependencies and dsa-doctor's, for a GPU machine without network.

    python scripts/gpu/pack_vllm.py --wheel vllm-0.26.0-*.whl --out build/gpu/vllm.tar.xz

What a run on one Hopper GPU does not need is left out: GPU code of other architectures, the FlashAttention modules (an
empty stand-in takes their place, so dense-MHA prefill is not covered), and the parts of other features. Code is left
out by taking its entries out of their fat binaries in place, so that the files keep their layout and cuobjdump reads
them as before. Unpack the archive into a folder and put its `site` on PYTHONPATH.
"""

import argparse
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

LEFT_OUT_LIBRARIES = ("_vllm_fa2_C", "_vllm_fa3_C", "_qutlass_C", "_rust_tool_parser")
LEFT_OUT_FOLDERS = (
    "vllm/vllm-rs",
    "vllm/third_party/fmha_sm100",
    "vllm/third_party/tml_fa4",
    "vllm/vllm_flash_attn/cute",
    "vllm/entrypoints/serve/instrumentator/static",
    "vllm/kernels/helion/configs",
)
MACHINE_CODE = (("machine_code", "sm_90a"), ("machine_code", "sm_90"))
"""What a Hopper GPU runs, the better first."""
JIT_CODE = (("ptx", "sm_90"), ("ptx", "sm_89"), ("ptx", "sm_80"))
"""What its driver compiles where a fat binary holds none of the above: the highest that is there."""

DEPENDENCIES = (
    # vLLM's
    "cachetools",
    "cbor2",
    "fastapi==0.136.1",
    "starlette",
    "msgspec",
    "openai==2.30.0",
    "jiter",
    "distro",
    "sniffio",
    "openai-harmony==0.0.8",
    "partial-json-parser",
    "pybase64",
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "pyzmq",
    "compressed-tensors==0.17.0",
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
UNUSED_FILES = ("zstandard/_cffi*.so", "bin")
STAND_INS = ("llguidance", "xgrammar", "outlines_core", "lmformatenforcer")
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


def unpack(wheel: Path, folder: Path, python_version: str) -> None:
    """Unpack what is needed of the wheel."""
    own_abi = f".cpython-{python_version.replace('.', '')}-"
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = Path(entry.filename)
            library = ".so" in path.suffixes
            if entry.is_dir() or path.as_posix().startswith(LEFT_OUT_FOLDERS):
                continue
            if library and (path.name.startswith(LEFT_OUT_LIBRARIES) or _is_for_other_python(path.name, own_abi)):
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


def install_dependencies(folder: Path, python_version: str) -> None:
    """Fetch the dependencies as wheels for the GPU machine's Python, without their own dependencies."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(folder)]
    command += ["--only-binary=:all:", "--python-version", python_version, "--implementation", "cp"]
    subprocess.run([*command, *DEPENDENCIES], check=True)
    for pattern in UNUSED_FILES:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--python-version", default="3.12", help="of the GPU machine")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "site"
        folder.mkdir()
        unpack(options.wheel, folder, options.python_version)
        install_dependencies(folder, options.python_version)
        describe_dsa_doctor(folder)
        with tarfile.open(options.out, "w:xz", preset=9) as archive:
            archive.add(folder, "site")
    print(f"{options.out}: {options.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
