"""How this dsa-doctor was installed, so that a remedy names a command that works: not every one comes from an index."""

import json
from functools import cache
from importlib import metadata
from typing import NamedTuple

_NAME = "dsa-doctor"


class Installation(NamedTuple):
    """Commands for the environment that runs vLLM.

    Attributes:
        install: installs what runs here.
        upgrade: brings a newer one.
    """

    install: str
    upgrade: str


@cache
def this_installation() -> Installation:
    """Return the commands that fit the way in which the running dsa-doctor was installed; paths are left out."""
    try:
        text = metadata.distribution(_NAME).read_text("direct_url.json")
    except (metadata.PackageNotFoundError, OSError):
        return _FROM_CHECKOUT
    return installation_of(text)


_FROM_CHECKOUT = Installation(
    "pip install -e .   # in the checkout of dsa-doctor, with the pip of the environment that runs vLLM",
    "git pull && pip install -e .   # in the checkout of dsa-doctor",
)


def installation_of(direct_url: str | None) -> Installation:
    """Return the commands for a distribution's direct_url.json (PEP 610); None stands for an index."""
    where = "with the pip of the environment that runs vLLM"
    if direct_url is None:
        return Installation(f"pip install {_NAME}   # {where}", f"pip install -U {_NAME}")
    try:
        said = json.loads(direct_url)
        url, repository = str(said["url"]), said.get("vcs_info")
    except (ValueError, KeyError, TypeError, AttributeError):
        return _FROM_CHECKOUT
    if repository:
        source = f"{repository.get('vcs', 'git')}+{_without_credentials(url)}"
        return Installation(f"pip install '{_NAME} @ {source}'   # {where}", f"pip install -U '{_NAME} @ {source}'")
    if "archive_info" in said:
        file = url.partition("#")[0].rpartition("/")[2]
        return Installation(f"pip install {file}   # the file that this one came from, {where}", "a newer dsa-doctor")
    return _FROM_CHECKOUT


def _without_credentials(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" if separator else url
