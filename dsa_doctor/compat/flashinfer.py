"""What the installed FlashInfer's sparse-MLA kernels for compute capability 12.x do, read from its own sources.

FlashInfer compiles these kernels from the headers that it ships, so the headers say what runs, unless kernels built
elsewhere (flashinfer-jit-cache) are taken in their place.
"""

import ast
import re
from pathlib import Path
from typing import Literal

from dsa_doctor.compat.families import FAMILIES
from dsa_doctor.facts.schema import Sm120Kernels, Sm120Shapes

_HEADERS = ("data", "include", "flashinfer", "attention", "sparse_mla_sm120")
_TABLE = re.compile(r"_DECODE_(\w+)_DISPATCH\Z")
_JUDGED = {family.sm120_kernels for family in FAMILIES}
_CONSTANT = re.compile(r"^_DECODE_MAX_HEADS = (\d+)", re.MULTILINE)
_DEFAULT_TOPK = re.compile(r"^    min_topk: int = (\d+)", re.MULTILINE)


def sm120_kernels(package: Path) -> Sm120Kernels | None:
    """Return what is known of the kernels; None where this FlashInfer has none.

    Args:
        package: folder of the package `flashinfer`.

    Raises:
        OSError: a file that is there cannot be read.
    """
    folder = package.joinpath(*_HEADERS)
    if not folder.is_dir():
        return None
    headers = {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8", errors="replace")
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".cuh", ".h"}
    }
    return Sm120Kernels(
        barrier=_barrier(headers),
        swap_ab=_swap_ab(headers),
        rope_free=any("GLM53_NOPE" in text for text in headers.values()),
        shapes=_shapes(package / "mla"),
    )


def _barrier(headers: dict[str, str]) -> Literal["alternates", "livelocks", "unrecognised"]:
    """Whether producers that do not block alternate between two barriers (FlashInfer #3700, mended by #4732)."""
    users = [name for name, text in headers.items() if "bar_arrive_alt<" in text]
    defined = any(re.search(r"void bar_arrive_alt\(", text) for text in headers.values())
    if defined and users:
        return "alternates"
    arrives = any(re.search(r"bar_arrive(?:_t)?\b", text) for text in headers.values())
    return "livelocks" if arrives and not defined else "unrecognised"


def _swap_ab(headers: dict[str, str]) -> Literal["absent", "retires", "hangs"]:
    """Whether the prefill with swapped operands retires threads that no barrier counts (mended by FlashInfer #5048)."""
    texts = [text for name, text in headers.items() if "prefill_swapab" in name]
    if not texts:
        return "absent"
    return "retires" if any(re.search(r"if \(io_tid >= \w+\) return;", text) for text in texts) else "hangs"


def _shapes(folder: Path) -> dict[str, Sm120Shapes]:
    """Return the decode shapes by kernel family, e.g. "DSV3_2", from the table that FlashInfer dispatches by."""
    found: dict[str, Sm120Shapes] = {}
    for path in sorted(folder.rglob("_sparse_mla_sm120*.py")) + sorted((folder / "_sparse_mla_sm120").glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if "_DISPATCH" not in text:
            continue
        most = _CONSTANT.search(text)
        least = _DEFAULT_TOPK.search(text)
        for statement in ast.parse(text).body:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else None
            name = _TABLE.match(target.id) if isinstance(target, ast.Name) else None
            value = statement.value if isinstance(statement, ast.Assign) else None
            if name is None or name.group(1) not in _JUDGED or not isinstance(value, ast.Call) or not value.args:
                continue
            argument = value.args[0]
            if isinstance(argument, ast.Set):
                pairs = ast.literal_eval(argument)
                found[name.group(1)] = Sm120Shapes(pairs=tuple(sorted(pairs)))
            elif most is not None:
                literal = argument.value if isinstance(argument, ast.Constant) else None
                topk = literal if isinstance(literal, int) else int(least.group(1)) if least is not None else None
                if topk is not None:
                    found[name.group(1)] = Sm120Shapes(most_heads=int(most.group(1)), least_topk=topk)
    return found
