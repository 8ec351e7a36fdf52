#!/usr/bin/env bash
# shellcheck disable=SC2016
# GLM-5-FP8 on 2 nodes of 8 GPUs, made by dsa-doctor run-model --emit shell.
# Start it once on every node, rank 0 first; rank 0 serves, the others only work:
#   node 0: ./serve.sh 0 ADDRESS_OF_NODE_0
#   node 1: ./serve.sh 1 ADDRESS_OF_NODE_0
set -euo pipefail

rank="${1:?node rank, 0 to 1}"
master="${2:?address of node 0}"

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
headless=()
if [ "$rank" != 0 ]; then headless=(--headless); fi
exec vllm serve zai-org/GLM-5-FP8 \
  --attention-backend TRITON_MLA_SPARSE \
  --kv-cache-dtype auto \
  --tensor-parallel-size 8 \
  --pipeline-parallel-size 2 \
  --enable-auto-tool-choice \
  --port 8000 \
  --nnodes 2 \
  --node-rank "$rank" \
  --master-addr "$master" \
  --master-port 29501 \
  --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}' \
  --odd 'it'"'"'s $HOME' "${headless[@]}"
