#!/usr/bin/env bash
# shellcheck disable=SC2016
# GLM-5-FP8 on 8 GPUs, made by dsa-doctor run-model --emit docker.
# The image must hold vLLM and dsa-doctor.
# dsa-doctor is on no package index; its wheel is built in a checkout of it: python3 -m pip wheel --no-deps -w dist .
# Then a Dockerfile: FROM vllm/vllm-openai:..., COPY dist /dist, RUN python3 -m pip install /dist/dsa_doctor-*.whl
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
image=vllm/vllm-openai:v0.33.0

# Every layer must be resolved on this node's GPUs.
"${container[@]}" \
  --entrypoint dsa-doctor "$image" check zai-org/GLM-5-FP8 \
  --tensor-parallel-size 8 \
  --kv-cache-dtype auto || {
  status=$?
  if [ "$status" = 127 ]; then echo "$image holds no dsa-doctor: see the head of this script" >&2; fi
  exit "$status"
}

exec "${container[@]}" \
  --entrypoint vllm "$image" serve zai-org/GLM-5-FP8 \
  --attention-backend TRITON_MLA_SPARSE \
  --kv-cache-dtype auto \
  --tensor-parallel-size 8 \
  --enable-auto-tool-choice \
  --port 8000 \
  --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}' \
  --odd 'it'"'"'s $HOME'
