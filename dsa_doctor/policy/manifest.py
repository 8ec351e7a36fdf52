"""Finds the line that decides which vLLM is installed, in the file that a project pins it in."""

import re
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from dsa_doctor.compat import releases
from dsa_doctor.policy.report import ManifestPin
from dsa_doctor.reading import ReadingError, one_line, read_file

_MAX_MANIFEST = 4 << 20
_LONGEST_LINE = 4096
"""Characters; no requirement is longer, and the patterns cost the square of a line."""

_ACCEPTED = (
    "Accepted: the requirements.txt, pyproject.toml or Dockerfile with the line that pins it, such as "
    f"vllm=={releases.newest()} or FROM {releases.image()}."
)

_WHEEL = re.compile(r"(?:^|[\s/\"'=@])(vllm-\d[^\s/\"'#]*\.whl)\b")
_IMAGE = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*(\S+)", re.IGNORECASE)
_QUOTED = re.compile(r"\"([^\"]*)\"|'([^']*)'")
_POETRY = re.compile(r"^\s*[\"']?vllm[\"']?\s*=\s*(.+)$", re.IGNORECASE)


class ManifestError(ValueError):
    """No line was found; the message names the file and what is accepted."""


def find_pin(path: Path) -> ManifestPin:
    """Return the line of requirements.txt, pyproject.toml or a Dockerfile that pins vLLM.

    Of several lines the first counts, in a Dockerfile the last: a later layer replaces an earlier one.

    Raises:
        ManifestError: the file cannot be read, or no line of it names vLLM.
    """
    try:
        lines = read_file(path, limit=_MAX_MANIFEST, exact=False).splitlines()
    except ReadingError as error:
        raise ManifestError(f"--manifest {one_line(str(path))}: {error}. {_ACCEPTED}") from error
    docker = re.search(r"dockerfile|containerfile", path.name, re.IGNORECASE) is not None
    found = [
        ManifestPin(file=_shown(path), line=number, text=line.strip()[:300], requirement=pin)
        for number, line in enumerate(lines, 1)
        if len(line) <= _LONGEST_LINE and (pin := _pin(line, docker=docker, toml=path.suffix == ".toml")) is not None
    ]
    if not found:
        raise ManifestError(f"--manifest {one_line(str(path))}: no line names vLLM. {_ACCEPTED}")
    return found[-1] if docker else found[0]


def _shown(path: Path) -> str:
    """Return the path below the current folder, as code hosts want it; else the bare name."""
    absolute, here = path.absolute(), Path.cwd()
    return absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) else path.name


def _pin(line: str, *, docker: bool, toml: bool) -> str | None:
    if "vllm" not in line.lower() or line.lstrip().startswith("#"):
        return None
    if (wheel := _WHEEL.search(line)) is not None:
        return wheel.group(1)
    if docker and (image := _IMAGE.match(line)) is not None:
        return image.group(1) if "vllm" in image.group(1).lower() else None
    if toml and (poetry := _POETRY.match(line)) is not None:
        return f"vllm = {poetry.group(1).strip()}"
    return next((text for text in _candidates(line, docker=docker, toml=toml) if _is_vllm(text)), None)


def _candidates(line: str, *, docker: bool, toml: bool) -> Iterator[str]:
    if toml:
        yield from (first or second for first, second in _QUOTED.findall(line))
    elif docker:
        yield from (word.strip("\"'\\,;&") for word in line.split())
    else:
        yield re.split(r"\s--?\w|(?:^|\s)#", line)[0].strip().rstrip("\\").strip()


def _is_vllm(text: str) -> bool:
    try:
        return canonicalize_name(Requirement(text).name) == "vllm"
    except InvalidRequirement:
        return False
