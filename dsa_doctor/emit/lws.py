"""Kubernetes: a LeaderWorkerSet (sigs.k8s.io/lws) and the Service in front of its leader."""

from collections.abc import Mapping
from typing import Any

import yaml

from dsa_doctor.emit.ranks import MASTER_PORT, Launch
from dsa_doctor.planner.estimates import GIB

_SHM = "16Gi"
_READY_FAILURES = 720
"""Of ten seconds each: two hours for the download and the load of a checkpoint this large."""


def lws(launch: Launch) -> str:
    """Return two YAML documents."""
    documents = (leader_worker_set(launch), service(launch))
    return "---\n".join(yaml.safe_dump(one, sort_keys=False, width=120) for one in documents)


def leader_worker_set(launch: Launch) -> dict[str, Any]:
    """Return the LeaderWorkerSet: one group of `nodes` pods, started leader first, restarted as a whole."""
    multiple = launch.nodes > 1
    template: dict[str, Any] = {"size": launch.nodes, "restartPolicy": "RecreateGroupOnPodRestart"}
    if multiple:
        # LeaderWorkerSet's variables, which kubelet expands in the arguments.
        common = {"master": "$(LWS_LEADER_ADDRESS)", "nodes": "$(LWS_GROUP_SIZE)"}
        worker = [*launch.serve_arguments(rank="$(LWS_WORKER_INDEX)", **common), "--headless"]
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
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "models", "mountPath": "/root/.cache/huggingface"}]  # noqa: S108
    container: dict[str, Any] = {
        "name": "vllm",
        "image": launch.image,
        "command": arguments[:2],
        "args": arguments[2:],
        "env": [{"name": name, "value": value} for name, value in launch.environment().items()],
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
        "args": check[2:],
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
                {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
            ],
        },
    }


def _memory_request(launch: Launch) -> Mapping[str, Any]:
    """Return a request for the host memory that CPU offload pins, with room for the processes themselves."""
    if not launch.host_memory_bytes:
        return {}
    return {"requests": {"memory": f"{launch.host_memory_bytes // GIB + 64}Gi"}}
