"""Ray: a cluster over the nodes, one vllm command on the head."""

from dsa_doctor.emit.ranks import Launch
from dsa_doctor.emit.script import command, head, needs, secrets, word

_RAY_PORT = 6379


def ray(launch: Launch) -> str:
    """Return a bash script: on rank 0 it starts the head, waits for every node and serves; elsewhere it joins."""
    gpus = launch.nodes * launch.gpus_per_node
    serve = [*launch.serve_arguments()[: -len(launch.extra) or None], "--distributed-executor-backend", "ray"]
    exports = [f"export {name}={word(value)}" for name, value in launch.environment().items()]
    return "\n".join(
        [
            *head(launch, "ray"),
            "# Official vLLM images carry no Ray: pip install 'ray[cgraph]'.",
            "# Start it once on every node: ./serve.sh RANK ADDRESS_OF_NODE_0",
            "set -euo pipefail",
            "",
            'rank="${1:?node rank, 0 to ' + str(launch.nodes - 1) + '}"',
            'master="${2:?address of node 0}"',
            "",
            *needs("dsa-doctor", "vllm", "ray"),
            "# Every layer must be resolved on this node's GPUs.",
            command(launch.check_arguments()),
            "",
            *exports,
            *secrets(launch),
            'if [ "$rank" != 0 ]; then',
            f'  exec ray start --block --address="$master:{_RAY_PORT}" --num-gpus={launch.gpus_per_node}',
            "fi",
            f"ray start --head --port={_RAY_PORT} --num-gpus={launch.gpus_per_node}",
            "trap 'ray stop' EXIT",
            "for _ in $(seq 120); do",
            '  have=$(python3 -c \'import ray; ray.init(address="auto", logging_level="ERROR");'
            ' print(int(ray.cluster_resources().get("GPU", 0)))\')',
            f'  if [ "$have" -ge {gpus} ]; then break; fi',
            f'  echo "waiting for the other nodes: $have of {gpus} GPUs" >&2',
            "  sleep 5",
            "done",
            f'if [ "$have" -lt {gpus} ]; then echo "only $have of {gpus} GPUs joined" >&2; exit 1; fi',
            command([*serve, *launch.extra]),
            "",
        ]
    )
