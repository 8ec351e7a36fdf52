"""Whether the vLLM that was judged is the one that the manifest pins: a gate must not pass on stale facts."""

import re
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from dsa_doctor.compat import releases
from dsa_doctor.policy.report import ManifestPin
from dsa_doctor.resolver.judgement import finding
from dsa_doctor.verdict.schema import Finding, Verdict

_POETRY = re.compile(r"vllm = (?:\{.*?\bversion\s*=\s*)?[\"']([^\"']+)[\"']")
_TAG = re.compile(r":v?(\d+(?:\.\d+)+[\w.+]*)")
_DIGEST = re.compile(r"@sha256:[0-9a-f]+\Z")


class Agreement(NamedTuple):
    """Whether a version is the pinned one; None where the pin says no version. `pinned` is the pin in words."""

    agrees: bool | None
    pinned: str


def agreement(requirement: str, version: str) -> Agreement:
    """Compare a pin with the version that was judged.

    A build number behind + counts only where the pin names one; what cannot be parsed is told as not known.

    Args:
        requirement: a requirement, a wheel's file name, an image, or Poetry's "vllm = ...".
        version: of the vLLM that was judged.
    """
    try:
        judged = Version(version)
    except InvalidVersion:
        return Agreement(None, requirement)
    if (wheel := requirement.partition("#")[0].rpartition("/")[2]).endswith(".whl"):
        return _of_wheel(wheel, judged)
    if (poetry := _POETRY.match(requirement)) is not None:
        return _of_specifiers(_without_caret(poetry.group(1)), judged)
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement:
        return _of_image(requirement, judged)
    if canonicalize_name(parsed.name) != "vllm":  # an image without a tag looks like a requirement
        return _of_image(requirement, judged)
    if parsed.url is not None:
        return Agreement(None, requirement)
    return _of_specifiers(str(parsed.specifier), judged)


def with_agreement(verdict: Verdict, pin: ManifestPin | None) -> Verdict:
    """Return the verdict with what is to be said of the manifest; as it is without one, or without a vLLM."""
    version = verdict.software.vllm
    if pin is None or version is None:
        return verdict
    agrees, pinned = agreement(pin.requirement, version)
    if agrees:
        return verdict
    place = f"{pin.file}, line {pin.line}: {pin.text}"
    return verdict.model_copy(update={"findings": (*verdict.findings, _finding(agrees, pinned, version, place))})


def _finding(agrees: bool | None, pinned: str, version: str, place: str) -> Finding:
    if agrees is None:
        summary = f"The manifest names {pinned}, which says no version to compare with vLLM {version} that was judged."
        pin = f"pin a version, such as vllm=={releases.newest()}"
        return finding("DSA918", "warn", summary, evidence=(place,), remedy=(pin,))
    summary = f"The manifest pins {pinned}, and vLLM {version} was judged: the answer is not for what is deployed."
    remedy = (
        "dsa-doctor facts > facts.json   # anew, where the pinned vLLM is installed",
        f"or pin what was judged: vllm=={Version(version).public}",
    )
    return finding("DSA918", "fail", summary, evidence=(place,), remedy=remedy)


def _of_wheel(name: str, judged: Version) -> Agreement:
    try:
        _, pinned, *_ = parse_wheel_filename(name)
    except InvalidWheelFilename:
        return Agreement(None, name)
    return Agreement(_same(pinned, judged), f"vLLM {pinned}")


def _of_image(image: str, judged: Version) -> Agreement:
    tag = _TAG.search(_DIGEST.sub("", image).rpartition("/")[2])
    try:
        pinned = Version(tag.group(1)) if tag is not None else None
    except InvalidVersion:
        pinned = None
    return Agreement(None, image) if pinned is None else Agreement(_same(pinned, judged), f"the image {image}")


def _of_specifiers(text: str, judged: Version) -> Agreement:
    try:
        specifiers = SpecifierSet(text)
    except InvalidSpecifier:
        return Agreement(None, f"vllm {text}")
    return Agreement(specifiers.contains(judged, prereleases=True), f"vllm{specifiers}")


def _same(pinned: Version, judged: Version) -> bool:
    return pinned == judged if pinned.local and judged.local else pinned.public == judged.public


def _without_caret(text: str) -> str:
    """Return a constraint of Poetry's as a specifier: ^0.33 is >=0.33,<0.34, a bare version is that version."""
    bare = text.strip()
    if re.fullmatch(r"\d[\w.+]*", bare):
        return f"=={bare}"
    caret = re.fullmatch(r"([\^~])\s*(\d[\w.+]*)", bare)
    if caret is None:
        return bare
    try:
        release = Version(caret.group(2)).release
    except InvalidVersion:
        return bare
    if caret.group(1) == "~":
        kept = release[: min(len(release), 2)]
    else:  # up to the first number that is not 0
        kept = release[: next((place + 1 for place, number in enumerate(release) if number), len(release))]
    upper = ".".join(map(str, (*kept[:-1], kept[-1] + 1)))
    return f">={caret.group(2)},<{upper}"
