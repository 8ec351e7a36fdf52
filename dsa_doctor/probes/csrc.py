"""vLLM's compiled extensions: which architectures they carry code for, what they lack, and what torch registers."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dsa_doctor.binaries import (
    ElfError,
    FatbinScan,
    PayloadError,
    SharedObject,
    kernel_names,
    mangled_fragment,
    op_schemas,
    scan_fatbins,
)
from dsa_doctor.binaries.fatbin import Buffer
from dsa_doctor.binaries.modules import Modules
from dsa_doctor.cache.trace import Trace
from dsa_doctor.catalog.ops import DSA_OPS, OpNeed
from dsa_doctor.facts.observation import Observation
from dsa_doctor.facts.schema import CodeImages, Csrc, ExtensionModule, OpCode
from dsa_doctor.probes.child import ask
from dsa_doctor.probes.environment import Environment
from dsa_doctor.probes.libraries import LibraryIndex, Linkage, link
from dsa_doctor.processes.child import ChildPool
from dsa_doctor.redaction import redact

_FATBIN_SECTIONS = (".nv_fatbin", "__nv_relfatbin")
_LOAD_TIMEOUT = 120.0
_OPS = frozenset(name for need in DSA_OPS for name in (need.op, need.op.split("::")[1]))
"""Names under which a schema may define an op of the catalog."""


@dataclass(frozen=True)
class _Extension:
    """One file with what was read from it; its bytes, where it defines an op of the catalog."""

    path: Path
    data: Buffer
    scan: FatbinScan
    strings: tuple[int, int]
    fact: ExtensionModule


def probe(environment: Environment, trace: Trace | None = None) -> Observation[Csrc]:
    """Read every compiled module of the installed vLLM, and ask torch's dispatcher where they can be loaded.

    Args:
        environment: where vLLM is looked for, and the interpreter that loads its modules.
        trace: filled with what was loaded.
    """
    trace = trace if trace is not None else Trace()
    root = environment.package_dir("vllm")
    if root is None:
        return Observation[Csrc].absent("vllm is not installed")
    index = LibraryIndex.of(environment)
    modules = environment.modules(root.parent)
    extensions = [_read(path, modules, environment, index) for path in modules.paths("vllm")]
    trace.files.update(index.looked_at)
    homes = {need: _home(need, extensions) for need in DSA_OPS}
    with ChildPool(max_workers=3) as pool:
        dispatcher = pool.submit(_ask_dispatcher, environment, extensions, homes, trace)
        holders = {id(found[0]): found[0] for found in homes.values() if found}
        kernels = dict(zip(holders, pool.map(_architectures_by_op, holders.values()), strict=True))
        loaded, registered = dispatcher.result()
    ops = tuple(
        _op_code(need, found, kernels[id(found[0])] if found else {}, registered.get(need.op))
        for need, found in homes.items()
    )
    return Observation[Csrc].ok(
        Csrc(extensions=tuple(extension.fact for extension in extensions), ops=ops, dispatcher=loaded)
    )


def _read(path: Path, modules: Modules, environment: Environment, index: LibraryIndex) -> _Extension:
    """Read one file; what cannot be read is left empty and said in `problem`."""
    relative = environment.relative(path)
    module = ".".join([*relative.split("/")[:-1], path.name.split(".")[0]])
    data: Buffer = b""
    linkage, strings = Linkage((), ()), (0, 0)
    problem: str | None = None
    try:
        data = modules.read(path)
        file = SharedObject(path, data)
        ranges = [found for name in _FATBIN_SECTIONS if (found := file.section(name))]
        linkage = link(file, index)
        strings = file.section(".rodata") or (0, 0)
    except (ElfError, OSError) as error:
        problem = redact(error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error))
        # Without a section table the fat binaries can still be found by their magic number.
        ranges = [(0, len(data))] if data[:4] == b"\x7fELF" else []
        strings = (0, min(len(data), 1 << 27)) if ranges else (0, 0)
    scans = [scan_fatbins(data, start, end) for start, end in ranges]
    scan = FatbinScan(
        tuple(image for part in scans for image in part.images), tuple(text for part in scans for text in part.problems)
    )
    schemas = op_schemas(data, *strings)
    counts = Counter((image.architecture, image.kind) for image in scan.images)
    fact = ExtensionModule(
        module=module,
        file=relative,
        size_bytes=len(data),
        images=tuple(
            CodeImages(architecture=architecture, kind=kind, count=count)
            for (architecture, kind), count in sorted(counts.items(), key=lambda item: (item[0][1], _order(item[0][0])))
            if kind != "other"
        ),
        unresolved_symbols=linkage.unresolved,
        missing_libraries=linkage.missing_libraries,
        op_schemas=schemas,
        problem="; ".join([*filter(None, [problem]), *scan.problems]) or None,
    )
    kept = data if any(schema.split("(")[0] in _OPS for schema in schemas) else b""
    return _Extension(path, kept, scan, strings, fact)


def _home(need: OpNeed, extensions: list[_Extension]) -> tuple[_Extension, str] | None:
    """Return the extension that defines the op, and its schema; None where no file does."""
    name = need.op.split("::")[1]
    for extension in extensions:
        for schema in extension.fact.op_schemas:
            if schema.split("(")[0] in {name, need.op}:
                return extension, schema
    return None


def _architectures_by_op(extension: _Extension) -> dict[str, set[tuple[str, str]]]:
    """Return, for each op of the catalog, the (kind, architecture) pairs of the images that hold one of its kernels."""
    fragments = {need.op: [mangled_fragment(kernel) for kernel in need.kernels] for need in DSA_OPS}
    # The images of one source file, compiled for several architectures, mostly hold the same kernels.
    known: dict[frozenset[str], list[str]] = {}
    found: dict[str, set[tuple[str, str]]] = {need.op: set() for need in DSA_OPS}
    for image in extension.scan.images:
        try:
            names = kernel_names(extension.data, image)
        except PayloadError:  # its architecture is counted with the extension all the same
            continue
        if names not in known:
            text = "\n".join(names)
            known[names] = [op for op, mangled in fragments.items() if any(_names_it(text, part) for part in mangled)]
        for op in known[names]:
            found[op].add((image.kind, image.architecture))
    return found


def _names_it(text: str, fragment: str) -> bool:
    """Whether a mangled name in `text` holds `fragment` as a whole name: "3foo" is not in "13foo...".

    The plain search comes first, since it is many times faster and nearly always fails.
    """
    return fragment in text and re.search(rf"(?<!\d){fragment}", text) is not None


def _op_code(
    need: OpNeed,
    home: tuple[_Extension, str] | None,
    kernels: dict[str, set[tuple[str, str]]],
    registered: bool | None,
) -> OpCode:
    if home is None:
        return OpCode(op=need.op, extension=None, signature=None, machine_code=(), ptx=(), granularity="extension")
    extension, schema = home
    # An implementation is registered under the op's bare name; without it there is only a schema.
    name = need.op.split("::")[1].encode() + b"\0"
    implemented = extension.data.find(name, *extension.strings) >= 0
    held = kernels[need.op]
    granularity: Literal["kernel", "extension"] = "kernel" if held or not implemented else "extension"
    if granularity == "extension":
        held = {(images.kind, images.architecture) for images in extension.fact.images}
    return OpCode(
        op=need.op,
        extension=extension.fact.module,
        signature=schema,
        implemented=implemented,
        machine_code=_sorted_architectures(held, "machine_code"),
        ptx=_sorted_architectures(held, "ptx"),
        granularity=granularity,
        registered_for_cuda=registered,
    )


def _ask_dispatcher(
    environment: Environment,
    extensions: list[_Extension],
    homes: dict[OpNeed, tuple[_Extension, str] | None],
    trace: Trace,
) -> tuple[Observation[bool], dict[str, bool]]:
    """Load the extensions that hold DSA ops in a child, and return what torch has registered for CUDA, by op."""
    holders = [extension for extension in extensions if any(home and home[0] is extension for home in homes.values())]
    if not holders:
        return Observation[bool].unknown("no extension that holds the ops of a DSA model was found"), {}
    request = {
        "libraries": [str(extension.path.resolve()) for extension in holders],
        "probably_missing": sorted({name for extension in holders for name in extension.fact.missing_libraries}),
        "ops": [need.op for need, home in homes.items() if home],
    }
    result = ask(environment, "dispatcher.py", request, timeout=_LOAD_TIMEOUT, trace=trace)
    if result.status != "answered":
        return Observation[bool].unknown(result.cause, evidence=result.evidence, seconds=result.seconds), {}
    if error := result.answer.get("error"):
        evidence = (redact(environment.shorten(str(error)))[:300],)
        return Observation[bool].unknown(
            "the compiled extensions cannot be loaded on this machine", evidence=evidence, seconds=result.seconds
        ), {}
    registered = result.answer.get("registered")
    if not isinstance(registered, dict) or not all(isinstance(value, bool) for value in registered.values()):
        return Observation[bool].unknown("the dispatcher probe gave no readable answer", seconds=result.seconds), {}
    return Observation[bool].ok(True, seconds=result.seconds), registered


def _order(architecture: str) -> tuple[int, str]:
    number = re.sub(r"\D", "", architecture)
    return (int(number or 0), architecture)


def _sorted_architectures(held: set[tuple[str, str]], kind: str) -> tuple[str, ...]:
    return tuple(sorted((architecture for held_kind, architecture in held if held_kind == kind), key=_order))
