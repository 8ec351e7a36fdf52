"""The fingerprint of five releases, of the installed vLLM, and of sources that are not understood."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dsa_doctor.binaries.modules import ModulesInFolder
from dsa_doctor.compat import rules
from dsa_doctor.compat.model_classes import DSA_ARCHITECTURES
from dsa_doctor.facts.schema import Fingerprint
from dsa_doctor.probes import fingerprint
from dsa_doctor.probes.environment import Environment
from tests.releases import RELEASES, release_folder

GENERIC = "vllm.model_executor.models.deepseek_v2:"
NVIDIA = "vllm.models.deepseek_v32.nvidia.model:DeepseekV32ForCausalLM"
OLD_KERNELS = {"_fused_indexer_q_rope_quant_kernel", "_pack_seq_kernel"}
NEW_KERNELS = {"_fused_norm_rope_kernel", "_fused_q_kernel", "PackSeqTritonKernel"}

EXPECTED: dict[str, tuple[object, ...]] = {
    # 0.26.0, 0.28.0, 0.30.0, 0.32.0, 0.33.0; each value was looked up in the sources by hand.
    "prefill_logits": ("full", "full", "full", "full", "compressed"),
    "indexer_guard": ("installed",) * 5,
    "in_tree_triton_mla_sparse": (False,) * 5,
    "fused_indexer_q_switch": (True,) * 5,
    "fp8_jit_warmup": (False, False, True, True, True),
    "topk_persistent_gate": ("none",) * 5,
    "topk_backend_setting": (False, False, True, True, True),
    "kv_b_proj_int32_bug": (True, False, False, False, False),
    "dsv3_fused_a_gemm_gate": ("capability",) * 5,
    "topk_overflow_fix": (None,) * 5,  # placeholders instead of compiled files
}
MODELS = {
    "GlmMoeDsaForCausalLM": (f"{GENERIC}GlmMoeDsaForCausalLM",) * 2 + (NVIDIA,) * 3,
    "DeepseekV32ForCausalLM": (f"{GENERIC}DeepseekV3ForCausalLM",) * 2 + (NVIDIA,) * 3,
    "DeepSeekMTPModel": ("vllm.model_executor.models.deepseek_mtp:DeepSeekMTP",) * 5,
    "DeepseekV32MTPModel": (None,) * 2 + ("vllm.models.deepseek_v32.nvidia.mtp:DeepseekV32MTP",) * 3,
    "Glm5NextForCausalLM": (None,) * 2
    + ("vllm.models.glm5next.nvidia.model:Glm5NextForCausalLM",)
    + ("vllm.models.glm5next.common.model:Glm5NextForCausalLM",) * 2,
}
SERVED = (
    {"deepseek_v32"},
    {"deepseek_v32", "deepseek_v4"},
    *[{"deepseek_v32", "deepseek_v4", "deepseek_v41", "glm5_next"}] * 3,
)
"""Families whose every patch target is there."""
SPARSE = {"FLASHMLA_SPARSE", "FLASH_ATTN_MLA_SPARSE", "FLASHINFER_MLA_SPARSE", "FLASHINFER_MLA_SPARSE_SM120"}


def read(root: Path) -> Fingerprint:
    observed = fingerprint.probe(Environment(python=None, search_path=(root,)))
    assert observed.status == "ok", observed.cause
    assert observed.value is not None
    return observed.value


@pytest.mark.parametrize("version", RELEASES)
def test_each_release(version: str) -> None:
    column = RELEASES.index(version)
    found = read(release_folder(version))
    assert {name: getattr(found, name) for name in EXPECTED} == {name: row[column] for name, row in EXPECTED.items()}
    assert {name: found.model_classes.get(name) for name in MODELS} == {
        name: row[column] for name, row in MODELS.items()
    }
    assert set(found.model_classes) <= set(DSA_ARCHITECTURES)
    assert set(found.sparse_mla_backends) >= SPARSE
    assert ("FLASHINFER_MLA_SPARSE_SM90" in found.sparse_mla_backends) == (column >= 2)
    assert ("FLASH_ATTN_MLA_SPARSE_FA4" in found.sparse_mla_backends) == (column >= 4)
    assert not {"TRITON_MLA", "FLASHMLA", "FLASH_ATTN", "MINIMAX_M3_SPARSE"} & set(found.sparse_mla_backends)
    on_path = {one.kernel for one in found.triton_fp8_kernels if "GlmMoeDsaForCausalLM" in one.architectures}
    assert on_path == (OLD_KERNELS if column < 2 else NEW_KERNELS)
    assert not any(one.guarded for one in found.triton_fp8_kernels)
    assert all((release_folder(version) / one.file).is_file() for one in found.triton_fp8_kernels)
    moved = {target for target, state in found.patch_targets.items() if state != "present"}
    whole = {family for family, targets in found.patch_families.items() if not moved & set(targets)}
    assert whole == SERVED[column], moved
    assert not moved - {target for targets in found.patch_families.values() for target in targets}


def test_the_installed_vllm(vllm_dir: Path) -> None:
    start = time.monotonic()
    found = read(vllm_dir.parent)
    assert time.monotonic() - start < 10  # about half a second on an idle machine; this one may be busy
    assert found.model_classes["GlmMoeDsaForCausalLM"]
    assert found.topk_overflow_fix is ("exact_topk_rescan" in _topk_symbols(vllm_dir))


def _topk_symbols(vllm_dir: Path) -> str:
    """The names beside the persistent top-k kernel, by way of NVIDIA's own tools' format: all images, unfiltered."""
    from dsa_doctor.binaries import SharedObject, payload_chunks, scan_fatbins
    from dsa_doctor.binaries.elf import open_bytes

    path = next(vllm_dir.glob("_C_stable_libtorch*.so"))
    data = open_bytes(path)
    section = SharedObject(path).section(".nv_fatbin")
    assert section is not None
    for image in scan_fatbins(data, *section).images:
        if image.architecture == "sm_80" and image.kind == "machine_code":
            content = b"".join(payload_chunks(data, image, limit=1 << 28))
            if b"persistent_topk_kernel" in content:
                return content.decode("latin-1")
    raise AssertionError("no image with the kernel")


def edited(version: str, tmp_path: Path, module: str, old: str, new: str) -> Fingerprint:
    """Fingerprint a release of which one file is changed."""
    source = release_folder(version)
    root = tmp_path / "edited"
    shutil.copytree(source / "vllm", root / "vllm", ignore=shutil.ignore_patterns("*.json", "*.so"))
    file = root.joinpath(*module.split(".")).with_suffix(".py")
    text = file.read_text(encoding="utf-8")
    assert text.count(old) >= 1, f"{module} no longer holds {old!r}"
    file.write_text(text.replace(old, new), encoding="utf-8")
    return read(root)


CHANGES: dict[str, tuple[str, str, str, Callable[[Fingerprint], object], object]] = {
    "a guard that asks for support": (
        rules.INDEXER,
        "is_cuda() and not has_deep_gemm()",
        "is_cuda() and not is_deep_gemm_supported()",
        lambda found: found.indexer_guard,
        "supported",
    ),
    "no guard": (
        rules.INDEXER,
        "if current_platform.is_cuda() and not has_deep_gemm():",
        "if False:",
        lambda found: found.indexer_guard,
        "none",
    ),
    "an indexer of another name": (
        rules.INDEXER,
        "class SparseAttnIndexer(",
        "class OtherIndexer(",
        lambda found: found.indexer_guard,
        "unrecognised",
    ),
    "a gate before the top-k op": (
        rules.INDEXER_TOPK,
        "if self._is_cuda and topk_tokens in (512, 1024, 2048):",
        "if current_platform.has_device_capability(90) and topk_tokens in (512, 1024, 2048):",
        lambda found: found.topk_persistent_gate,
        "capability",
    ),
    "another choice of the top-k op": (
        rules.INDEXER_TOPK,
        'return "persistent"',
        "return self._other()",
        lambda found: found.topk_persistent_gate,
        "unrecognised",
    ),
    "no call of the top-k op": (
        rules.INDEXER_TOPK,
        "torch.ops._C.persistent_topk(",
        "torch.ops._C.other_topk(",
        lambda found: found.topk_persistent_gate,
        "absent",
    ),
    "logits of another contract": (
        rules.DEEP_GEMM,
        "max_seqlen_k: int,",
        "rows: int,",
        lambda found: found.prefill_logits,
        "unrecognised",
    ),
    "a guarded kernel": (
        "vllm.models.deepseek_v32.common.kernels",
        "    _fused_q_kernel[",
        "    current_platform.has_device_capability(89)\n    _fused_q_kernel[",
        lambda found: {one.kernel: one.guarded for one in found.triton_fp8_kernels}["_fused_q_kernel"],
        True,
    ),
    "a warm-up that does not fail the start": (
        rules.KERNEL_WARMUP,
        "            raise\n",
        "            pass\n",
        lambda found: found.fp8_jit_warmup,
        False,
    ),
    "an ungated dsv3_fused_a_gemm": (
        rules.GENERIC_MODEL,
        "current_platform.is_device_capability(90)",
        "True",
        lambda found: found.dsv3_fused_a_gemm_gate,
        "capability",  # the other half of the test still asks
    ),
    "an in-tree backend": (
        "vllm.v1.attention.backends.registry",
        "    FLASHMLA_SPARSE = (",
        '    TRITON_MLA_SPARSE = "vllm.v1.attention.backends.mla.triton_mla_sparse.X"\n    FLASHMLA_SPARSE = (',
        lambda found: found.in_tree_triton_mla_sparse,
        True,
    ),
    "no switch of the fused query": (
        rules.GENERIC_MODEL,
        "self.use_fused_indexer_q = ",
        "self.use_other = ",
        lambda found: found.fused_indexer_q_switch,
        False,
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_sources(tmp_path: Path, change: tuple[str, str, str, Callable[[Fingerprint], object], object]) -> None:
    module, old, new, field, expected = change
    assert field(edited("0.33.0", tmp_path, module, old, new)) == expected


def test_no_vllm_and_a_folder_of_that_name(tmp_path: Path) -> None:
    nowhere = fingerprint.probe(Environment(python=None, search_path=(tmp_path,)))
    assert (nowhere.status, nowhere.cause) == ("absent", "vllm is not installed")
    (tmp_path / "vllm").mkdir()
    empty = fingerprint.probe(Environment(python=None, search_path=(tmp_path,)))
    assert empty.status == "unknown"
    assert "no model registry" in (empty.cause or "")


def test_sources_that_do_not_parse(tmp_path: Path) -> None:
    shutil.copytree(release_folder("0.33.0") / "vllm", tmp_path / "vllm", ignore=shutil.ignore_patterns("*.json"))
    (tmp_path / "vllm/models/deepseek_v32/__init__.py").write_text("if :\n", encoding="utf-8")
    broken = fingerprint.probe(Environment(python=None, search_path=(tmp_path,)))
    assert broken.status == "unknown"
    assert "SyntaxError" in (broken.cause or "")


def test_truncated_binaries(tmp_path: Path) -> None:
    package = tmp_path / "vllm"
    package.mkdir()
    (package / "_C_stable_libtorch.abi3.so").write_bytes(b"\x7fELF" + bytes(100))
    assert rules.topk_overflow_fix(ModulesInFolder(tmp_path)) is None
