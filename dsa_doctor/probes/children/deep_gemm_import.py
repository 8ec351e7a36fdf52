"""Child: tries to import one copy of DeepGEMM.

Request: {"search_path": [folder], "module": import name, "parents": {package: folder}, "probably_missing": [library
name]}. The loader is asked for these libraries first; where it refuses, the package is not tried. The parents are put
in place as empty packages, so that the copy inside vLLM is imported under its own name without running
vllm/__init__.py, which takes far longer.
Answer: {"importable": true} or {"importable": false, "raised": ["Type: message (in function)", ...]}, the exception
first, then its causes; with "loaded" (see loaded.py).
"""

import ctypes
import importlib
import json
import os
import sys
import traceback
import types
from typing import Any


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to one request."""
    for library in request["probably_missing"]:
        try:
            ctypes.CDLL(library)
        except OSError as error:
            return {"importable": False, "raised": [f"OSError: {error} (needed by its compiled part)"]}
    for name, folder in request["parents"].items():
        package = types.ModuleType(name)
        package.__path__ = [folder]
        sys.modules[name] = package
    try:
        importlib.import_module(request["module"])
    except BaseException as error:  # SystemExit included: vLLM could not import it either
        raised: list[str] = []
        link: BaseException | None = error
        while link is not None and len(raised) < 8:
            frames = traceback.extract_tb(link.__traceback__)
            place = f" (in {frames[-1].name})" if frames else ""
            raised.append(f"{type(link).__name__}: {link}{place}")
            link = link.__cause__ or link.__context__
        return {"importable": False, "raised": raised}
    return {"importable": True}


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
        stream.flush()
    # What the import left behind (threads, CUDA's exit handlers) must not turn an answer into a crash.
    os._exit(0)
