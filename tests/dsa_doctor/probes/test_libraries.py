import subprocess
from pathlib import Path

import pytest

from dsa_doctor.binaries import SharedObject
from dsa_doctor.probes.environment import Environment
from dsa_doctor.probes.libraries import LibraryIndex, link


@pytest.fixture(scope="module")
def index() -> LibraryIndex:
    return LibraryIndex.of(Environment.current())


def test_libraries_of_torch_are_found_as_the_loader_finds_them(torch_dir: Path, index: LibraryIndex) -> None:
    library = torch_dir / "lib" / "libtorch_python.so"
    done = subprocess.run(["ldd", library], capture_output=True, text=True, check=False)
    missing = sorted({line.split()[0] for line in done.stdout.splitlines() if "not found" in line})
    linkage = link(SharedObject(library), index)
    assert linkage.unresolved == ()
    # What torch finds in NVIDIA's wheels at run time, ldd does not.
    assert set(linkage.missing_libraries) <= set(missing)


def build(folder: Path, name: str, source: str, *options: str | Path) -> Path:
    out = folder / name
    try:
        subprocess.run(
            ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-x", "c", "-", "-x", "none", "-o", out, *options],
            input=source.encode(),
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("gcc is not installed")
    return out


@pytest.mark.parametrize(
    ("needed", "symbol", "blamed"),
    [
        ("libcudart.so.13", "cudaLaunchKernel", False),
        ("libcudart.so.13", "dsv3_fused_a_gemm", True),
        ("libcudart.so.13", "_ZN2at4_ops3addE", True),
        ("libcuda.so.1", "cuMemAlloc", False),
        ("libcuda.so.1", "cudaMalloc", True),
        ("libtorch_cuda.so", "_ZN3c104cuda20CUDACachingAllocatorE", False),
        ("libtorch_cuda.so", "_ZNK5torch7Library4_defE", False),
        ("libtorch_cuda.so", "_ZTIN3c105ErrorE", False),
        ("libtorch_cuda.so", "cublasHgemm", False),
        ("libtorch_cuda.so", "_Z17dsv3_fused_a_gemmRN2at6TensorERKS0_", True),
        ("libsome_other.so", "anything_else", False),
    ],
)
def test_a_missing_library_excuses_only_its_own_symbols(tmp_path: Path, needed: str, symbol: str, blamed: bool) -> None:
    build(tmp_path, needed, "int placeholder;")
    source = f"extern void {symbol}(void); void f(void) {{ {symbol}(); }}"
    extension = build(tmp_path, "ext.so", source, "-Wl,--no-as-needed", tmp_path / needed)
    (tmp_path / needed).unlink()
    linkage = link(SharedObject(extension), LibraryIndex((Path("/usr/lib/x86_64-linux-gnu"), Path("/lib64"))))
    assert needed in linkage.missing_libraries
    assert linkage.unresolved == ((symbol,) if blamed else ())


def test_symbols_come_from_the_whole_closure_and_from_the_run_path(tmp_path: Path, index: LibraryIndex) -> None:
    (tmp_path / "deep").mkdir()
    deep = build(tmp_path / "deep", "libdeep.so", "void from_deep(void) {}")
    build(tmp_path, "libnear.so", "void near(void) {}", "-Wl,--no-as-needed", deep, "-Wl,-rpath,$ORIGIN/deep")
    source = """
        extern void from_deep(void); extern void near(void); extern void nobodys(void);
        extern void optional(void) __attribute__((weak));
        void g(void) { from_deep(); near(); nobodys(); if (optional) optional(); }
    """
    extension = build(tmp_path, "ext.so", source, tmp_path / "libnear.so", "-Wl,-rpath,$ORIGIN")
    linkage = link(SharedObject(extension), index)
    assert linkage.missing_libraries == ()
    assert linkage.unresolved == ("nobodys",)
