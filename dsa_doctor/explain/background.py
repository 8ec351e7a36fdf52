"""What a log tells of its circumstances: engine, model, GPU, chosen backend, whether the server came up."""

import re
from dataclasses import dataclass, field

from dsa_doctor.catalog.capability import SHARED_MEMORY_PER_BLOCK, Capability
from dsa_doctor.catalog.targets import KNOWN_GPUS
from dsa_doctor.explain.reader import Passage
from dsa_doctor.explain.text import Line
from dsa_doctor.reading.numbers import DECIMAL

NEEDLES = (
    "Current capability",
    "ompute capability", "ompute Capability", "ompute_cap", "CUDA capability", "DeviceCapability(", "NVIDIA ",
    "NVIDIA_", "Tesla", "GeForce", "RTX", "A100", "A800", "DGX Spark", "GB10", "H100", "H20", "H800", "B200", "L40",
    "sm_8", "sm_1", "sm8", "sm12", "SM8", "SM12", "sm90", "sm_90", "sm100",
    "API server version", "LLM engine (v", "LLM Version", "vllm==", "sglang==", "sglang.launch_server", "torch==",
    "PyTorch version", "model='", "model_path='", "model_tag='", "--model", "vllm serve ",
    "use_sparse=True", "use_sparse: True", "GlmMoeDsa", "glm_moe_dsa", "DeepseekV32", "deepseek_v32", "Glm5Next",
    "glm5_next", "sparse_attn_indexer", "mqa_logits", "nsa_backend", "dsa_backend", "index_topk", "MLA_SPARSE",
    "GLM-5", "glm-5", "GLM5", "DeepSeek-V3.2", "deepseek-v3.2", "DeepSeek-V4",
    "Application startup complete", "The server is fired up", "Traceback (most recent", "non-default args",
    "server_args=ServerArgs", "platform is", "detected platform", "llama_model_load", "ggml_",
    "text_generation_launcher", "[TensorRT-LLM]", "[TRT-LLM]", "lmdeploy", "ollama", "llama runner",
    "LocalAI", "internal loader",
    "sgl-kernel", "sgl_kernel", "TRITON_MLA_SPARSE", "dsa_doctor",
    "gfx9", "MI300", "MI325", "MI355", "ROCm", "Ascend",
    "npu", "docker run", "SpecDecoding metrics", "accept len:", " LLM engine",
)  # fmt: skip

_CAPABILITY = re.compile(
    r"DeviceCapability\(major=(\d{1,2}),\s?minor=(\d)\)"
    r"|[Cc]ompute[ _][Cc]ap(?:ability)?\s{0,3}(?:of|is|=|:)?\s{0,3}\(?(\d{1,2})[.,]\s?(\d)\b"
    r"|with CUDA capability sm_(\d{1,2})(\d)\b|Current capability: (\d{1,2})(\d)\b"
)
_NAMED_GPU = re.compile(
    r"(?:NVIDIA[ _]|Tesla |GeForce )(?:GeForce[ _]|Tesla[ _])?"
    r"(?P<name>[A-Z]{0,3}[ _]?(?:PRO[ _])?[A-Z]{0,2}\d{1,4}[A-Za-z]{0,3}\b(?:[ _](?:Ada|Ti|SUPER))?)"
)
_BARE_GPU = re.compile(
    r"(?<![\w./\-])(?P<name>A100|A800|A30|A40|A6000|H100|H200|H800|H20|GH200|B200|B300|GB200|GB300|GB10|L40S?|DGX Spark"
    r"|RTX[ _]?\d{4}|RTX[ _]PRO[ _]6000|\d090(?= )|sm_?1[02][013]|sm_?8[0679])(?![\w.])",
    re.IGNORECASE,
)
_SUPPORT_STATEMENT = re.compile(r"supported on|supports? |compiled for|arch_?list|requires|TORCH_CUDA", re.IGNORECASE)
_DSA_SIGNS = re.compile(
    r"use_sparse[=:] ?True|GlmMoeDsa|glm_moe_dsa|DeepseekV32|deepseek_v32|Glm5Next|glm5_next"
    r"|(?<!vllm::)(?<!rocm_aiter_)sparse_attn_indexer|mqa_logits|nsa_backend|dsa_backend|index_topk|MLA_SPARSE"
)
_DSA_MODEL = re.compile(r"glm-?5(?!\d)|deepseek-?v3\.2|deepseek-?v4|glm_moe_dsa|deepseek_v32", re.IGNORECASE)
_MODEL = re.compile(
    r"(?:--model(?:-path|_path)?[ =]|vllm serve |model(?:_tag|_path)?=')\s{0,4}['\"]?"
    r"(?P<name>[A-Za-z0-9/.~$][\w./:~\-]{1,200})|'model(?:_tag)?': '(?P<quoted>[^']{2,200})'"
)
_VERSIONS = (
    (
        "vllm",
        re.compile(r"(?:API server version:? |LLM engine \(v|vLLM Version\s{0,40}:\s?|vllm==)v?(\d[\w.+\-]{1,60})"),
    ),
    ("sglang", re.compile(r"sglang==v?(\d[\w.+\-]{1,60})")),
)
_FLAG = re.compile(r"--(?P<name>[a-z][\w\-]{1,60})(?:[= ]+(?P<value>[^\s\-'\"][^\s'\"]{0,120}))?")
_ARGUMENT = re.compile(
    r"['\"]?(?P<name>[a-z_]{3,60})['\"]?[:=] ?(?P<value>'[^']{0,200}'|\"[^\"]{0,200}\"|[\w.\-]{1,60})"
)
_ENGINES = (
    ("sglang", re.compile(r"/sglang/|sglang\.|sgl[_-]kernel|server_args=ServerArgs")),
    (
        "vllm",
        re.compile(r"/vllm/|vllm\.|\(EngineCore|\(APIServer|\(Worker|\bvllm serve|V\d LLM engine|vllm/vllm-openai"),
    ),
    ("llama.cpp", re.compile(r"llama_model_load|ggml_\w+:|llama-server")),
    ("TensorRT-LLM", re.compile(r"\[TensorRT-LLM\]|\[TRT-LLM\]")),
    ("TGI", re.compile(r"text_generation_launcher")),
    ("LMDeploy", re.compile(r"/lmdeploy/|lmdeploy serve")),
    ("Ollama", re.compile(r"\bollama\b|llama runner|llama server")),
    ("LocalAI", re.compile(r"LocalAI|internal loader")),
)
_PLATFORMS = (
    ("rocm", re.compile(r"platform (?:is )?:?'?rocm|\bgfx9\d|\bMI3\d\d|\bROCm(?! (?:used|Version))")),
    ("npu", re.compile(r"platform (?:is )?:?'?(?:ascend|npu)|torch_npu|vllm_ascend")),
    ("cpu", re.compile(r"platform (?:is )?:?'?cpu\b|not supported on CPU")),
    ("xpu", re.compile(r"platform (?:is )?:?'?xpu\b|not supported on XPU")),
    ("tpu", re.compile(r"platform (?:is )?:?'?tpu\b")),
    ("cuda", re.compile(r"platform (?:is )?:?'?cuda\b")),
)
_ACCEPTANCE = re.compile(rf"Avg Draft acceptance rate: ({DECIMAL})%")
_TORCH = re.compile(r"(?:\btorch==|PyTorch version\s{0,40}:\s?)(\d[\w.+]{1,40})")
_CHOSEN = re.compile(r"Using (?:AttentionBackendEnum\.)?([A-Z][A-Z0-9_]{3,60}) (?:attention )?backend")


_WHOLE = 2000
"""Characters up to which a line is looked at as a whole; of a longer one, only the surroundings of the hit."""


@dataclass
class Background:
    """Collects the circumstances passage by passage."""

    engine: str | None = None
    engine_version: str | None = None
    torch_version: str | None = None
    models: list[str] = field(default_factory=list)
    dsa_sign: bool = False
    chosen_backend: str | None = None
    platform: str | None = None
    arguments: dict[str, str] = field(default_factory=dict)
    acceptance: tuple[float, int] | None = None
    plugin_loaded: bool = False
    gpu_lines: dict[int, str] = field(default_factory=dict)
    failed: bool = False
    _gpus: tuple[dict[Capability, tuple[str | None, int]], ...] = field(default_factory=lambda: ({}, {}, {}))

    def note(self, passage: Passage) -> None:
        """Take from one passage what it tells."""
        line = passage.line
        text = line.text if len(line.text) < _WHOLE else passage.near()
        self._note_software(text)
        self._note_gpu(text, line.number)
        self.dsa_sign = self.dsa_sign or (_DSA_SIGNS.search(text) is not None)
        for match in _MODEL.finditer(text):
            model = match.group("name") or match.group("quoted")
            if model not in self.models and len(self.models) < 8:
                self.models.append(model)
        if _DSA_MODEL.search(text) and not line.is_source:
            self.dsa_sign = True
        if "Traceback" in text:
            self.failed = True
        if (found := _ACCEPTANCE.search(text)) is not None:
            self.acceptance = (float(found.group(1)), line.number)
        if "Using TRITON_MLA_SPARSE" in text or "dsa_doctor.plugin" in text or "[dsa-doctor]" in text:
            self.plugin_loaded = True
        self._note_arguments(text)

    @property
    def uses_dsa(self) -> bool | None:
        """Whether the log's model has sparse attention; None where the log names no model and shows no sign."""
        if self.dsa_sign or any(_DSA_MODEL.search(model) for model in self.models):
            return True
        return False if self.models else None

    @property
    def gpu(self) -> tuple[Capability, str | None, int] | None:
        """The one capability that the best kind of evidence names, with the GPU's name and the line; None in doubt."""
        for found in self._gpus:
            if len(found) == 1:
                capability, (name, number) = next(iter(found.items()))
                return capability, name, number
            if found:
                return None
        return None

    def note_engine(self, lines: list[Line]) -> None:
        """Take the engine from the lines that were kept, where no line of its own names it."""
        for line in lines:
            if self.engine is not None:
                return
            self.engine = next((name for name, pattern in _ENGINES if pattern.search(f"{line.rank} {line.text}")), None)

    def _note_arguments(self, text: str) -> None:
        """Take options from a command line, or from what the engine logs of them."""
        if len(self.arguments) > 60:
            return
        command = re.search(r"vllm serve |launch_server|docker run |--model[ =]", text)
        if command is not None and "usage:" not in text:
            for match in _FLAG.finditer(text):
                self.arguments.setdefault(match.group("name").replace("-", "_"), match.group("value") or "")
        for start in ("non-default args:", "server_args=ServerArgs("):
            if (at := text.find(start)) >= 0:
                for match in _ARGUMENT.finditer(text, at + len(start)):
                    self.arguments.setdefault(match.group("name"), match.group("value").strip("'\""))

    def _note_software(self, text: str) -> None:
        for engine, pattern in _VERSIONS:
            if self.engine_version is None and (match := pattern.search(text)):
                self.engine, self.engine_version = engine, match.group(1).rstrip(").,")
        if self.engine is None:
            self.engine = next((name for name, pattern in _ENGINES if pattern.search(text)), None)
        if self.platform is None:
            self.platform = next((name for name, pattern in _PLATFORMS if pattern.search(text)), None)
        if self.torch_version is None and (match := _TORCH.search(text)):
            self.torch_version = match.group(1)
        if match := _CHOSEN.search(text):
            self.chosen_backend = match.group(1)

    def _note_gpu(self, text: str, number: int) -> None:
        for match in _CAPABILITY.finditer(text):
            major, minor = next((a, b) for a, b in zip(match.groups()[::2], match.groups()[1::2], strict=True) if a)
            self._add(0, Capability(int(major), int(minor)), None, number, text)
        if _SUPPORT_STATEMENT.search(text):
            return
        for match in _NAMED_GPU.finditer(text):
            if known := _GPUS.get(_plain(match.group("name"))):
                self._add(1, known.capability, known.name, number, text)
        for match in _BARE_GPU.finditer(text):
            name = match.group("name")
            if name.lower().startswith("sm"):
                self._add(2, Capability.parse(name), None, number, text)
            elif known := _GPUS.get(_plain(name)):
                self._add(2, known.capability, known.name, number, text)

    def _add(self, kind: int, capability: Capability, name: str | None, number: int, text: str) -> None:
        if capability in SHARED_MEMORY_PER_BLOCK:
            if len(self.gpu_lines) < 64:
                self.gpu_lines.setdefault(number, text[:300])
            known = self._gpus[kind].get(capability)
            self._gpus[kind][capability] = (known[0] or name, known[1]) if known else (name, number)


def _plain(text: str) -> str:
    return (
        "".join(character for character in text.lower() if character.isalnum())
        .removeprefix("nvidia")
        .removeprefix("rtx")
    )


_GPUS = {_plain(spelling): gpu for gpu in KNOWN_GPUS for spelling in (gpu.alias, gpu.name, *gpu.others)}
