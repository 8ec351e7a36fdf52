#!/usr/bin/env bash
# shellcheck disable=SC2016
# GLM-5-FP8, made by dsa-doctor run-model --emit docker.
# vllm/vllm-openai:v0.32.0 must have dsa-doctor in it: FROM vllm/vllm-openai, then RUN pip install dsa-doctor
set -euo pipefail

container=(
  docker run --rm
  --gpus all
  --ipc=host
  --network host
  --ulimit memlock=-1
  --ulimit nofile=65536
  -v "${HF_HOME:-$HOME/.cache/huggingface}:/root/.cache/huggingface"
  -e DSA_DOCTOR_PLUGIN=auto
  -e VLLM_ENGINE_READY_TIMEOUT_S=3600
)

# Every layer must be resolved on this node's GPUs.
"${container[@]}" \
  --entrypoint dsa-doctor vllm/vllm-openai:v0.32.0 check zai-org/GLM-5-FP8 \
  --tensor-parallel-size 8 \
  --kv-cache-dtype auto

exec "${container[@]}" \
  --entrypoint vllm vllm/vllm-openai:v0.32.0 serve zai-org/GLM-5-FP8 \
  --attention-backend TRITON_MLA_SPARSE \
  --kv-cache-dtype auto \
  --tensor-parallel-size 8 \
  --enable-auto-tool-choice \
  --port 8000 \
  --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}' \
  --odd 'it'"'"'s $HOME'
