#!/usr/bin/env bash
# shellcheck disable=SC2016
# GLM-5-FP8 on 8 GPUs, made by dsa-doctor run-model --emit shell.
set -euo pipefail

# dsa-doctor is on no package index; its wheel is built in a checkout of it: python3 -m pip wheel --no-deps -w dist .
for one in dsa-doctor vllm; do
  command -v "$one" > /dev/null || { echo "$one is not installed here" >&2; exit 127; }
done

# Every layer must be resolved on this node's GPUs.
dsa-doctor check zai-org/GLM-5-FP8 \
  --tensor-parallel-size 8 \
  --kv-cache-dtype auto

export DSA_DOCTOR_PLUGIN=auto
export VLLM_ENGINE_READY_TIMEOUT_S=3600
exec vllm serve zai-org/GLM-5-FP8 \
  --attention-backend TRITON_MLA_SPARSE \
  --kv-cache-dtype auto \
  --tensor-parallel-size 8 \
  --enable-auto-tool-choice \
  --port 8000 \
  --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}' \
  --odd 'it'"'"'s $HOME'
