"""Kubernetes: a LeaderWorkerSet (sigs.k8s.io/lws) and the Service in front of its leader."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from dsa_doctor.emit.ranks import MASTER_PORT, Launch
from dsa_doctor.emit.script import IMAGE, Raw, in_comment, where
from dsa_doctor.planner.estimates import GIB

_SHM = "16Gi"
_READY_FAILURES = 720
"""Of ten seconds each: two hours for the download and the load of a checkpoint this large."""


_CACHE_NOTE = """\
# The claim "models" must exist and hold, or take, the Hub's cache; pods of several nodes need ReadWriteMany or
# ReadOnlyMany."""
_FOLDER_NOTE = """\
# The model is a local folder, mounted from the node (hostPath): every node that the pods may run on must hold it at the
# same path. With a volume claim instead, put persistentVolumeClaim in place of hostPath."""
_IMAGE_NOTE = f"""\
{IMAGE}
# Without it the pods stop at the init container dsa-doctor-check: "executable file not found"."""

_PLAIN = re.compile(r"(?:--)?[A-Za-z/][A-Za-z0-9_./:-]*(?<!:)")
_WORDS_WITH_MEANING = frozenset({"y", "yes", "n", "no", "on", "off", "true", "false", "null", "nan", "inf"})


class _Dumper(yaml.SafeDumper):
    """Writes no anchors, and quotes every string that some YAML reader could take for a number or a boolean."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML leaves 1e3 and y bare, which Kubernetes' reader takes for a number and a boolean.
    plain = _PLAIN.fullmatch(text) is not None and text.lower() not in _WORDS_WITH_MEANING
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else "'")


_Dumper.add_representer(str, _string)


def lws(launch: Launch) -> str:
    """Return two YAML documents, with what must be there before they are applied in comments."""
    head = f"# {in_comment(launch.name)} on {where(launch)}, made by dsa-doctor run-model --emit lws."
    notes = [head, _IMAGE_NOTE, _FOLDER_NOTE if launch.model_folder is not None else _CACHE_NOTE]
    notes += [f"# The Secret {launch.slug} must hold {name}." for name in launch.secrets]
    documents = (leader_worker_set(launch), service(launch))
    texts = [yaml.dump(one, Dumper=_Dumper, sort_keys=False, width=120) for one in documents]
    return "\n".join(notes) + "\n" + "---\n".join(texts)


def _literal(text: str) -> str:
    """Return `text` as kubelet must find it to hand it on: it expands $(NAME), and takes $$ for one dollar."""
    return str(text) if isinstance(text, Raw) else text.replace("$", "$$")


def leader_worker_set(launch: Launch) -> dict[str, Any]:
    """Return the LeaderWorkerSet: one group of `nodes` pods, started leader first, restarted as a whole."""
    multiple = launch.nodes > 1
    template: dict[str, Any] = {"size": launch.nodes, "restartPolicy": "RecreateGroupOnPodRestart"}
    if multiple:
        # LeaderWorkerSet's variables, which kubelet expands in the arguments.
        common = {"master": Raw("$(LWS_LEADER_ADDRESS)"), "nodes": Raw("$(LWS_GROUP_SIZE)")}
        worker = [*launch.serve_arguments(rank=Raw("$(LWS_WORKER_INDEX)"), **common), "--headless"]
        template["leaderTemplate"] = _pod(launch, launch.serve_arguments(rank="0", **common), leader=True)
        template["workerTemplate"] = _pod(launch, worker, leader=False)
    else:
        template["workerTemplate"] = _pod(launch, launch.serve_arguments(), leader=True)
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": launch.slug, "labels": {"app.kubernetes.io/managed-by": "dsa-doctor"}},
        "spec": {
            "replicas": 1,
            "startupPolicy": "LeaderCreated",
            "leaderWorkerTemplate": template,
        },
    }


def service(launch: Launch) -> dict[str, Any]:
    """Return the Service that reaches the leader."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": launch.slug},
        "spec": {
            "type": "ClusterIP",
            "selector": {"leaderworkerset.sigs.k8s.io/name": launch.slug, "role": "leader"},
            "ports": [{"name": "http", "port": launch.port, "targetPort": launch.port}],
        },
    }


def _pod(launch: Launch, arguments: list[str], *, leader: bool) -> dict[str, Any]:
    gpus = {"nvidia.com/gpu": str(launch.gpus_per_node)}
    folder = launch.model_folder
    models: dict[str, Any] = {"name": "models", "mountPath": folder or "/root/.cache/huggingface"}
    source: dict[str, Any] = {"persistentVolumeClaim": {"claimName": "models"}}
    if folder is not None:
        models["readOnly"] = True
        source = {"hostPath": {"path": folder, "type": "Directory"}}
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}, models]  # noqa: S108
    env: list[dict[str, Any]] = [
        {"name": name, "value": _literal(value)} for name, value in launch.environment().items()
    ]
    env += [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": launch.slug, "key": name}}} for name in launch.secrets
    ]
    container: dict[str, Any] = {
        "name": "vllm",
        "image": launch.image,
        "command": arguments[:2],
        "args": [_literal(one) for one in arguments[2:]],
        "env": env,
        "resources": {"limits": gpus, **_memory_request(launch)},
        "volumeMounts": mounts,
    }
    if leader:
        container["ports"] = [{"name": "http", "containerPort": launch.port}]
        container["ports"] += [{"name": "master", "containerPort": MASTER_PORT}] if launch.nodes > 1 else []
        # Workers get no probe: they serve no HTTP.
        container["readinessProbe"] = {
            "httpGet": {"path": "/health", "port": launch.port},
            "periodSeconds": 10,
            "failureThreshold": _READY_FAILURES,
        }
    check = launch.check_arguments()
    preflight = {
        "name": "dsa-doctor-check",
        "image": launch.image,
        "command": check[:2],
        "args": [_literal(one) for one in check[2:]],
        "resources": {"limits": gpus},
        "volumeMounts": mounts[1:],
    }
    return {
        "metadata": {"labels": {"app": launch.slug, "role": "leader" if leader else "worker"}},
        "spec": {
            "terminationGracePeriodSeconds": 120,
            "initContainers": [preflight],
            "containers": [container],
            "volumes": [
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _SHM}},
                {"name": "models", **source},
            ],
        },
    }


def _memory_request(launch: Launch) -> Mapping[str, Any]:
    """Return a request for the host memory that CPU offload pins, with room for the processes themselves."""
    if not launch.host_memory_bytes:
        return {}
    return {"requests": {"memory": f"{launch.host_memory_bytes // GIB + 64}Gi"}}
