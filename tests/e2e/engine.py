"""vLLM's engine on several checkpoints, one after the other in one process. Run under the CPU environment.

    python engine.py < request.json > answers.json

Importing vLLM is what takes the time; a server per checkpoint would do it twice each.
"""

import json
import os
import sys
from typing import Any

OUTPUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # vLLM's own output must not mix with the answer


def answer(checkpoint: str, prompts: list[list[int]], max_tokens: int, options: dict[str, Any]) -> dict[str, Any]:
    """Return, for each prompt, the tokens that followed and the log-probability of every token after the first."""
    import dsa_e2e
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    dsa_e2e.install()  # some of it goes with the engine before
    engine = LLM(model=checkpoint, skip_tokenizer_init=True, enforce_eager=True, disable_log_stats=True, **options)
    asked = SamplingParams(
        temperature=0, max_tokens=max_tokens, logprobs=1, prompt_logprobs=0, ignore_eos=True, detokenize=False
    )
    requests = [{"prompt_token_ids": prompt} for prompt in prompts]
    answers = []
    for prompt, given in zip(prompts, engine.generate(requests, asked, use_tqdm=False), strict=True):
        out = given.outputs[0]
        rows = [*given.prompt_logprobs[1:], *out.logprobs]
        tokens = [*prompt[1:], *out.token_ids]
        logprobs = [row[token].logprob for row, token in zip(rows, tokens, strict=True)]
        answers.append({"tokens": list(out.token_ids), "logprobs": logprobs})
    model = engine.llm_engine.model_executor.driver_worker.worker.model_runner.model
    layer = model.model.layers[0]
    methods = {
        name: type(getattr(module, "scheme", None) or module.quant_method).__name__
        for name, module in layer.named_modules()
        if hasattr(module, "quant_method") and not name.endswith("attn")
    }
    del engine, model, layer
    cleanup_dist_env_and_memory()
    return {"answers": answers, "methods": methods}


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    found = {
        name: answer(folder, request["prompts"], request["max_tokens"], request["options"])
        for name, folder in request["checkpoints"].items()
    }
    OUTPUT.write(json.dumps(found))
    OUTPUT.flush()


if __name__ == "__main__":
    main()
