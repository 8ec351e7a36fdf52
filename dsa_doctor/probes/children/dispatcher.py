"""Child: loads compiled extensions and says which ops torch has registered for CUDA.

Request: {"search_path": [folder], "libraries": [path], "probably_missing": [library name], "ops": ["_C::name"]}.
Answer: {"registered": {op: bool}} or {"error": the loader's message}, with "loaded" (see loaded.py).
"""

import ctypes
import importlib
import json
import os
import sys
from typing import Any


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to one request."""
    # Importing torch costs seconds. A library that the parent did not find is first asked of the loader itself.
    for name in request["probably_missing"]:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            return {"error": str(error)}
    try:
        import torch
    except Exception as error:  # whatever ails torch is the answer
        return {"error": f"import torch: {type(error).__name__}: {error}"}
    for path in request["libraries"]:
        try:
            torch.ops.load_library(path)
        except Exception as error:  # OSError in general; its cause holds the loader's own message
            return {"error": str(error.__cause__ or error)}
    registered = {}
    for op in request["ops"]:
        try:
            registered[op] = bool(torch._C._dispatch_has_kernel_for_dispatch_key(op, "CUDA"))
        except RuntimeError:  # no such op
            registered[op] = False
    return {"registered": registered}


if __name__ == "__main__":
    # Both lie beside this script, whose folder is first on the path until `follow`.
    loaded, follow = importlib.import_module("loaded"), importlib.import_module("import_path").follow
    loaded.watch()
    request = json.load(sys.stdin)
    follow(request["search_path"])
    reply = answer(request)
    reply["loaded"] = loaded.report()
    with os.fdopen(int(os.environ["DSA_DOCTOR_ANSWER_FD"]), "w") as stream:
        json.dump(reply, stream)
