"""Tiny ELF files for tests: just the headers, and a dynamic segment or a .modinfo section."""

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 10, 14, 15, 29
# Where the one segment is mapped: not where it lies in the file, so that a reader must tell the two apart.
_ADDRESS = 0x10000


class Machine(NamedTuple):
    """What files are made for."""

    # e_machine, EM_ in elf.h.
    number: int
    bits: int
    big: bool = False


I386 = Machine(3, 32)
S390X = Machine(22, 64, big=True)
X86_64 = Machine(62, 64)
X32 = Machine(62, 32)
AARCH64 = Machine(183, 64)
PPC64 = Machine(21, 64, big=True)
PPC64LE = Machine(21, 64)
RISCV64 = Machine(243, 64)


class _Layout:
    """The headers for one machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.bits = machine.bits
        self.order = ">" if machine.big else "<"
        self.word = "Q" if self.bits == 64 else "I"
        self.header_bytes, self.segment_bytes, self.section_bytes = (64, 56, 64) if self.bits == 64 else (52, 32, 40)

    def header(self, *, phnum: int = 0, shoff: int = 0, shnum: int = 0) -> bytes:
        ident = b"\x7fELF" + bytes([2 if self.bits == 64 else 1, 2 if self.order == ">" else 1, 1]) + bytes(9)
        phoff = self.header_bytes if phnum else 0
        sizes = (self.header_bytes, self.segment_bytes, phnum, self.section_bytes, shnum, max(shnum - 1, 0))
        fields = struct.pack(f"{self.order}HHI3{self.word}I6H", 3, self.machine.number, 1, 0, phoff, shoff, 0, *sizes)
        return ident + fields

    def segment(self, kind: int, offset: int, size: int) -> bytes:
        address = _ADDRESS + offset
        if self.bits == 64:
            return struct.pack(f"{self.order}2I6Q", kind, 4, offset, address, address, size, size, 8)
        return struct.pack(f"{self.order}8I", kind, offset, address, address, size, size, 4, 4)

    def section(self, name: int, kind: int, offset: int, size: int) -> bytes:
        return struct.pack(f"{self.order}2I4{self.word}2I2{self.word}", name, kind, 0, 0, offset, size, 0, 0, 1, 0)


def program(
    *,
    needed: Sequence[str] = (),
    interpreter: str = "",
    soname: str = "",
    rpath: str = "",
    runpath: str = "",
    machine: Machine = X86_64,
    is_static: bool = False,
) -> bytes:
    """Return a program, or a library if it has no interpreter."""
    layout = _Layout(machine)
    strings = bytearray(b"\0")
    entries: list[tuple[int, int]] = []
    texts = [(_DT_NEEDED, name) for name in needed]
    texts += [(_DT_SONAME, soname), (_DT_RPATH, rpath), (_DT_RUNPATH, runpath)]
    for tag, text in texts:
        if text:
            entries.append((tag, len(strings)))
            strings += text.encode() + b"\0"
    phnum = 1 if is_static else 2 + bool(interpreter)
    start = layout.header_bytes + phnum * layout.segment_bytes
    dynamic = start + len(interpreter) + 1
    dynamic += -dynamic % 8
    size = (len(entries) + 3) * 2 * machine.bits // 8
    entries += [(_DT_STRTAB, _ADDRESS + dynamic + size), (_DT_STRSZ, len(strings)), (_DT_NULL, 0)]
    table = b"".join(struct.pack(f"{layout.order}2{layout.word}", *entry) for entry in entries)
    end = dynamic + len(table) + len(strings)
    segments = layout.segment(_PT_LOAD, 0, end)
    if not is_static:
        segments += layout.segment(_PT_DYNAMIC, dynamic, len(table))
        if interpreter:
            segments += layout.segment(_PT_INTERP, start, len(interpreter) + 1)
    head = layout.header(phnum=phnum) + segments + interpreter.encode() + b"\0"
    return head.ljust(dynamic, b"\0") + table + bytes(strings)


def module(*pairs: tuple[str, str], machine: Machine = X86_64, name: str = ".modinfo") -> bytes:
    """Return a kernel module with a .modinfo section."""
    content = b"".join(f"{key}={value}\0".encode() for key, value in pairs)
    return with_section(name, content, machine=machine)


def calling(
    *symbols: str, pairs: Sequence[tuple[str, str]] = (), own: Sequence[str] = (), machine: Machine = X86_64
) -> bytes:
    """Return a kernel module that takes symbols from elsewhere, and has others of its own."""
    layout = _Layout(machine)
    names, table = bytearray(b"\0"), bytearray(24 if layout.bits == 64 else 16)
    for symbol, section in [*((each, 0) for each in symbols), *((each, 1) for each in own)]:
        if layout.bits == 64:
            table += struct.pack(f"{layout.order}IBBHQQ", len(names), 0x10, 0, section, 0, 0)
        else:
            table += struct.pack(f"{layout.order}IIIBBH", len(names), 0, 0, 0x10, 0, section)
        names += symbol.encode() + b"\0"
    info = b"".join(f"{key}={value}\0".encode() for key, value in pairs)
    return with_sections({".modinfo": info, ".symtab": bytes(table), ".strtab": bytes(names)}, machine=machine)


def with_section(name: str, content: bytes, *, machine: Machine = X86_64) -> bytes:
    """Return a file with a section of that name."""
    return with_sections({name: content}, machine=machine)


def with_sections(sections: Mapping[str, bytes], *, machine: Machine = X86_64) -> bytes:
    """Return a file with sections of these names."""
    layout = _Layout(machine)
    names = b"\0.text\0" + b"".join(f"{name}\0".encode() for name in sections) + b".shstrtab\0"
    headers = layout.section(0, 0, 0, 0) + layout.section(1, 1, layout.header_bytes, 0)
    content = b""
    for name, each in sections.items():
        start = layout.header_bytes + len(content)
        headers += layout.section(names.index(f"\0{name}\0".encode()) + 1, 1, start, len(each))
        content += each
    start = layout.header_bytes + len(content)
    headers += layout.section(names.index(b"\0.shstrtab\0") + 1, 3, start, len(names))
    shoff = start + len(names)
    shoff += -shoff % 8
    body = layout.header(shoff=shoff, shnum=3 + len(sections)) + content + names
    return body.ljust(shoff, b"\0") + headers
