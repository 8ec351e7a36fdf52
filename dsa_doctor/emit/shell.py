"""One shell script for all nodes: each is started with its rank."""

from shlex import quote

from dsa_doctor.emit.ranks import Launch, joined, shebang


def shell(launch: Launch) -> str:
    """Return a bash script; with several nodes it takes the rank and the address of rank 0 as arguments."""
    lines = [*shebang(launch), f"# {launch.name} on {_where(launch)}, made by dsa-doctor run-model --emit shell."]
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
    lines += ["# Every layer must be resolved on this node's GPUs.", joined(_quoted(launch.check_arguments())), ""]
    lines += [f"export {name}={quote(value)}" for name, value in launch.environment().items()]
    if launch.nodes == 1:
        return "\n".join([*lines, "exec " + joined(_quoted(launch.serve_arguments())), ""])
    marked = launch.serve_arguments(rank="@rank@", master="@master@")
    command = [_variable(argument) for argument in marked]
    lines += [
        "headless=()",
        'if [ "$rank" != 0 ]; then headless=(--headless); fi',
        "exec " + joined([*command, '"${headless[@]}"']),
        "",
    ]
    return "\n".join(lines)


def _where(launch: Launch) -> str:
    nodes = f"{launch.nodes} nodes of " if launch.nodes > 1 else ""
    return f"{nodes}{launch.gpus_per_node} GPUs"


def _quoted(arguments: list[str]) -> list[str]:
    return [quote(argument) for argument in arguments]


def _variable(argument: str) -> str:
    return {"@rank@": '"$rank"', "@master@": '"$master"'}.get(argument, quote(argument))
