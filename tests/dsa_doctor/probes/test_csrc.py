import functools
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dsa_doctor.binaries import SharedObject, scan_fatbins
from dsa_doctor.cache import Trace
from dsa_doctor.catalog.ops import DSA_OPS
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Csrc, ExtensionModule, OpCode
from dsa_doctor.probes import csrc
from dsa_doctor.probes.environment import Environment

MakeSite = Callable[..., Environment]


def value(observation: Observation[Csrc]) -> Csrc:
    assert observation.value is not None, observation
    return observation.value


def op(facts: Csrc, name: str) -> OpCode:
    return next(found for found in facts.ops if found.op == name)


def only(facts: Csrc) -> ExtensionModule:
    assert len(facts.extensions) == 1
    return facts.extensions[0]


@pytest.fixture(scope="module")
def installed(vllm_dir: Path) -> Csrc:
    return value(csrc.probe(Environment(python=None, search_path=Environment.current().search_path)))


def test_installed_vllm_reads_without_a_problem(installed: Csrc, extensions: list[Path]) -> None:
    assert len(installed.extensions) == len(extensions)
    assert all(extension.problem is None for extension in installed.extensions)
    assert not any(Path(extension.file).is_absolute() for extension in installed.extensions)
    main = next(found for found in installed.extensions if found.module == "vllm._C_stable_libtorch")
    assert {("sm_80", "machine_code"), ("sm_90a", "machine_code"), ("sm_80", "ptx")} <= {
        (images.architecture, images.kind) for images in main.images
    }


def test_stock_wheel_lacks_no_symbol(installed: Csrc) -> None:
    """Also where torch is a CPU build and there is no driver: their symbols are then not nobody's."""
    assert {found.module: found.unresolved_symbols for found in installed.extensions if found.unresolved_symbols} == {}


def test_fused_a_gemm_has_code_for_hopper_and_above_only(installed: Csrc) -> None:
    found = op(installed, "_C::dsv3_fused_a_gemm")
    assert found.granularity == "kernel"
    assert found.implemented
    assert [re.sub(r"[af]$", "", name) for name in found.machine_code] == ["sm_90", "sm_100", "sm_120"]
    assert found.machine_code[0] == "sm_90a"
    assert found.ptx == ()


@pytest.mark.parametrize("need", [need for need in DSA_OPS if need.role != "guarded"], ids=lambda need: need.op)
def test_every_op_that_is_not_guarded_has_sm80_code_told_by_kernel(installed: Csrc, need: csrc.OpNeed) -> None:
    found = op(installed, need.op)
    assert (found.granularity, found.implemented) == ("kernel", True)
    assert "sm_80" in found.machine_code
    assert found.signature is not None


@pytest.mark.slow
def test_kernels_per_op_are_those_that_cuobjdump_finds(installed: Csrc, main_extension: Path, cuobjdump: Path) -> None:
    done = subprocess.run([cuobjdump, "-symbols", main_extension], capture_output=True, text=True, check=True)
    for name, kernel in {
        "_C::dsv3_fused_a_gemm": "fused_a_gemm_kernel",
        "_C::persistent_topk": "persistent_topk_kernel",
        "_C::cooperative_topk": "cooperative_topk_cs",
        "_C_cache_ops::indexer_k_quant_and_cache": "indexer_k_quant_and_cache_kernel",
        "_C::gptq_marlin_repack": "gptq_marlin_repack_kernel",
    }.items():
        listed = {
            match[1].removesuffix("f")
            for part in done.stdout.split("Fatbin elf code:")[1:]
            if re.search(rf"\d{kernel}", part) and (match := re.search(r"^arch = (\w+)$", part, re.MULTILINE))
        }
        assert {architecture.removesuffix("f") for architecture in op(installed, name).machine_code} == listed, name


def test_time_of_the_whole_probe_stays_small(vllm_dir: Path) -> None:
    files_only = Environment(python=None, search_path=Environment.current().search_path)
    start = time.process_time()
    csrc.probe(files_only)
    assert time.process_time() - start < 6  # about 1.4 s of processor time on an idle two-core machine


def test_no_vllm_is_absent(tmp_path: Path) -> None:
    observation = csrc.probe(Environment(python=None, search_path=(tmp_path,)))
    assert (observation.status, observation.cause) == ("absent", "vllm is not installed")


def test_vllm_without_its_extensions_has_no_ops(site: MakeSite) -> None:
    facts = value(csrc.probe(site({"vllm/__init__.py": ""})))
    assert facts.extensions == ()
    assert {(found.extension, found.machine_code, found.implemented) for found in facts.ops} == {(None, (), None)}
    assert facts.dispatcher.status == "unknown"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "not an ELF file"),
        (b"\x7fELF\x02\x01\x01", "truncated or damaged"),
    ],
)
def test_a_file_that_is_no_extension_is_told(site: MakeSite, content: bytes, problem: str) -> None:
    extension = only(value(csrc.probe(site({"vllm/_C.abi3.so": content}))))
    assert (extension.module, extension.file, extension.size_bytes) == ("vllm._C", "vllm/_C.abi3.so", len(content))
    assert extension.problem is not None
    assert extension.problem.startswith(problem)


def test_dangling_link_is_told_and_a_link_to_a_real_file_is_read(site: MakeSite, main_extension: Path) -> None:
    facts = value(
        csrc.probe(site({"vllm/_C.so": main_extension, "vllm/_moe_C.so": Path("/nonexistent/_moe_C.so")}, python=None))
    )
    real, dangling = facts.extensions
    assert real.problem is None
    assert real.size_bytes == main_extension.stat().st_size
    assert dangling.problem == "No such file or directory"
    assert op(facts, "_C::rms_norm").extension == "vllm._C"


def test_truncated_extension_still_tells_what_is_left(site: MakeSite, main_extension: Path) -> None:
    content = main_extension.read_bytes()
    facts = value(csrc.probe(site({"vllm/_C.so": content[: len(content) // 2]}, python=None)))
    extension = only(facts)
    assert extension.problem is not None
    assert "truncated" in extension.problem
    assert 0 < sum(images.count for images in extension.images) < 600
    assert any(schema.startswith("rms_norm(") for schema in extension.op_schemas)


def test_wheel_without_sm80_code(site: MakeSite, main_extension: Path) -> None:
    """A copy of the real extension whose sm_80 entries are marked sm_90."""
    file = SharedObject(main_extension)
    content = bytearray(file.data[:])
    for image in scan_fatbins(file.data, *(file.section(".nv_fatbin") or (0, 0))).images:
        if image.architecture == "sm_80":
            # The architecture lies 36 bytes before the end of a 64-byte entry header; longer headers only add to it.
            header = content.rfind((80).to_bytes(4, "little"), image.offset - 120, image.offset - 24)
            content[header : header + 4] = (90).to_bytes(4, "little")
    facts = value(csrc.probe(site({"vllm/_C.so": bytes(content)}, python=None)))
    assert "sm_80" not in {images.architecture for images in only(facts).images}
    for name in ("_C::rms_norm", "_C::top_k_per_row_decode", "_C::marlin_gemm"):
        found = op(facts, name)
        assert (found.granularity, found.implemented) == ("kernel", True)
        assert "sm_80" not in (*found.machine_code, *found.ptx)
        assert "sm_90" in found.machine_code


SOURCE_BUILD = """
#include <torch/csrc/stable/library.h>
void dsv3_fused_a_gemm(void*, void*, void*);
void boxed_nothing(StableIValue* stack, uint64_t arguments, uint64_t outputs) {}
STABLE_TORCH_LIBRARY(_C, m) {
  m.def("rms_norm(Tensor! result, Tensor input, Tensor weight, float epsilon) -> ()");
  m.def("dsv3_fused_a_gemm(Tensor! output, Tensor mat_a, Tensor mat_b) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(_C, CUDA, m) { m.impl("rms_norm", &boxed_nothing); }
#ifdef MISSING_KERNEL
extern "C" void call_it() { dsv3_fused_a_gemm(0, 0, 0); }
#endif
"""


@pytest.fixture(scope="module")
def source_build(torch_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Compile an extension of torch as a source build for one architecture does: one schema has no implementation."""
    compiler = shutil.which("g++")
    if compiler is None or not (torch_dir / "include/torch/csrc/stable/library.h").exists():
        pytest.skip("needs g++ and torch's headers")
    folder = tmp_path_factory.mktemp("source_build")
    (folder / "ops.cpp").write_text(SOURCE_BUILD)

    @functools.cache
    def build(missing_kernel: bool) -> Path:
        out = folder / f"_C{int(missing_kernel)}.so"
        options = ["-DMISSING_KERNEL"] if missing_kernel else []
        folders = [f"-I{torch_dir / 'include'}", f"-L{torch_dir / 'lib'}"]
        libraries = ["-ltorch", "-ltorch_cpu", "-lc10"]
        subprocess.run(
            [compiler, "-std=c++20", "-shared", "-fPIC", *options, *folders, folder / "ops.cpp", *libraries, "-o", out],
            check=True,
            capture_output=True,
        )
        return out

    return build


@pytest.mark.slow
def test_dispatcher_knows_that_a_schema_is_no_implementation(
    site: MakeSite, source_build: Callable[[bool], Path]
) -> None:
    facts = value(csrc.probe(site({"vllm/_C.abi3.so": source_build(False)})))
    assert facts.dispatcher.value is True, facts.dispatcher
    assert only(facts).unresolved_symbols == ()
    normed, fused = op(facts, "_C::rms_norm"), op(facts, "_C::dsv3_fused_a_gemm")
    assert (normed.registered_for_cuda, normed.implemented) == (True, True)
    assert (fused.registered_for_cuda, fused.implemented) == (False, False)
    assert (fused.granularity, fused.machine_code) == ("kernel", ())
    assert op(facts, "_C::marlin_gemm").registered_for_cuda is None


@pytest.mark.slow
def test_symbol_that_nobody_provides_is_found_and_the_loader_agrees(
    site: MakeSite, source_build: Callable[[bool], Path]
) -> None:
    facts = value(csrc.probe(site({"vllm/_C.abi3.so": source_build(True)})))
    assert only(facts).unresolved_symbols == ("_Z17dsv3_fused_a_gemmPvS_S_",)
    assert facts.dispatcher.status in {"ok", "unknown"}
    load = "import torch, ctypes, os, sys; ctypes.CDLL(sys.argv[1], mode=os.RTLD_NOW)"
    done = subprocess.run([sys.executable, "-c", load, source_build(True)], capture_output=True, text=True, check=False)
    assert "undefined symbol: _Z17dsv3_fused_a_gemmPvS_S_" in done.stderr


def test_extra_undefined_symbol_in_a_patched_copy(site: MakeSite, extensions: list[Path]) -> None:
    """Without a compiler: one imported name of a real extension is overwritten."""
    small = next(path for path in extensions if b"PyBuffer_Release\0" in path.read_bytes()[:65536])
    patched = small.read_bytes().replace(b"PyBuffer_Release\0", b"dsv3_fused_a_gem\0", 1)
    assert "dsv3_fused_a_gem" in only(value(csrc.probe(site({"vllm/_C.so": patched})))).unresolved_symbols


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("kill -SEGV $$", "died of SIGSEGV"),
        ("exit 3", "exit status 3"),
        ("echo garbage > /dev/fd/$DSA_DOCTOR_ANSWER_FD", "no readable answer"),
        ("echo {} > /dev/fd/$DSA_DOCTOR_ANSWER_FD", "no readable answer"),
        ("sleep 60", "no answer within"),
    ],
)
def test_dispatcher_that_breaks_is_unknown(
    site: MakeSite,
    main_extension: Path,
    fake_tool: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    cause: str,
) -> None:
    monkeypatch.setattr(csrc, "_LOAD_TIMEOUT", 1.0)
    environment = site({"vllm/_C.so": main_extension}, python=fake_tool("python-of-another", body))
    facts = value(csrc.probe(environment))
    assert facts.dispatcher.status == "unknown"
    assert cause in (facts.dispatcher.cause or "")
    assert op(facts, "_C::rms_norm").registered_for_cuda is None
    assert "sm_80" in op(facts, "_C::rms_norm").machine_code


def test_where_the_library_cannot_be_loaded_the_loader_says_why(installed: Csrc) -> None:
    missing = next(
        found for found in installed.extensions if found.module == "vllm._C_stable_libtorch"
    ).missing_libraries
    if not missing:
        pytest.skip("everything that the extension needs is installed here")
    facts = value(csrc.probe(Environment.current()))
    assert facts.dispatcher.status == "unknown"
    assert any(name in " ".join(facts.dispatcher.evidence) for name in missing)
    assert "cannot open shared object file" in " ".join(facts.dispatcher.evidence)


def test_where_libraries_were_looked_for_is_traced(site: Callable[..., Environment], main_extension: Path) -> None:
    trace = Trace()
    csrc.probe(site({"vllm/_C_stable_libtorch.abi3.so": main_extension}), trace)
    exists = {Path(path).exists() for path in trace.files if ".so" in path}
    assert exists == {True, False}, "a library that appears changes what cannot be loaded"
    assert all(Path(path).is_absolute() for path in trace.files)
