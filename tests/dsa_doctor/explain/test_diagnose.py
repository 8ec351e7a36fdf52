import io
from types import SimpleNamespace

import pytest

from dsa_doctor.catalog.findings import FINDINGS_BY_ID
from dsa_doctor.catalog.models import find_model
from dsa_doctor.catalog.targets import target_from_text
from dsa_doctor.explain import explain, outlook, remedies
from dsa_doctor.explain.causes import CAUSES
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import Facts
from dsa_doctor.installation import Installation
from dsa_doctor.resolver import Target

SELECTOR = (
    "ValueError: No valid attention backend found for cuda with AttentionSelectorConfig(head_size=576, "
    "dtype=torch.bfloat16, kv_cache_dtype=auto, use_mla=True, use_sparse={sparse}). Reasons: {{TRITON_MLA: "
    "[sparse not supported], FLASHMLA_SPARSE: [compute capability not supported]}}.\n"
)


def explained(text: str | bytes, **options):
    return explain(io.BytesIO(text.encode() if isinstance(text, str) else text), **options)


def ids(text: str) -> list[str]:
    return [one.id for one in explained(text).findings]


def target(text: str) -> Target:
    gpu = target_from_text(text)
    return Target(name=gpu.name, capability=str(gpu.capability), source="--target")


def test_every_cause_is_a_known_finding():
    assert set(CAUSES) <= set(FINDINGS_BY_ID)


def test_who_passes_the_selector_meets_the_indexer():
    found = explained("GPU 0: NVIDIA A100-SXM4-80GB\n" + SELECTOR.format(sparse=True)).findings
    assert [one.id for one in found] == ["DSA201"]
    assert [one.id for one in found[0].next] == ["DSA301", "DSA901", "DSA902"]
    assert [backend.name for backend in found[0].backends] == ["TRITON_MLA", "FLASHMLA_SPARSE"]


def test_the_guard_hides_the_selector():
    text = "compute capability 8.9\nRuntimeError: Sparse Attention Indexer CUDA op requires DeepGEMM support in vLLM.\n"
    (found,) = explained(text).findings
    assert [one.id for one in found.next] == ["DSA201", "DSA902"]


@pytest.mark.parametrize("text", ["", "NVIDIA A100 and NVIDIA H100\n", "NVIDIA H200\n", "sm_90a sm_100f only\n"])
def test_without_a_known_capability_nothing_is_foretold(text):
    (found,) = explained(text + SELECTOR.format(sparse=True)).findings
    assert found.next == ()


def test_a_target_counts_more_than_the_log():
    explanation = explained("NVIDIA H100\n" + SELECTOR.format(sparse=True), target=target("a100"))
    assert explanation.context.capability == "8.0"
    assert explanation.context.capability_source == "--target"
    assert explanation.findings[0].plugin is not None
    assert explanation.findings[0].plugin.resolves is True


@pytest.mark.parametrize(("name", "resolves"), [("a100", True), ("h100", False), ("7.5", False), ("5090", False)])
def test_the_plugin_acts_where_its_gate_says(name, resolves):
    (found,) = explained(SELECTOR.format(sparse=True), target=target(name)).findings
    assert found.plugin.resolves is resolves


def test_the_plugin_does_not_mend_what_it_does_not_serve():
    text = "ImportError: /v/vllm/_C.abi3.so: undefined symbol: _ZN3c104cuda9SetDeviceEa\n"
    (found,) = explained(text, target=target("a100")).findings
    assert found.plugin.resolves is False


def test_the_plugin_refuses_a_model_it_does_not_serve(monkeypatch):
    known = find_model("DeepSeek-V4-Flash").geometry()
    seeing = known.model_copy(update={"architecture": "DeepseekV4ForConditionalGeneration"})
    monkeypatch.setattr(outlook, "find_model", lambda _: SimpleNamespace(geometry=lambda: seeing))
    text = "vllm serve deepseek-ai/DeepSeek-V4-Flash\n" + SELECTOR.format(sparse=True)
    (found,) = explained(text, target=target("a100")).findings
    assert found.plugin.resolves is False
    assert "vision encoder" in found.plugin.reason


def test_the_plugin_serves_deepseek_v41():
    text = "vllm serve deepseek-ai/DeepSeek-V4.1-Flash\n" + SELECTOR.format(sparse=True)
    (found,) = explained(text, target=target("a100")).findings
    assert found.plugin.resolves is True


def test_facts_without_the_plugin_say_so():
    unknown = Observation.unknown("not gathered")
    fields = {
        name: unknown for name in Facts.model_fields if name not in {"schema_version", "dsa_doctor_version", "created"}
    }
    facts = Facts.model_construct(dsa_doctor_version="0", **fields)
    (found,) = explained(SELECTOR.format(sparse=True), target=target("a100"), facts=facts).findings
    assert found.plugin.resolves is False
    assert "entry point" in found.plugin.reason


def test_a_dense_model_is_no_dsa_failure():
    explanation = explained(SELECTOR.format(sparse=False))
    assert [one.id for one in explanation.findings] == ["DSA928"]
    assert explanation.exit_code == 32


def test_ranks_collapse_into_one_finding():
    line = (
        "(Worker_TP{} pid=4{}) ERROR 11-23 10:11:12 [x.py:1] RuntimeError: CUDA error: no kernel image is available\n"
    )
    text = "INFO start\n" + "".join(line.format(rank, rank) for rank in range(64))
    (found,) = explained(text).findings
    assert (found.id, found.line, found.count) == ("DSA101", 2, 64)


def test_chained_exceptions_start_with_the_root_cause():
    text = (
        "RuntimeError: Assertion error (/d/csrc/apis/attention.hpp:219): Unsupported architecture\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
    )
    assert ids(text) == ["DSA301", "DSA923"]


def test_a_watchdog_after_an_error_is_a_consequence():
    watchdog = "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1)\n"
    assert ids("RuntimeError: CUDA error: an illegal memory access was encountered\n" + watchdog) == ["DSA921"]
    assert ids(watchdog) == ["DSA925"]


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ('vllm/utils/deep_gemm.py", line 500, in fp8_mqa_logits', "DSA301"),
        ('vllm/utils/deep_gemm.py", line 200, in fp8_gemm_nt', "DSA927"),
    ],
)
def test_the_traceback_decides_where_the_file_does_not(frame, expected):
    text = (
        f'Traceback (most recent call last):\n  File "/v/{frame}\n'
        "RuntimeError: Assertion error (csrc/jit/device_runtime.hpp:33): Unsupported architecture\n"
    )
    assert ids(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "The model was trained with sparse attention; see the indexer's documentation.\n",
        "INFO 11-23 10:00:00 [x.py:1] FlashMLA Sparse is only supported on Hopper and Blackwell DC devices.\n",
        "DEBUG 11-23 10:00:00 [x.py:1] DeepGEMM backend is not available, using Triton for FP8 products.\n",
        'raise RuntimeError("Sparse Attention Indexer CUDA op requires DeepGEMM to be installed.")\n',
        "INFO 11-23 10:00:00 [x.py:1] No valid attention backend found for cuda: asking again. use_sparse=True\n",
        "WARNING 11-23 10:00:00 _custom_ops.py:18] Failed to import from vllm._C with ModuleNotFoundError("
        "\"No module named 'vllm._C'\")\nINFO:     Application startup complete.\n",
        "INFO If out of memory occurs during cudagraph capture, lower gpu_memory_utilization\n",
        "ERROR the documents of the library have no module named index\nINFO serving goes on\n" + "INFO step\n" * 20,
    ],
)
def test_what_is_no_failure_gives_no_finding(text):
    assert ids(text) == []


def test_secrets_do_not_pass():
    text = "HF_TOKEN=hf_abcdefghijklmnop RuntimeError: CUDA error: no kernel image is available for execution\n"
    assert "hf_abcdefghijklmnop" not in explained(text).model_dump_json()


def test_a_target_that_contradicts_the_log_is_a_finding():
    text = "GPU 0: NVIDIA A800-SXM4-80GB\n" + SELECTOR.format(sparse=True)
    explanation = explained(text, target=target("h100"))
    assert [one.id for one in explanation.findings] == ["DSA201", "DSA943"]
    assert "A800" in explanation.findings[1].summary
    assert "A800" in explanation.findings[1].evidence[0].text
    assert [one.id for one in explained(text, target=target("a100")).findings] == ["DSA201"]


@pytest.mark.parametrize(
    ("before", "shown", "silent"),
    [
        (
            "NVIDIA A100-SXM4-80GB\nvllm serve zai-org/GLM-5-FP8\n",
            ("its plugin serves this part", "zai-org/GLM-5-FP8 --target a100"),
            (),
        ),
        (
            "NVIDIA RTX PRO 6000\nvllm serve zai-org/GLM-5-FP8\n",
            ("--target rtx-pro-6000",),
            ("its plugin serves this part",),
        ),
        ("NVIDIA H100 80GB HBM3\n", (), ("its plugin serves this part",)),
        ("INFO Automatically detected platform cpu.\n", (), ("its plugin serves this part",)),
        ("INFO Automatically detected platform rocm.\n", (), ("its plugin serves this part",)),
        (
            "NVIDIA A100-SXM4-80GB\nINFO [cuda.py:9] Using TRITON_MLA_SPARSE attention backend\n",
            (),
            ("its plugin serves this part",),
        ),
        (
            "server_args=ServerArgs(model_path='zai-org/GLM-5-FP8')\n",
            (),
            ("its plugin serves this part", "dsa-doctor check"),
        ),
    ],
)
def test_remedies_fit_the_gpu_the_platform_the_engine_and_what_is_installed(before, shown, silent):
    (found,) = explained(before + SELECTOR.format(sparse=True)).findings
    remedies = "\n".join(found.remedy)
    assert all(text in remedies for text in shown)
    assert not any(text in remedies for text in silent)
    if "GLM" in before:
        assert "MODEL" not in remedies


def test_the_plugin_is_installed_as_this_dsa_doctor_was(monkeypatch):
    monkeypatch.setattr(remedies, "this_installation", lambda: Installation("pip install ./a.whl", ""))
    (found,) = explained("NVIDIA A100-SXM4-80GB\n" + SELECTOR.format(sparse=True)).findings
    assert found.remedy[0].startswith("pip install ./a.whl; its plugin")


def test_the_deciding_reason_is_in_the_summary():
    text = (
        "ValueError: No valid attention backend found for cuda with AttentionSelectorConfig(use_sparse=True). "
        "Reasons: {TRITON_MLA: [sparse not supported], X_SPARSE: [X_SPARSE requires FlashInfer's newer API]}.\n"
    )
    (found,) = explained(text).findings
    assert "X_SPARSE requires FlashInfer's newer API" in found.summary
    assert found.remedy[0].startswith("pip install -U flashinfer-python")


def test_a_list_of_ops_is_no_sign_of_sparse_attention():
    text = "vllm serve meta-llama/Llama-3.1-8B\ncompilation_config={'splitting_ops': ['vllm::sparse_attn_indexer']}\n"
    assert explained(text).context.uses_dsa is False


def test_options_are_shown_and_redacted():
    text = (
        "(APIServer pid=1) INFO non-default args: {'model': 'zai-org/GLM-5-FP8', 'api_key': ['s3cr3t'], 'port': 80}\n"
    )
    context = explained(text).context
    assert context.model == "zai-org/GLM-5-FP8"
    assert context.arguments["port"] == "80"
    assert "s3cr3t" not in context.model_dump_json()


@pytest.mark.parametrize("size", [1, 40])
def test_a_crash_amid_a_large_log_is_found(size):
    """The crash is far from the start and from the end, and thousands of harmless errors surround it."""
    noise = "".join(
        f"(APIServer pid=1) ERROR 09-02 10:09:{second % 60:02d} [serving.py:250] odd request {second}\n"
        f'(APIServer pid=1) INFO:     10.0.0.9:4 - "POST /v1/completions HTTP/1.1" 400 Bad Request\n'
        for second in range(3000 * size)
    )
    crash = (
        "(EngineCore pid=9) ERROR 09-02 10:10:00 [core.py:1] EngineCore encountered a fatal error.\n"
        "(EngineCore pid=9) ERROR 09-02 10:10:00 [core.py:1] Traceback (most recent call last):\n"
        '(EngineCore pid=9) ERROR 09-02 10:10:00 [core.py:1]   File "/v/vllm/core/sched/scheduler.py", line 1, in run\n'
        "(EngineCore pid=9) ERROR 09-02 10:10:00 [core.py:1] LookupError: request 7\n"
    )
    refused = noise.replace("400 Bad Request", "503 Service Unavailable")
    (found,) = explained("INFO:     Application startup complete.\n" + noise + crash + refused).findings
    assert found.id == "DSA931"
    assert "LookupError: request 7" in found.summary


def test_an_empty_log_says_so():
    explanation = explained(b"")
    assert explanation.findings == ()
    assert explanation.exit_code == 0
    assert "empty" in explanation.message
