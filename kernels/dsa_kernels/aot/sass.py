"""What a cubin says about itself, read with the disassembler in Triton's wheel."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_INSTRUCTION = re.compile(r"^\s*/\*(?P<address>[0-9a-f]{4,})\*/\s+(?P<text>[^;]+);")
_BRANCH_TARGET = re.compile(r"\bBRA(?:\.\w+)*\s+.*?(0x[0-9a-f]+)\b")
_GLOBAL_LOAD = re.compile(r"\b(LDG|LDGSTS)((?:\.\w+)*)\s")
_RESOURCES = re.compile(r"REG:(\d+)\s+STACK:(\d+)\s+SHARED:(\d+)\s+LOCAL:(\d+)")


@dataclass(frozen=True)
class Resources:
    """Registers of a thread and bytes of its stack frame (spilled registers live there)."""

    registers: int
    stack_bytes: int


@dataclass(frozen=True)
class LoopLoads:
    """Loads from global memory inside loops: instruction count by width in bytes."""

    by_width: tuple[tuple[int, int], ...]

    @property
    def wide_share(self) -> float:
        """Share of the bytes that 16-byte loads move, 0 when the loops load nothing."""
        total = sum(width * count for width, count in self.by_width)
        wide = sum(width * count for width, count in self.by_width if width == 16)
        return wide / total if total else 0.0

    @property
    def narrowest(self) -> int:
        """Width in bytes of the narrowest load, 0 when the loops load nothing."""
        return min((width for width, count in self.by_width if count), default=0)


def _tool_folder() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def _cuobjdump(cubin: bytes, *options: str) -> str:
    folder = _tool_folder()
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "kernel.cubin"
        path.write_bytes(cubin)
        done = subprocess.run(
            [str(folder / "cuobjdump"), *options, str(path)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=120,
        )
    if done.returncode != 0:
        raise RuntimeError(f"cuobjdump {' '.join(options)} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def disassemble(cubin: bytes) -> str:
    """SASS text of a cubin."""
    return _cuobjdump(cubin, "-sass")


def read_resources(cubin: bytes) -> Resources:
    """Registers and stack bytes of the one kernel in a cubin."""
    found = [tuple(map(int, match.groups())) for match in _RESOURCES.finditer(_cuobjdump(cubin, "-res-usage"))]
    if not found:
        raise RuntimeError("cuobjdump -res-usage printed no resources")
    return Resources(
        registers=max(entry[0] for entry in found), stack_bytes=max(entry[1] + entry[3] for entry in found)
    )


def _width(modifiers: str) -> int:
    parts = modifiers.split(".")
    for part, width in (("128", 16), ("64", 8), ("U16", 2), ("S16", 2), ("U8", 1), ("S8", 1)):
        if part in parts:
            return width
    return 4


def loop_loads(sass: str) -> LoopLoads:
    """Count the global loads that lie between a backward branch and its target."""
    instructions: list[tuple[int, str]] = []
    loops: list[tuple[int, int]] = []
    for line in sass.splitlines():
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        address, text = int(match["address"], 16), match["text"]
        instructions.append((address, text))
        branch = _BRANCH_TARGET.search(text)
        # A branch to itself is the padding at the end of a kernel.
        if branch and int(branch[1], 16) < address:
            loops.append((int(branch[1], 16), address))
    counts: dict[int, int] = {}
    for address, text in instructions:
        load = _GLOBAL_LOAD.search(text)
        if load and any(first <= address <= last for first, last in loops):
            width = _width(load[2])
            counts[width] = counts.get(width, 0) + 1
    return LoopLoads(by_width=tuple(sorted(counts.items())))
