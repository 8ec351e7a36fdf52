"""Quantised copies of the tiny model through vLLM's engine, against transformers on what their weights are worth.

The loop is that of test_server.py: vLLM's loaders, its CPU build's own int4 and int8 kernels, the plugin's backend and
indexer on the references, in fp16, the least that those kernels take. One prompt is longer than the selection, one is
prefilled in two dense steps, the second over cached context. Not covered: routed experts in int4 or int8 (the build has
them for AMX alone), eight-bit weights with 16-bit activations, and NVFP4, for which it has no kernel.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ORACLE
from tests.e2e.server import HARNESS, REPOSITORY
from tests.e2e.test_server import LONG, UNEVEN, prompt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
MAX_TOKENS = 4
PROMPTS = {"beyond the selection": LONG, "short": UNEVEN[1], "dense over cached context": prompt(120, 2)}
OPTIONS = {
    "dtype": "float16",
    "max_model_len": 512,
    "max_num_batched_tokens": 64,
    "max_num_seqs": 4,
    "num_gpu_blocks_override": 40,
}
METHODS = {
    "plain": "UnquantizedLinearMethod",
    "W4A16": "CompressedTensorsWNA16",
    "W4A16 asymmetric": "CompressedTensorsWNA16",
    "W8A8 int8": "CompressedTensorsW8A8Int8",
    "AWQ": "AutoAWQMarlinLinearMethod",
    "GPTQ": "AutoGPTQLinearMethod",
}
"""The class of vLLM that multiplies by the output projection."""
TOLERANCE = {name: 0.1 if name == "W8A8 int8" else 0.05 for name in METHODS}
"""Mean difference of log-probabilities.

Rounding to fp16 costs 0.003 where all is selected, and up to 0.03 beyond, where it tips an expert or a selected token
now and then; int4 itself costs 0.6. Activations in int8 are rounded on both sides, which end up to 0.08 apart.
"""


def ask(python: Path, script: str, *arguments: str, request: Any = None) -> Any:
    """Run a script of this folder under the CPU environment; return its answer, if it gives one."""
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("VLLM_", "DSA_"))},
        "PYTHONPATH": os.pathsep.join(map(str, (HARNESS, REPOSITORY, REPOSITORY / "kernels"))),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
    done = subprocess.run(
        [str(python), str(HERE / script), *arguments],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env=variables,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout) if done.stdout.startswith("{") else None


def difference(found: list[float], wanted: list[float]) -> float:
    """Return the mean difference of the log-probabilities of the same tokens."""
    return sum(abs(one - other) for one, other in zip(found, wanted, strict=True)) / len(wanted)


def test_quantised_models_agree_with_transformers(
    python: Path, checkpoint: Path, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """One test, so that parallel test processes do not each start an engine."""
    copies = tmp_path / "copies"
    ask(python, "quantise.py", str(checkpoint), str(copies))
    formats = {name: copies / name for name in METHODS if name != "plain"}
    served = ask(
        python,
        "engine.py",
        request={
            "prompts": list(PROMPTS.values()),
            "max_tokens": MAX_TOKENS,
            "options": OPTIONS,
            "checkpoints": {
                "plain": str(checkpoint),
                **{name: str(one / "quantised") for name, one in formats.items()},
            },
        },
    )
    texts = {
        name: [[*given, *answer["tokens"]] for given, answer in zip(PROMPTS.values(), one["answers"], strict=True)]
        for name, one in served.items()
    }
    folders = {"plain": str(checkpoint), **{name: str(one / "plain") for name, one in formats.items()}}
    request = {
        "texts": {**texts, **{f"{name} as plain": found for name, found in texts.items()}},
        "folders": {**folders, **{f"{name} as plain": str(checkpoint) for name in folders}},
    }
    scores = ask(python, ORACLE.name, "score", request=request)
    for name, method in METHODS.items():
        with subtests.test(name):
            assert served[name]["methods"]["self_attn.o_proj"] == method
            for which, answer, right, other in zip(
                PROMPTS, served[name]["answers"], scores[name], scores[f"{name} as plain"], strict=True
            ):
                error, cost = difference(answer["logprobs"], right), difference(right, other)
                assert error < TOLERANCE[name], (which, error, cost)
                # Eight bits cost no more than rounding the activations does.
                assert name in ("plain", "W8A8 int8") or error < 0.1 * cost, (which, error, cost)
