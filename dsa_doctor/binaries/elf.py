"""Reads a shared object: its sections, the libraries it needs, and the symbols it lacks or provides."""

import mmap
import struct
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from elftools.elf.elffile import ELFFile

_SYMBOL = struct.Struct("<IBBHQQ")
_WEAK = 2


class ElfError(ValueError):
    """The file is not a 64-bit little-endian ELF file, or is damaged."""


class SharedObject:
    """A shared object, mapped into memory and read on demand.

    Raises:
        ElfError: on construction, where the section table cannot be read; `open_bytes` still maps such a file.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = open_bytes(path)
        if self.data[:4] != b"\x7fELF":
            raise ElfError("empty file" if not len(self.data) else "not an ELF file")
        self._sections: dict[str, tuple[int, int]] = {}
        self.needed: tuple[str, ...] = ()
        self.run_path: tuple[str, ...] = ()
        with path.open("rb") as stream:
            try:
                elf = ELFFile(stream)
                if elf.elfclass != 64 or not elf.little_endian:
                    raise ElfError("not a 64-bit little-endian ELF file")
                for section in elf.iter_sections():
                    size = section["sh_size"]
                    if section["sh_type"] == "SHT_NOBITS":
                        continue
                    if section["sh_offset"] + size > len(self.data):
                        raise ElfError(f"truncated: section {section.name} ends beyond the file")
                    self._sections[section.name] = (section["sh_offset"], size)
                    if section["sh_type"] == "SHT_DYNAMIC":
                        self._read_dynamic(section)
            except ElfError:
                raise
            except Exception as error:  # pyelftools lets many kinds of error out of a damaged file
                raise ElfError(f"truncated or damaged: {type(error).__name__}: {error}"[:200]) from error
        if not self._sections:
            raise ElfError("truncated or stripped: no section table")

    def _read_dynamic(self, section: object) -> None:
        needed: list[str] = []
        for tag in section.iter_tags():  # type: ignore[attr-defined]
            if tag.entry.d_tag == "DT_NEEDED":
                needed.append(tag.needed)
            elif tag.entry.d_tag in {"DT_RUNPATH", "DT_RPATH"}:
                text = tag.runpath if tag.entry.d_tag == "DT_RUNPATH" else tag.rpath
                self.run_path = (*self.run_path, *filter(None, text.split(":")))
        self.needed = tuple(needed)

    def section(self, name: str) -> tuple[int, int] | None:
        """Return the start and end offsets of a section in the file, or None."""
        found = self._sections.get(name)
        return None if found is None else (found[0], found[0] + found[1])

    def undefined_symbols(self) -> tuple[str, ...]:
        """Return the names that the file needs from elsewhere, weak ones excepted: the loader lets those be null."""
        return tuple(
            name
            for name, info, section_index in self._dynamic_symbols()
            if section_index == 0 and info >> 4 != _WEAK and name
        )

    def provided(self, names: Iterable[str]) -> set[str]:
        """Return those of `names` that the file exports.

        Raises:
            ElfError: the hash table is damaged.
        """
        if (table := self.section(".gnu.hash")) is None:
            return set(self._exported.intersection(names))
        try:
            return {name for name in names if self._hash_lookup(table, name.encode())}
        except (struct.error, ZeroDivisionError, KeyError) as error:
            raise ElfError(f"damaged: the symbol hash table leads astray ({type(error).__name__})") from error

    @cached_property
    def _exported(self) -> frozenset[str]:
        return frozenset(name for name, _, section_index in self._dynamic_symbols() if section_index != 0)

    def _dynamic_symbols(self) -> list[tuple[str, int, int]]:
        """Return name, info and section index of every dynamic symbol but the first, which is null."""
        symbols, strings = self.section(".dynsym"), self.section(".dynstr")
        if symbols is None or strings is None:
            return []
        table = self.data[symbols[0] : symbols[1] - (symbols[1] - symbols[0]) % _SYMBOL.size]
        text = self.data[strings[0] : strings[1]]
        return [
            (text[name : text.find(b"\0", name)].decode("utf-8", "replace"), info, section_index)
            for name, info, _, section_index, _, _ in list(_SYMBOL.iter_unpack(table))[1:]
        ]

    def _hash_lookup(self, table: tuple[int, int], name: bytes) -> bool:
        """Look `name` up as the dynamic loader does: Bloom filter, bucket, chain (the GNU hash section's layout)."""
        start, end = table
        symbols, strings = self._sections[".dynsym"], self._sections[".dynstr"]
        bucket_count, first_symbol, bloom_count, bloom_shift = struct.unpack_from("<4I", self.data, start)
        hashed = gnu_hash(name)
        word = self._word("<Q", start + 16 + 8 * ((hashed >> 6) % bloom_count))
        if not (word >> (hashed & 63)) & (word >> ((hashed >> bloom_shift) & 63)) & 1:
            return False
        buckets = start + 16 + 8 * bloom_count
        chains = buckets + 4 * bucket_count
        index = self._word("<I", buckets + 4 * (hashed % bucket_count))
        if index < first_symbol:
            return False
        while (place := chains + 4 * (index - first_symbol)) + 4 <= end:
            stored = self._word("<I", place)
            if stored | 1 == hashed | 1:
                name_offset = strings[0] + self._word("<I", symbols[0] + _SYMBOL.size * index)
                if self.data[name_offset : name_offset + len(name) + 1] == name + b"\0":
                    return True
            if stored & 1:
                return False
            index += 1
        return False

    def _word(self, layout: str, offset: int) -> int:
        value: int = struct.unpack_from(layout, self.data, offset)[0]
        return value


def open_bytes(path: Path) -> bytes | mmap.mmap:
    """Return the file's bytes, mapped rather than read; an empty file gives empty bytes."""
    with path.open("rb") as stream:
        if path.stat().st_size == 0:
            return b""
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def gnu_hash(name: bytes) -> int:
    """Return the hash of a symbol name in a GNU hash section."""
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value
