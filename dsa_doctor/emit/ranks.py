"""What every emitted form needs: the launch, and the command of each node."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from pydantic import Field

from dsa_doctor.compat import releases
from dsa_doctor.facts.observation import Fact
from dsa_doctor.launch.flags import Flag, Variable

MASTER_PORT = 29501


def node_arguments(nodes: str, *, rank: str, master: str) -> list[str]:
    """Return the arguments that tell vLLM its place among several nodes; the others than rank 0 take --headless too."""
    return ["--nnodes", nodes, "--node-rank", rank, "--master-addr", master, "--master-port", str(MASTER_PORT)]


class Launch(Fact):
    """One launch, on any number of nodes."""

    name: str
    """Catalog name or folder name of the model; the emitted objects are named after it."""
    model: str
    """What vLLM is given: a Hub id or a path."""
    flags: tuple[Flag, ...]
    variables: tuple[Variable, ...] = ()
    extra: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    """Environment variables that hold a key or token of the server: named in what is written, never their values."""
    nodes: int = Field(default=1, ge=1)
    gpus_per_node: int = Field(default=1, ge=1)
    port: int = 8000
    image: str = releases.image()
    """Container image; dsa-doctor must be installed in it."""
    host_memory_bytes: int = 0
    """Pinned host memory per node for CPU offload."""

    @property
    def slug(self) -> str:
        """Return the name as a DNS label, as Kubernetes wants it."""
        kept = "".join(one if one.isascii() and one.isalnum() else "-" for one in self.name.lower())
        return kept.strip("-")[:40].strip("-") or "model"

    @property
    def model_folder(self) -> str | None:
        """Return the folder that a container must see for a local model, or None for a Hub id.

        The files of a snapshot in the Hub's cache are links into a folder beside it: the whole model's is needed.
        """
        if not self.model.startswith("/"):
            return None
        for folder in PurePosixPath(self.model).parents:
            if folder.name.startswith("models--"):
                return str(folder)
        return self.model

    @property
    def tensor_parallel_size(self) -> int:
        """Return the tensor-parallel size that the flags give."""
        values = [flag.value for flag in self.flags if flag.option == "--tensor-parallel-size"]
        return int(values[0]) if values and values[0] else 1

    def check_arguments(self) -> list[str]:
        """Return the `dsa-doctor check` that must pass before the server starts, on every rank.

        It runs on the node itself, so it judges the GPUs that are really there rather than --target.
        """
        kv_cache_dtypes = [flag.value for flag in self.flags if flag.option == "--kv-cache-dtype" and flag.value]
        arguments = ["dsa-doctor", "check", self.model, "--tensor-parallel-size", str(self.tensor_parallel_size)]
        return [*arguments, *(["--kv-cache-dtype", kv_cache_dtypes[0]] if kv_cache_dtypes else [])]

    def serve_arguments(
        self, *, rank: str | None = None, master: str | None = None, nodes: str | None = None
    ) -> list[str]:
        """Return the server's arguments on one node.

        Args:
            rank: node rank as text, or the variable that holds it; None where one command serves all nodes.
            master: address of rank 0, or the variable that holds it.
            nodes: number of nodes as text, or the variable that holds it.
        """
        arguments = ["vllm", "serve", self.model, *(one for flag in self.flags for one in flag.arguments)]
        if self.nodes > 1 and rank is not None and master is not None:
            arguments += node_arguments(nodes or str(self.nodes), rank=rank, master=master)
        return [*arguments, *self.extra]

    def environment(self) -> Mapping[str, str]:
        """Return the environment variables of the server."""
        return {one.name: one.value for one in self.variables}
