"""What keeps code of another environment from more than it needs: few variables, and no network where that can be had.

It runs with the rights of this account all the same: it can read and write what the account can.
"""

import os
import re
import shutil
from functools import lru_cache

from dsa_doctor.processes.child import run

_NEEDED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_\w+|TZ|TERM|TMPDIR|TEMP|TMP|LD_LIBRARY_PATH|CUDA_HOME|CUDA_PATH|"
    r"NVIDIA_\w+|(?:OMP|MKL|OPENBLAS|NUMEXPR)_NUM_THREADS|PYTHON(?:UTF8|IOENCODING|HASHSEED|COERCECLOCALE)"
)
"""All that a foreign process inherits. Tokens and passwords have too many names to list those instead."""

_START_TIMEOUT = 10.0


def is_needed(name: str) -> bool:
    """Whether another environment's process inherits this variable."""
    return _NEEDED.fullmatch(name) is not None


@lru_cache(maxsize=1)
def without_network() -> tuple[str, ...]:
    """Return the command that runs the rest of a command line in a namespace without network; empty where none can."""
    unshare = shutil.which("unshare")
    command = (unshare, "--user", "--map-root-user", "--net", "--") if unshare else ()
    if not command or os.name != "posix":
        return ()
    return command if not run([*command, "true"], timeout=_START_TIMEOUT).problem else ()
