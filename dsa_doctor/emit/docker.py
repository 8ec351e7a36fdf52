"""docker run, one command a node."""

import csv
import io
from collections.abc import Sequence

from dsa_doctor.emit.ranks import Launch
from dsa_doctor.emit.script import IMAGE, Raw, command, head, secrets, word


def docker(launch: Launch) -> str:
    """Return a bash script that runs the container; with several nodes it takes rank and address as shell() does."""
    lines = [*head(launch, "docker"), IMAGE]
    if launch.nodes > 1:
        lines.append("# Start it once on every node, rank 0 first: ./serve.sh RANK ADDRESS_OF_NODE_0")
    if launch.model_folder is not None:
        lines.append("# The model is a local folder: every node must hold it at the same path.")
    lines += ["set -euo pipefail", ""]
    if launch.nodes > 1:
        lines += ['rank="${1:?node rank}"', 'master="${2:?address of node 0}"', ""]
    lines += [
        *secrets(launch),
        "container=(",
        "  docker run --rm",
        "  --gpus all",
        "  --ipc=host",  # the host's /dev/shm: a container's own is 64 MiB
        "  --network host",
        "  --ulimit memlock=-1",
        "  --ulimit nofile=65536",
        '  -v "${HF_HOME:-$HOME/.cache/huggingface}:/root/.cache/huggingface"',
        *(f"  -e {word(f'{name}={value}')}" for name, value in launch.environment().items()),
        *(f"  -e {name}" for name in launch.secrets),
        *_model_mount(launch),
        ")",
        f"image={word(launch.image)}",
        "",
        "# Every layer must be resolved on this node's GPUs.",
        _in_container("dsa-doctor", launch.check_arguments()[1:]) + " || {",
        "  status=$?",
        '  if [ "$status" = 127 ]; then echo "$image holds no dsa-doctor: see the head of this script" >&2; fi',
        '  exit "$status"',
        "}",
        "",
    ]
    if launch.nodes == 1:
        return "\n".join([*lines, "exec " + _in_container("vllm", launch.serve_arguments()[1:]), ""])
    serve = launch.serve_arguments(rank=Raw('"$rank"'), master=Raw('"$master"'))[1:]
    lines += ["headless=()", 'if [ "$rank" != 0 ]; then headless=(--headless); fi']
    return "\n".join([*lines, "exec " + _in_container("vllm", [*serve, Raw('"${headless[@]}"')]), ""])


def _in_container(entrypoint: str, arguments: Sequence[str]) -> str:
    return command([Raw('"${container[@]}"'), "--entrypoint", entrypoint, Raw('"$image"'), *arguments])


def _model_mount(launch: Launch) -> list[str]:
    """Return the mount of a local model folder at the same path; --mount is CSV, where -v splits at every colon."""
    folder = launch.model_folder
    if folder is None:
        return []
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(["type=bind", f"source={folder}", f"target={folder}", "readonly"])
    return [f"  --mount {word(row.getvalue())}"]
