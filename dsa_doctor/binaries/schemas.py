"""Op schemas that a compiled extension hands to torch, found as strings in its read-only data."""

import re

from dsa_doctor.binaries.fatbin import Buffer

_SCHEMA = re.compile(
    rb"(?<=\0)([A-Za-z_]\w{0,99}(?:::[A-Za-z_]\w{0,99})?(?:\.\w{1,40})?)"
    rb"(\(\s*(?:\)|(?:Tensor|int|SymInt|str|float|bool|Scalar|ScalarType|Device|Generator|Any|__torch__\.[\w.]+)"
    rb"[\[\]()?!\s\w][^\0]{0,8000}?\))) ?-> ?([(A-Z_a-z][^\0]{0,400})(?=\0)"
)
_SPACES = re.compile(r"\s+")


def op_schemas(data: Buffer, start: int, end: int) -> tuple[str, ...]:
    """Return the op schemas in `data[start:end]` with runs of spaces made one, in the order found.

    A name is qualified ("_C::name(...)") only where the file writes it so: ops are usually defined inside a
    TORCH_LIBRARY block that supplies the namespace.
    """
    found = dict.fromkeys(
        f"{name.decode()}{_one_spaced(arguments)} -> {_one_spaced(result)}"
        for name, arguments, result in _SCHEMA.findall(data[start:end])
    )
    return tuple(found)


def _one_spaced(text: bytes) -> str:
    return _SPACES.sub(" ", text.decode("ascii", "replace")).strip().replace("( ", "(").replace(" )", ")")
