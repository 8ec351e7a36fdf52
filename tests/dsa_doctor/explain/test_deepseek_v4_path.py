"""What stops DeepSeek-V4 on compute capability 8.x, in the order of its path: each is named, and so is what helps.

The texts are those of the libraries (vLLM, DeepGEMM, TileLang, ptxas, Triton, FlashMLA) and of dsa-doctor's own
refusals; TileLang's were provoked, without toolkit, nvcc or C++ compiler.
"""

import io

import pytest

from dsa_doctor.explain import explain

SITE = "/usr/lib/python3.12/site-packages"
MODEL = "deepseek-ai/DeepSeek-V4-Flash-0731"
START = (
    "(APIServer pid=1) INFO 09-02 10:00:01 [api_server.py:1805] vLLM API server version 0.33.0\n"
    f"(APIServer pid=1) INFO 09-02 10:00:01 [utils.py:326] non-default args: {{'model_tag': '{MODEL}', "
    f"'model': '{MODEL}', 'tensor_parallel_size': 8}}\n"
    "(EngineCore pid=90) INFO 09-02 10:00:20 [core.py:80] Initializing a V1 LLM engine (v0.33.0) with config: "
    f"model='{MODEL}'\n"
    f"(Worker_TP0 pid=101) INFO 09-02 10:00:40 [gpu_model_runner.py:3300] Starting to load model {MODEL}...\n"
)
WORKER = "(Worker_TP0 pid=101) ERROR 09-02 10:02:01 [multiproc_executor.py:900] "
END = (
    "(EngineCore pid=90) ERROR 09-02 10:02:02 [core.py:1100] EngineCore failed to start.\n"
    "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
)
PROFILE = (
    ("vllm/v1/worker/gpu_worker.py", "determine_available_memory"),
    ("vllm/models/deepseek_v4/nvidia/model.py", "forward"),
)
WARMUP = (
    ("vllm/v1/worker/gpu_worker.py", "compile_or_warm_up_model"),
    ("vllm/model_executor/warmup/kernel_warmup.py", "kernel_warmup"),
)
MIXING = (*PROFILE, ("vllm/model_executor/kernels/mhc/tilelang.py", "_hc_prenorm_gemm_outputs"))
TILELANG = (*WARMUP, ("tilelang/jit/kernel.py", "_compile_and_create_adapter"))
NVCC = (*TILELANG, ("tilelang/contrib/nvcc.py", "compile_cuda"))
OURS = (*PROFILE, ("dsa_doctor/plugin/families/deepseek_v4_ops.py", "compress_norm_rope_store"))
PLUGIN = "its plugin"


def log(frames: tuple[tuple[str, str], ...], error: str) -> bytes:
    lines = ["Traceback (most recent call last):"]
    lines += [f'  File "{SITE}/{file}", line 120, in {function}' for file, function in frames]
    return (START + "".join(f"{WORKER}{line}\n" for line in (*lines, *error.split("\n"))) + END).encode()


PATH = {
    "the indexer's guard": (
        log(
            (("vllm/model_executor/layers/sparse_attn_indexer.py", "__init__"),),
            "RuntimeError: Sparse Attention Indexer CUDA op requires DeepGEMM to be installed.",
        ),
        "DSA302",
        PLUGIN,
    ),
    "no DeepGEMM for mHC": (
        log(
            (*MIXING, ("vllm/utils/deep_gemm.py", "_missing")),
            "RuntimeError: DeepGEMM backend is not available or outdated. Please install or update the `deep_gemm` to "
            "a newer version to enable FP8 kernels.",
        ),
        "DSA927",
        "serves mHC's product",
    ),
    "DeepGEMM refuses mHC": (
        log(
            (*MIXING, ("vllm/utils/deep_gemm.py", "tf32_hc_prenorm_gemm")),
            "RuntimeError: Assertion error (csrc/apis/hyperconnection.hpp:56): Unsupported architecture",
        ),
        "DSA927",
        "serves mHC's product",
    ),
    "TileLang finds no toolkit": (
        log(
            TILELANG,
            "RuntimeError: Failed to automatically detect CUDA installation. Please set the CUDA_HOME environment "
            "variable manually (e.g., export CUDA_HOME=/usr/local/cuda).",
        ),
        "DSA939",
        "tilelang[nvcc]",
    ),
    "TileLang finds no target": (
        log(TILELANG, "ValueError: No registered target detector found an available target."),
        "DSA939",
        "tilelang[nvcc]",
    ),
    "a toolkit without nvcc": (
        log(NVCC, "RuntimeError: [Errno 2] No such file or directory: '/usr/local/cuda/bin/nvcc'"),
        "DSA939",
        "tilelang[nvcc]",
    ),
    "nvcc without a C++ compiler": (
        log(
            NVCC,
            "RuntimeError: #include <tl_templates/cuda/reduce.h>\nCompilation error:\nNone: No such file or directory\n"
            "nvcc fatal   : Failed to preprocess host compiler properties.\n\n"
            "Command: /usr/local/cuda/bin/nvcc -ccbin=None --cubin -O3 -lineinfo -arch=sm_80",
        ),
        "DSA939",
        "apt-get install g++",
    ),
    "a CuTe kernel converts to e4m3": (
        log(
            (*WARMUP, ("vllm/models/deepseek_v4/nvidia/ops/fused_indexer_q_cutedsl.py", "compile")),
            "RuntimeError: ptxas fatal: kernel.ptx, line 311; error   : Instruction 'cvt with .e4m3x2' requires "
            ".target sm_89 or higher",
        ),
        "DSA939",
        "an instruction that this GPU does not have",
    ),
    "a Triton kernel uses fp8e4nv": (
        log(
            (*WARMUP, ("vllm/models/deepseek_v4/common/ops/fused_inv_rope_fp8_quant.py", "_fused_inv_rope_kernel")),
            "triton.compiler.errors.CompilationError: at 92:8:\n    x_quant = x.to(tl.float8e4nv)\n"
            "ValueError(\"type fp8e4nv not supported in this architecture. The supported fp8 dtypes are ('fp8e4b15', "
            "'fp8e5')\")",
        ),
        "DSA901",
        PLUGIN,
    ),
    "FlashMLA's library does not load": (
        log(
            (("vllm/v1/attention/ops/flashmla.py", "get_mla_metadata"),),
            "RuntimeError: vllm._flashmla_C is not available, likely was not compiled due to insufficient nvcc version "
            "or a supported arch was not in the list of target arches to compile for.",
        ),
        "DSA209",
        PLUGIN,
    ),
    "FlashMLA refuses": (
        log(
            (*PROFILE, ("vllm/third_party/flashmla/flash_mla_interface.py", "flash_mla_sparse_fwd")),
            "RuntimeError: Sparse Attention Forward Kernel is only supported on SM90a and SM100f architectures.",
        ),
        "DSA208",
        PLUGIN,
    ),
    "the plugin refuses the cache": (
        log(
            OURS,
            "NotImplementedError: dsa-doctor compresses DeepSeek-V4 into bf16 rows and fp8 index keys; the cache "
            "is torch.uint8, of 512 values a row. Serve with --kv-cache-dtype auto.",
        ),
        "DSA937",
        "--kv-cache-dtype auto",
    ),
    "the plugin refuses the projection": (
        log(
            OURS,
            "NotImplementedError: dsa-doctor serves DeepSeek-V4 whose projection wo_a is stored in bf16 or in e4m3 "
            "with scales; AWQLinearMethod has torch.int32. Set DSA_DOCTOR_PLUGIN=off to leave the model to vLLM.",
        ),
        "DSA937",
        "DSA_DOCTOR_PLUGIN=off",
    ),
    "the plugin refuses the server": (
        log(
            (("dsa_doctor/plugin/serving.py", "review"),),
            "ValueError: dsa-doctor's TRITON_MLA_SPARSE cannot serve this configuration:\n  - --dtype float16: its "
            "rows and its compressor are bfloat16; accepted: bfloat16\n"
            "Change what is named above, or set DSA_DOCTOR_PLUGIN=off to leave everything to vLLM.",
        ),
        "DSA914",
        "--dtype float16: its rows and its compressor are bfloat16",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PATH)
def test_each_failure_of_the_path_is_named_with_what_helps(name):
    text, finding, helps = PATH[name]
    explanation = explain(io.BytesIO(text))
    assert [one.id for one in explanation.findings] == [finding]
    assert helps in explanation.model_dump_json()
    assert finding == "DSA937" or "This is no DSA problem" not in explanation.message


@pytest.mark.parametrize("name", ["no DeepGEMM for mHC", "DeepGEMM refuses mHC"])
def test_no_setting_is_advised_where_none_helps(name):
    """VLLM_USE_DEEP_GEMM=0 gives mHC's first product no other kernel; another product of DeepGEMM it does."""
    (found,) = explain(io.BytesIO(PATH[name][0])).findings
    assert not any("VLLM_USE_DEEP_GEMM" in text for text in found.remedy)
    other = (
        PATH[name][0].replace(b"hyperconnection.hpp", b"gemm.hpp").replace(b"kernels/mhc/tilelang", b"layers/linear")
    )
    (found,) = explain(io.BytesIO(other.replace(b"hc_prenorm_gemm", b"fp8_gemm_nt"))).findings
    assert found.id == "DSA927"
    assert any("VLLM_USE_DEEP_GEMM" in text for text in found.remedy)
