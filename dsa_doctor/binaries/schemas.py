"""Op schemas that a compiled extension hands to torch, found as strings in its read-only data."""

import re

from dsa_doctor.binaries.fatbin import Buffer

_SCHEMA = re.compile(
    rb"([A-Za-z_]\w{0,99}(?:::[A-Za-z_]\w{0,99})?(?:\.\w{1,40})?)"
    rb"(\(\s*(?:\)|(?:Tensor|int|SymInt|str|float|bool|Scalar|ScalarType|Device|Generator|Any|__torch__\.[\w.]+)"
    rb"[\[\]()?!\s\w][^\0]{0,8000}?\))) ?-> ?([(A-Z_a-z][^\0]{0,400})"
)
_ARROW = b"->"
_LONGEST = 10_000
_SPACES = re.compile(r"\s+")


def op_schemas(data: Buffer, start: int, end: int) -> tuple[str, ...]:
    """Return the op schemas in `data[start:end]` with runs of spaces made one, in the order found.

    A name is qualified ("_C::name(...)") only where the file writes it so: ops are usually defined inside a
    TORCH_LIBRARY block that supplies the namespace.
    """
    found: dict[str, None] = {}
    # Few strings hold an arrow, so the plain search for it does nearly all the work.
    arrow = data.find(_ARROW, start, end)
    while arrow >= 0:
        first = data.rfind(b"\0", max(start, arrow - _LONGEST), arrow) + 1
        last = data.find(b"\0", arrow, min(end, arrow + _LONGEST))
        if first and last > 0 and (match := _SCHEMA.fullmatch(data[first:last])):
            name, arguments, result = match.groups()
            found[f"{name.decode()}{_one_spaced(arguments)} -> {_one_spaced(result)}"] = None
        arrow = data.find(_ARROW, max(arrow + 1, last), end)
    return tuple(found)


def _one_spaced(text: bytes) -> str:
    return _SPACES.sub(" ", text.decode("ascii", "replace")).strip().replace("( ", "(").replace(" )", ")")
