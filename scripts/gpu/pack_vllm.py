"""Makes a small archive of a vLLM wheel and its dependencies, for a GPU machine without network.

    python scripts/gpu/pack_vllm.py --wheel vllm-0.26.0-*.whl --out build/gpu/vllm.tar.xz

What a run on one Hopper GPU does not need is left out: GPU code of other architectures (its bytes are zeroed in place,
so that the files keep their layout), the FlashAttention modules (an empty stand-in takes their place, so dense-MHA
prefill is not covered), and the modules of other features. Unpack the archive into a folder and put it on PYTHONPATH.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path[:0] = [str(REPOSITORY)]

from dsa_doctor.binaries import scan_fatbins  # noqa: E402

KEPT_LIBRARIES = ("_C_stable_libtorch", "_moe_C_stable_libtorch", "_flashmla_C", "_flashmla_extension_C")
KEPT_CODE = {
    ("machine_code", "sm_90"),
    ("machine_code", "sm_90a"),
    ("ptx", "sm_80"),
    ("ptx", "sm_89"),
    ("ptx", "sm_90"),
}
DEPENDENCIES = (
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
    "nvidia-ml-py",
    "packaging",
    "typing-extensions",
)
STAND_INS = ("llguidance", "xgrammar", "outlines_core", "lmformatenforcer")
STAND_IN = '''"""Stands in for a package that guided decoding alone needs."""


class _Anything:
    def __getattr__(self, name):
        return _Anything()

    def __call__(self, *arguments, **options):
        return _Anything()


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Anything()
'''


def slim(data: bytes) -> tuple[bytearray, int]:
    """Zero the payload of every image that is not kept; return the bytes and how many were zeroed."""
    slimmed, zeroed = bytearray(data), 0
    for image in scan_fatbins(data).images:
        if (image.kind, image.architecture) not in KEPT_CODE:
            slimmed[image.offset : image.offset + image.size] = bytes(image.size)
            zeroed += image.size
    return slimmed, zeroed


def unpack(wheel: Path, folder: Path) -> None:
    """Unpack what is needed of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = Path(entry.filename)
            if entry.is_dir() or (".so" in path.suffixes and not path.name.startswith(KEPT_LIBRARIES)):
                continue
            if path.parts[0] == "vllm" and path.parts[1:2] == ("vllm-rs",):
                continue
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            data = archive.read(entry)
            if ".so" in path.suffixes:
                slimmed, zeroed = slim(data)
                print(f"{path}: {len(data) >> 20} MiB, {zeroed >> 20} MiB of it zeroed")
                data = bytes(slimmed)
            target.write_bytes(data)
    (folder / "vllm" / "vllm_flash_attn" / "_vllm_fa2_C.py").write_text('"""Left out of this archive."""\n')


def install_dependencies(folder: Path, python_version: str) -> None:
    """Fetch the dependencies as wheels for the GPU machine's Python, without their own dependencies."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    command += ["--only-binary=:all:", "--python-version", python_version, "--implementation", "cp"]
    subprocess.run([*command, *DEPENDENCIES], check=True)
    for name in STAND_INS:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(STAND_IN)


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
        unpack(options.wheel, folder)
        install_dependencies(folder, options.python_version)
        with tarfile.open(options.out, "w:xz") as archive:
            archive.add(folder, "site")
    print(f"{options.out}: {options.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
