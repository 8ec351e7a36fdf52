"""What the user gave, refused where no emitted form could hold it."""

import re

from dsa_doctor.compat import releases
from dsa_doctor.emit.ranks import Launch
from dsa_doctor.reading import ReadingError, check_name

_IMAGE = re.compile(r"[A-Za-z0-9\[][\w.:/@+\[\]-]*", re.ASCII)
"""Characters of an image reference (https://github.com/distribution/reference), which never starts with a dash."""


class EmitError(ValueError):
    """Something of the launch cannot be written down safely; the message names the option and what is accepted."""


def check_image(image: str) -> None:
    """Refuse what is no image reference.

    Raises:
        EmitError: a character that no reference holds, or a leading dash, which docker would take for an option.
    """
    if not _IMAGE.fullmatch(image):
        raise EmitError(f"--image {image!r} is not accepted. Accepted: an image such as {releases.image()}.")


def check_launch(launch: Launch) -> None:
    """Refuse control characters (line breaks and tabs within an option's value excepted) in all that is written.

    Raises:
        EmitError: names the option and the character.
    """
    check_image(launch.image)
    given = [("MODEL", launch.model, False)]
    given += [(flag.option, flag.value, False) for flag in launch.flags if flag.value is not None]
    given += [(one.name, one.value, False) for one in launch.variables]
    given += [(f"argument {place} after --", one, True) for place, one in enumerate(launch.extra, 1)]
    for what, text, breaks in given:
        try:
            check_name(text, breaks=breaks)
        except ReadingError as error:
            raise EmitError(f"{what} {text!r}: {error}, so it cannot be written for something else to run.") from error
