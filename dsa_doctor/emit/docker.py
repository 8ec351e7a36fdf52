"""docker run, one command a node."""

from shlex import quote

from dsa_doctor.emit.ranks import Launch, joined, shebang

_IMAGE_NOTE = "# {image} must have dsa-doctor in it: FROM vllm/vllm-openai, then RUN pip install dsa-doctor"


def docker(launch: Launch) -> str:
    """Return a bash script that runs the container; with several nodes it takes rank and address as shell() does."""
    lines = [
        *shebang(launch),
        f"# {launch.name}, made by dsa-doctor run-model --emit docker.",
        _IMAGE_NOTE.format(image=launch.image),
    ]
    if launch.nodes > 1:
        lines.append("# Start it once on every node, rank 0 first: ./serve.sh RANK ADDRESS_OF_NODE_0")
    lines += ["set -euo pipefail", ""]
    if launch.nodes > 1:
        lines += ['rank="${1:?node rank}"', 'master="${2:?address of node 0}"', ""]
    lines += [
        "container=(",
        "  docker run --rm",
        "  --gpus all",
        "  --ipc=host",  # the host's /dev/shm: a container's own is 64 MiB
        "  --network host",
        "  --ulimit memlock=-1",
        "  --ulimit nofile=65536",
        '  -v "${HF_HOME:-$HOME/.cache/huggingface}:/root/.cache/huggingface"',
        *(f"  -e {quote(f'{name}={value}')}" for name, value in launch.environment().items()),
        *_model_mount(launch),
        ")",
        "",
        "# Every layer must be resolved on this node's GPUs.",
        _in_container(launch, "dsa-doctor", [quote(one) for one in launch.check_arguments()[1:]]),
        "",
    ]
    if launch.nodes == 1:
        serve = [quote(one) for one in launch.serve_arguments()[1:]]
        return "\n".join([*lines, "exec " + _in_container(launch, "vllm", serve), ""])
    variables = {"@rank@": '"$rank"', "@master@": '"$master"'}
    marked = launch.serve_arguments(rank="@rank@", master="@master@")[1:]
    serve = [variables.get(one, quote(one)) for one in marked]
    lines += ["headless=()", 'if [ "$rank" != 0 ]; then headless=(--headless); fi']
    return "\n".join([*lines, "exec " + _in_container(launch, "vllm", [*serve, '"${headless[@]}"']), ""])


def _in_container(launch: Launch, entrypoint: str, arguments: list[str]) -> str:
    return joined(['"${container[@]}"', "--entrypoint", entrypoint, quote(launch.image), *arguments])


def _model_mount(launch: Launch) -> list[str]:
    """Return the mount of a local model folder, at the same path."""
    return [f"  -v {quote(f'{launch.model}:{launch.model}:ro')}"] if launch.model.startswith("/") else []
