"""Facts of machines that cannot be had here, written by hand from documentation and labelled so."""

from typing import Any

from dsa_doctor.catalog.capability import Capability
from dsa_doctor.catalog.models import find_model
from dsa_doctor.catalog.ops import DSA_OPS
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import (
    BackendCandidate,
    CodeImages,
    Csrc,
    CudaToolkit,
    DeepGemm,
    DeepGemmCopy,
    EntryPoint,
    ExtensionModule,
    Facts,
    Fingerprint,
    Gpu,
    GpuInventory,
    OpCode,
    Selector,
    SelectorAnswer,
    SelectorQuery,
    Settings,
    Software,
    TritonFp8Kernel,
)
from dsa_doctor.resolver import Request, query_for

STOCK_ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
HOPPER_ONLY = ("sm_90a", "sm_100", "sm_120")
STOCK_BACKENDS = ("FLASH_ATTN_MLA", "FLASHMLA", "TRITON_MLA", "FLASH_ATTN_MLA_SPARSE", "FLASHMLA_SPARSE")
PLUGIN_ENTRY_POINT = EntryPoint(
    group="vllm.general_plugins", name="dsa_doctor", value="dsa_doctor.plugin:register", distribution="dsa-doctor"
)


def gpu(name: str, capability: str, *, index: int = 0, visible: bool = True, memory_gib: int = 80) -> Gpu:
    return Gpu(index=index, name=name, capability=capability, visible=visible, memory_bytes=memory_gib * 2**30)


A100 = gpu("NVIDIA A100-SXM4-80GB", "8.0")
H100 = gpu("NVIDIA H100 80GB HBM3", "9.0")
RTX4090 = gpu("NVIDIA GeForce RTX 4090", "8.9", memory_gib=24)
GB10 = gpu("NVIDIA GB10", "12.1", memory_gib=119)


def inventory(*gpus: Gpu) -> Observation[GpuInventory]:
    numbered = tuple(one.model_copy(update={"index": index}) for index, one in enumerate(gpus))
    return Observation[GpuInventory].ok(GpuInventory(source="nvml", driver_version="580.159", gpus=numbered))


def software(*, plugin: bool = False, torch_cuda: str | None = "13.0", without: tuple[str, ...] = ()) -> Software:
    packages = {"vllm": "0.32.0", "torch": "2.13.0", "triton": "3.8.0", "dsa-doctor": "0.1.0"}
    cuda = Observation[str].ok(torch_cuda) if torch_cuda else Observation[str].absent("torch is a CPU build")
    return Software(
        python="3.12.3",
        platform="linux-x86_64",
        packages={name: version for name, version in packages.items() if name not in without},
        torch_cuda=cuda,
        vllm_plugins=(PLUGIN_ENTRY_POINT,) if plugin else (),
    )


def extension(module: str, architectures: tuple[str, ...] = STOCK_ARCHITECTURES, **changes: Any) -> ExtensionModule:
    images = tuple(CodeImages(architecture=one, kind="machine_code", count=40) for one in architectures)
    fields: dict[str, Any] = {
        "module": module,
        "file": module.replace(".", "/") + ".abi3.so",
        "size_bytes": 90_000_000,
        "images": images,
        "unresolved_symbols": (),
        "op_schemas": (),
    }
    return ExtensionModule(**{**fields, **changes})


def op_code(op: str, architectures: tuple[str, ...], **changes: Any) -> OpCode:
    module = "vllm._moe_C_stable_libtorch" if op.startswith("_moe_C") else "vllm._C_stable_libtorch"
    fields: dict[str, Any] = {
        "op": op,
        "extension": module,
        "signature": f"{op}(Tensor x) -> ()",
        "machine_code": architectures,
        "ptx": (),
        "granularity": "kernel",
        "registered_for_cuda": True,
    }
    return OpCode(**{**fields, **changes})


def stock_csrc(*, extensions: tuple[ExtensionModule, ...] | None = None, ops: tuple[OpCode, ...] | None = None) -> Csrc:
    if extensions is None:
        extensions = (extension("vllm._C_stable_libtorch"), extension("vllm._moe_C_stable_libtorch"))
    if ops is None:
        ops = tuple(
            op_code(need.op, HOPPER_ONLY if need.role == "guarded" else STOCK_ARCHITECTURES) for need in DSA_OPS
        )
    return Csrc(extensions=extensions, ops=ops, dispatcher=Observation[bool].ok(True))


def answer(capability: str, chosen: str | None, **changes: Any) -> SelectorAnswer:
    model = changes.pop("model", "GLM-5-FP8")
    query = query_for(find_model(model).geometry(), Capability.parse(capability), Request()).model_copy(
        update={key: changes.pop(key) for key in tuple(changes) if key in SelectorQuery.model_fields}
    )
    candidates = tuple(
        BackendCandidate(
            name=name, accepted=name == chosen, reasons=() if name == chosen else ("sparse not supported",)
        )
        for name in STOCK_BACKENDS
    )
    fields: dict[str, Any] = {
        "query": query,
        "chosen": chosen,
        "candidates": candidates,
        "error": None
        if chosen
        else "ValueError: No valid attention backend found for cuda with AttentionSelectorConfig",
        "deep_gemm_supported": capability.startswith(("9.", "10.")),
    }
    return SelectorAnswer(**{**fields, **changes})


def fingerprint(**changes: Any) -> Fingerprint:
    fields: dict[str, Any] = {
        "model_classes": {
            "GlmMoeDsaForCausalLM": "vllm.models.deepseek_v32.nvidia.model:GlmMoeDsaForCausalLM",
            "DeepseekV32ForCausalLM": "vllm.models.deepseek_v32.nvidia.model:DeepseekV32ForCausalLM",
            "Glm5NextForConditionalGeneration": "vllm.models.glm5next:Glm5NextForConditionalGeneration",
        },
        "sparse_mla_backends": ("FLASHMLA_SPARSE", "FLASH_ATTN_MLA_SPARSE"),
        "in_tree_triton_mla_sparse": False,
        "indexer_guard": "installed",
        "prefill_logits": "full",
        "fused_indexer_q_switch": True,
        "triton_fp8_kernels": (
            TritonFp8Kernel(kernel="_fused_q_kernel", file="vllm/models/deepseek_v32/common/kernels.py", guarded=False),
        ),
        "fp8_jit_warmup": True,
        "topk_persistent_gate": "none",
        "topk_backend_setting": True,
        "topk_overflow_fix": False,
        "kv_b_proj_int32_bug": False,
        "dsv3_fused_a_gemm_gate": "capability",
        "plugins_by_name": True,
        "patch_targets": {"vllm.platforms.cuda._get_backend_priorities": "present"},
    }
    return Fingerprint(**{**fields, **changes})


def settings(*, unread: tuple[str, ...] = (), **variables: str) -> Observation[Settings]:
    looked_at = tuple(dict.fromkeys(("DSA_DOCTOR_PLUGIN", "VLLM_PLUGINS", "CUDA_VISIBLE_DEVICES", *variables)))
    return Observation[Settings].ok(Settings(looked_at=looked_at, variables=variables, unread=unread))


def deep_gemm(importable: bool | None = True, failure: str | None = None) -> Observation[DeepGemm]:
    if importable is None:
        tried = Observation[bool].unknown("the deep_gemm_import probe gave no answer within 60 s")
    else:
        tried = Observation[bool].ok(importable, evidence=() if importable else ("AssertionError: CUDA_HOME",))
    return Observation[DeepGemm].ok(
        DeepGemm(copies=(DeepGemmCopy(source="vendored", importable=tried, failure=failure),))
    )


def facts(*gpus: Gpu, answers: tuple[SelectorAnswer, ...] = (), plugin: bool = False, **changes: Any) -> Facts:
    """Return the facts of a machine with a stock wheel; every field can be replaced."""
    fields: dict[str, Any] = {
        "dsa_doctor_version": "0.1.0",
        "origin": "handwritten",
        "note": "written by hand from documentation; no such machine was at hand",
        "gpus": inventory(*gpus) if gpus else Observation[GpuInventory].absent("no NVIDIA driver"),
        "software": Observation[Software].ok(software(plugin=plugin)),
        "cuda_toolkit": Observation[CudaToolkit].ok(CudaToolkit(found_by="CUDA_HOME", nvcc_version="13.0")),
        "deep_gemm": deep_gemm(),
        "csrc": Observation[Csrc].ok(stock_csrc()),
        "selector": Observation[Selector].ok(Selector(answers=answers)),
        "fingerprint": Observation[Fingerprint].ok(fingerprint()),
        "vllm_import": Observation[str].ok("0.32.0"),
        "settings": settings(),
    }
    return Facts(**{**fields, **changes})


def a100_facts(**changes: Any) -> Facts:
    return facts(*[A100] * 8, answers=changes.pop("answers", (answer("8.0", None),)), **changes)


def h100_facts(**changes: Any) -> Facts:
    return facts(*[H100] * 8, answers=changes.pop("answers", (answer("9.0", "FLASHMLA_SPARSE"),)), **changes)


def rtx4090_facts(**changes: Any) -> Facts:
    return facts(*[RTX4090] * 8, answers=changes.pop("answers", (answer("8.9", None),)), **changes)


def gb10_facts(**changes: Any) -> Facts:
    answers = changes.pop("answers", (answer("12.1", "FLASHINFER_MLA_SPARSE_SM120", num_heads=64),))
    return facts(GB10, answers=answers, **changes)
