"""One shell script for all nodes: each is started with its rank."""

from dsa_doctor.emit.ranks import Launch
from dsa_doctor.emit.script import Raw, command, head, needs, secrets, word


def shell(launch: Launch) -> str:
    """Return a bash script; with several nodes it takes the rank and the address of rank 0 as arguments."""
    lines = head(launch, "shell")
    if launch.nodes > 1:
        lines += [
            "# Start it once on every node, rank 0 first; rank 0 serves, the others only work:",
            *(f"#   node {rank}: ./serve.sh {rank} ADDRESS_OF_NODE_0" for rank in range(launch.nodes)),
        ]
    lines += ["set -euo pipefail", ""]
    if launch.nodes > 1:
        lines += [
            'rank="${1:?node rank, 0 to ' + str(launch.nodes - 1) + '}"',
            'master="${2:?address of node 0}"',
            "",
        ]
    lines += [*needs("dsa-doctor", "vllm"), "# Every layer must be resolved on this node's GPUs."]
    lines += [command(launch.check_arguments()), ""]
    lines += [f"export {name}={word(value)}" for name, value in launch.environment().items()]
    lines += secrets(launch)
    if launch.nodes == 1:
        return "\n".join([*lines, "exec " + command(launch.serve_arguments()), ""])
    serve = launch.serve_arguments(rank=Raw('"$rank"'), master=Raw('"$master"'))
    lines += [
        "headless=()",
        'if [ "$rank" != 0 ]; then headless=(--headless); fi',
        "exec " + command([*serve, Raw('"${headless[@]}"')]),
        "",
    ]
    return "\n".join(lines)
