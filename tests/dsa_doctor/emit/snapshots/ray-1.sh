#!/usr/bin/env bash
# shellcheck disable=SC2016
# GLM-5-FP8 on 8 GPUs, made by dsa-doctor run-model --emit ray.
# Official vLLM images carry no Ray: pip install 'ray[cgraph]'.
# Start it once on every node: ./serve.sh RANK ADDRESS_OF_NODE_0
set -euo pipefail

rank="${1:?node rank, 0 to 0}"
master="${2:?address of node 0}"

# dsa-doctor is on no package index; its wheel is built in a checkout of it: python3 -m pip wheel --no-deps -w dist .
for one in dsa-doctor vllm ray; do
  command -v "$one" > /dev/null || { echo "$one is not installed here" >&2; exit 127; }
done

# Every layer must be resolved on this node's GPUs.
dsa-doctor check zai-org/GLM-5-FP8 \
  --tensor-parallel-size 8 \
  --kv-cache-dtype auto

export DSA_DOCTOR_PLUGIN=auto
export VLLM_ENGINE_READY_TIMEOUT_S=3600
if [ "$rank" != 0 ]; then
  exec ray start --block --address="$master:6379" --num-gpus=8
fi
ray start --head --port=6379 --num-gpus=8
trap 'ray stop' EXIT
for _ in $(seq 120); do
  have=$(python3 -c 'import ray; ray.init(address="auto", logging_level="ERROR"); print(int(ray.cluster_resources().get("GPU", 0)))')
  if [ "$have" -ge 8 ]; then break; fi
  echo "waiting for the other nodes: $have of 8 GPUs" >&2
  sleep 5
done
if [ "$have" -lt 8 ]; then echo "only $have of 8 GPUs joined" >&2; exit 1; fi
vllm serve zai-org/GLM-5-FP8 \
  --attention-backend TRITON_MLA_SPARSE \
  --kv-cache-dtype auto \
  --tensor-parallel-size 8 \
  --enable-auto-tool-choice \
  --port 8000 \
  --distributed-executor-backend ray \
  --speculative-config '{"method": "mtp", "num_speculative_tokens": 1}' \
  --odd 'it'"'"'s $HOME'
