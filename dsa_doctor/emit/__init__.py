"""Forms in which a launch is handed to something else: a shell script, docker, a LeaderWorkerSet, Ray."""

from collections.abc import Callable

from dsa_doctor.emit.docker import docker
from dsa_doctor.emit.lws import lws
from dsa_doctor.emit.names import EmitError, check_image, check_launch
from dsa_doctor.emit.ranks import Launch
from dsa_doctor.emit.ray import ray
from dsa_doctor.emit.shell import shell

FORMS: dict[str, Callable[[Launch], str]] = {"shell": shell, "docker": docker, "lws": lws, "ray": ray}

__all__ = ["FORMS", "EmitError", "Launch", "check_image", "check_launch", "docker", "lws", "ray", "shell"]
