"""Reads a shared object: its sections, the libraries it needs, and the symbols it lacks or provides."""

import mmap
import struct
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_DYNAMIC = struct.Struct("<qQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_WEAK = 2
_NOBITS, _DYNAMIC_SECTION = 8, 6
_NULL, _NEEDED, _RPATH, _RUNPATH = 0, 1, 15, 29

# A file may claim anything. Real ones stay far below: vLLM's and torch's have 40 sections and 300,000 symbols.
_MOST_SECTIONS = 4096
_MOST_TAGS = 4096
_MOST_SYMBOLS = 4_000_000
_LONGEST_NAME = 1 << 16
_MOST_NAME_BYTES = 1 << 29
_CHAIN_STEPS = 64
"""Steps in the hash table for one name, on average; real chains have five."""


class ElfError(ValueError):
    """The file is not a 64-bit little-endian ELF file, or is damaged."""


class SharedObject:
    """A shared object, mapped into memory and read on demand; time and memory are bounded whatever it claims.

    Args:
        path: where it lies, or would lie.
        data: its bytes, where they come from elsewhere.

    Raises:
        ElfError: on construction, where the section table cannot be read; `open_bytes` still maps such a file.
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, data: bytes | mmap.mmap | None = None) -> None:
        self.path = path
        self.data = open_bytes(path) if data is None else data
        if self.data[:4] != b"\x7fELF":
            raise ElfError("empty file" if not len(self.data) else "not an ELF file")
        self._sections: dict[str, tuple[int, int]] = {}
        self.needed: tuple[str, ...] = ()
        self.run_path: tuple[str, ...] = ()
        try:
            self._read_sections()
        except (struct.error, OverflowError) as error:
            raise ElfError("truncated or damaged: its headers end beyond the file") from error
        if not self._sections:
            raise ElfError("truncated or stripped: no section table")

    def _read_sections(self) -> None:
        ident, *_, table, _, _, _, _, size, count, names_index = _HEADER.unpack_from(self.data)
        if ident[4:6] != b"\2\1":
            raise ElfError("not a 64-bit little-endian ELF file")
        if not table:
            return
        if size != _SECTION.size:
            raise ElfError(f"truncated or damaged: section headers of {size} bytes")
        first = _SECTION.unpack_from(self.data, table)
        count = count or first[5]  # counts too large for the header stand in the first section's
        names_index = first[6] if names_index == 0xFFFF else names_index
        if count > _MOST_SECTIONS or names_index >= count:
            raise ElfError(f"truncated or damaged: {count} sections, their names in number {names_index}")
        headers = [_SECTION.unpack_from(self.data, table + index * _SECTION.size) for index in range(count)]
        names = headers[names_index][4:6]
        for name_offset, kind, _, _, offset, length, link, *_ in headers:
            if kind == _NOBITS:
                continue
            name = self._text(names, name_offset)
            if offset + length > len(self.data):
                raise ElfError(f"truncated: section {name} ends beyond the file")
            self._sections[name] = (offset, length)
            if kind == _DYNAMIC_SECTION and link < count:
                self._read_dynamic((offset, length), headers[link][4:6])

    def _read_dynamic(self, section: tuple[int, int], strings: tuple[int, int]) -> None:
        needed: list[str] = []
        run_path: list[str] = []
        for index in range(min(section[1] // _DYNAMIC.size, _MOST_TAGS)):
            tag, value = _DYNAMIC.unpack_from(self.data, section[0] + index * _DYNAMIC.size)
            if tag == _NULL:
                break
            if tag == _NEEDED:
                needed.append(self._text(strings, value))
            elif tag in {_RPATH, _RUNPATH}:
                run_path += filter(None, self._text(strings, value).split(":"))
        self.needed, self.run_path = tuple(needed), tuple(run_path)

    def _text(self, strings: tuple[int, int], offset: int) -> str:
        """Return the string at an offset of a string table, given by its start and length in the file."""
        start, last = strings[0] + offset, min(strings[0] + strings[1], len(self.data))
        end = self.data.find(b"\0", start, min(last, start + _LONGEST_NAME)) if start < last else -1
        if end < 0:
            raise ElfError("truncated or damaged: a name lies beyond its table, or does not end")
        return self.data[start:end].decode("utf-8", "replace")

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
        wanted = list(names)
        self._steps = _CHAIN_STEPS * (len(wanted) + 1000)
        try:
            return {name for name in wanted if self._hash_lookup(table, name.encode())}
        except (struct.error, OverflowError, ZeroDivisionError, KeyError) as error:
            raise ElfError(f"damaged: the symbol hash table leads astray ({type(error).__name__})") from error

    @cached_property
    def _exported(self) -> frozenset[str]:
        return frozenset(name for name, _, section_index in self._dynamic_symbols() if section_index != 0)

    def _dynamic_symbols(self) -> list[tuple[str, int, int]]:
        """Return name, info and section index of every dynamic symbol but the first, which is null."""
        symbols, strings = self.section(".dynsym"), self.section(".dynstr")
        if symbols is None or strings is None:
            return []
        count = (symbols[1] - symbols[0]) // _SYMBOL.size
        if count > _MOST_SYMBOLS:
            raise ElfError(f"damaged: {count} symbols")
        table = self.data[symbols[0] : symbols[0] + count * _SYMBOL.size]
        text = self.data[strings[0] : strings[1]]
        found, total = [], 0
        for name, info, _, section_index, _, _ in list(_SYMBOL.iter_unpack(table))[1:]:
            end = text.find(b"\0", name, name + _LONGEST_NAME)
            total += (end if end >= 0 else name + _LONGEST_NAME) - name
            if total > _MOST_NAME_BYTES:
                raise ElfError("damaged: the names of its symbols do not end")
            found.append((text[name:end].decode("utf-8", "replace") if end >= 0 else "", info, section_index))
        return found

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
            self._steps -= 1
            if self._steps < 0:
                raise ElfError("damaged: the symbol hash table does not end")
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
