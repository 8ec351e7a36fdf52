"""What a vLLM log tells while the server starts: the stage it is in, and the choices it made.

The wording differs between releases, so each fact has several patterns; what no pattern finds stays unknown and is
never guessed.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from dsa_doctor.reading.numbers import DECIMAL, GROUPED, WHOLE

Stage = Literal["start", "download", "load", "quantise", "profile", "capture", "serve", "ready"]

STAGES: tuple[Stage, ...] = ("start", "download", "load", "quantise", "profile", "capture", "serve", "ready")
TITLES: dict[Stage, str] = {
    "start": "start the server",
    "download": "download the weights",
    "load": "load the weights",
    "quantise": "prepare the loaded weights",
    "profile": "profile memory",
    "capture": "capture graphs",
    "serve": "start serving",
    "ready": "ready",
}

_STAGE_PATTERNS: tuple[tuple[Stage, re.Pattern[str]], ...] = (
    ("serve", re.compile(r"Started server process|Starting vLLM (?:API )?server|Application startup complete")),
    ("capture", re.compile(r"Capturing (?:the model|CUDA graphs?|cudagraphs?|encoder)|Graph capturing")),
    ("profile", re.compile(r"Available KV cache memory|Memory profiling|profile_run|GPU KV cache size|CPU KV cache")),
    (
        "quantise",
        re.compile(r"Marlin kernel|[Rr]epack|process_weights_after_loading|DeepGEMM warmup|Loading weights took"),
    ),
    ("load", re.compile(r"Starting to load model|Loading safetensors|Loading model (?:weights )?from|Loading pt")),
    ("download", re.compile(r"Fetching \d+ files|Downloading|Time spent downloading")),
)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f]")
_BACKEND = re.compile(r"Using (\w+) (?:attention )?backend(?: out of potential backends: \[([^\]]*)\])?", re.IGNORECASE)
_NOT_ATTENTION = re.compile(r"(?:MoE|Moe|linear|all2all|distributed|NCCL|sampl)", re.IGNORECASE)
_KV_TOKENS = re.compile(rf"KV cache size: ({GROUPED}) tokens")
_KV_MEMORY = re.compile(rf"Available KV cache memory: (-?{DECIMAL}) GiB")
_WEIGHTS = re.compile(rf"Model loading took ({DECIMAL}) GiB")
_SHARDS = re.compile(rf"Loading safetensors checkpoint shards:\s+({WHOLE})% Completed")
_PLUGIN = re.compile(r"(?<![\w/.-])dsa-doctor(?::|'s )")
_MOST_PLUGIN_LINES = 16

MAX_LINE = 16384
"""Characters of one line that are looked at."""


@dataclass
class LogFacts:
    """What the log has told so far; None is not known.

    Attributes:
        stage: the furthest stage reached.
        backend: attention backend really chosen.
        candidates: the backends it was chosen from.
        kv_tokens: tokens that the KV cache holds, smallest of all engines.
        kv_memory_gib: memory of the KV cache per GPU, smallest of all workers.
        weights_gib: memory of the weights per GPU, largest of all workers.
        shards_percent: progress of loading.
        layers: the plugin's own lines about the three layers.
    """

    stage: Stage = "start"
    backend: str | None = None
    candidates: tuple[str, ...] = ()
    kv_tokens: int | None = None
    kv_memory_gib: float | None = None
    weights_gib: float | None = None
    shards_percent: int | None = None
    layers: list[str] = field(default_factory=list)

    def read(self, line: str) -> Stage | None:
        """Take one line in; return the stage that it opens, if it opens one. Any text is accepted."""
        text = _ANSI.sub("", line[:MAX_LINE])
        self._read_choices(text)
        for stage, pattern in _STAGE_PATTERNS:
            if pattern.search(text):
                if STAGES.index(stage) > STAGES.index(self.stage):
                    self.stage = stage
                    return stage
                return None
        return None

    def _read_choices(self, text: str) -> None:
        if (match := _BACKEND.search(text)) and not _NOT_ATTENTION.search(match.group(0)):
            candidates = tuple(one.strip(" '\"") for one in (match.group(2) or "").split(",") if one.strip())
            if "attention" in match.group(0).lower() or candidates:
                self.backend, self.candidates = match.group(1), candidates or self.candidates
        if match := _KV_TOKENS.search(text):
            tokens = int(match.group(1).replace(",", ""))
            self.kv_tokens = tokens if self.kv_tokens is None else min(self.kv_tokens, tokens)
        if match := _KV_MEMORY.search(text):
            memory = float(match.group(1))
            self.kv_memory_gib = memory if self.kv_memory_gib is None else min(self.kv_memory_gib, memory)
        if match := _WEIGHTS.search(text):
            self.weights_gib = max(self.weights_gib or 0.0, float(match.group(1)))
        if match := _SHARDS.search(text):
            self.shards_percent = int(match.group(1))
        if (match := _PLUGIN.search(text)) and len(self.layers) < _MOST_PLUGIN_LINES:
            said = text[match.start() :].strip()[:300]
            if said not in self.layers:
                self.layers.append(said)
