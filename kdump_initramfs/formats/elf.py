"""What an ELF file says of itself: its machine, what the dynamic linker must find for it, a module's .modinfo.

elf(5). Programs and libraries are read by their program headers and dynamic segment only, as the kernel and ld.so do:
section headers may be stripped. The structures are pyelftools' own; its ELFFile is left aside because it imports the
DWARF reader and decodes every section, which is most of the cost.
"""

import os
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from msgspec import Struct

from kdump_initramfs.errors import HostError

if TYPE_CHECKING:
    from elftools.elf.structs import ELFStructs

MAGIC = b"\x7fELF"
_EI_CLASS, _EI_DATA = 4, 5  # positions in e_ident
_E_MACHINE = slice(18, 20)
_SIZES = {32: 52, 64: 64}  # of the header
_MAX_NAMES_BYTES = 1 << 20  # of the names of sections

# `uname -m` by e_machine (elf.h), word size and byte order; x86_64 with 32 bits is x32.
_MACHINES = {
    (3, 32, "little"): "i686",
    (62, 64, "little"): "x86_64",
    (62, 32, "little"): "x86_64",
    (183, 64, "little"): "aarch64",
    (183, 64, "big"): "aarch64_be",
    (40, 32, "little"): "armv7l",
    (40, 32, "big"): "armv7b",
    (21, 64, "little"): "ppc64le",
    (21, 64, "big"): "ppc64",
    (20, 32, "big"): "ppc",
    (22, 64, "big"): "s390x",
    (22, 32, "big"): "s390",
    (243, 64, "little"): "riscv64",
    (243, 32, "little"): "riscv32",
    (258, 64, "little"): "loongarch64",
    (8, 64, "little"): "mips64",
    (8, 64, "big"): "mips64",
    (8, 32, "little"): "mips",
    (8, 32, "big"): "mips",
    (43, 64, "big"): "sparc64",
    (15, 32, "big"): "parisc",
}


class ElfFile(Struct, frozen=True, kw_only=True):
    """A program or library, as far as the dynamic linker is concerned."""

    # As `uname -m` says it.
    machine: str
    bits: Literal[32, 64]
    endianness: Literal["little", "big"]
    # PT_INTERP: the dynamic linker; "" in a library or a static program.
    interpreter: str
    # DT_NEEDED, in order.
    needed: tuple[str, ...]
    # DT_RPATH and DT_RUNPATH, split at colons, tokens such as $ORIGIN as they are.
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]
    # DT_SONAME, or "".
    soname: str


class _BrokenError(Exception):
    """The file is not what its headers promise; becomes a HostError with the path."""


def read(stream: BinaryIO, path: str) -> ElfFile:
    """Return the facts of the ELF file in `stream`; `path` is for messages. Reads a few KiB of it."""
    try:
        return _read(stream, path)
    except _BrokenError as error:
        raise HostError(f"{path}: {error}", hint="reinstall the package that it belongs to") from None


def modinfo(module: bytes, path: str) -> tuple[tuple[str, str], ...]:
    """Return the (key, value) pairs of a kernel module (unpacked); keys such as firmware come more than once.

    The section holds NUL-terminated key=value strings (include/linux/moduleparam.h: __MODULE_INFO).
    """
    try:
        section = _section(module, b".modinfo")
    except _BrokenError as error:
        raise HostError(f"{path}: {error}", hint="reinstall the package of the kernel") from None
    pairs = (entry.partition("=") for entry in section.decode("utf-8", "surrogateescape").split("\0") if entry)
    return tuple((key, value) for key, _, value in pairs)


def undefined_symbols(module: bytes, path: str) -> frozenset[str]:
    """Return the symbols that a kernel module (unpacked) takes from elsewhere: what it calls (elf(5): SHN_UNDEF)."""
    try:
        bits, order = _kind(module[:16])
        table, names = _section(module, b".symtab"), _section(module, b".strtab")
    except _BrokenError as error:
        raise HostError(f"{path}: {error}", hint="reinstall the package that it belongs to") from None
    # Elf64_Sym has st_shndx at 6, Elf32_Sym at 14.
    size, position = (24, 6) if bits == 64 else (16, 14)
    symbols = (table[at : at + size] for at in range(0, len(table) - size + 1, size))
    starts = (int.from_bytes(each[:4], order) for each in symbols if not any(each[position : position + 2]))
    ends = ((start, names.find(b"\0", start)) for start in starts)
    return frozenset(names[start:end].decode("utf-8", "surrogateescape") for start, end in ends if end > start)


def machine(head: bytes, path: str) -> str:
    """Return the machine that a file is for, as `uname -m` says it, from its first bytes; its number if it is unknown.

    Without pyelftools, whose import takes longer than all else that is done with a file of which this is asked.
    """
    try:
        bits, order = _kind(head)
        number = int.from_bytes(_slice(head, 0, _SIZES[bits])[_E_MACHINE], order)
    except _BrokenError as error:
        raise HostError(f"{path}: {error}", hint="reinstall the package that it belongs to") from None
    return _MACHINES.get((number, bits, order), str(number))


def find_section(stream: BinaryIO, name: bytes, path: str) -> tuple[int, int] | None:
    """Return where in the file a section is and how many bytes it has, or None where there is none of that name."""
    try:
        structs = _layout(_take(stream, 0, 16))
        header: Any = structs.Elf_Ehdr.parse(_take(stream, 0, structs.Elf_Ehdr.sizeof()))
        size = structs.Elf_Shdr.sizeof()
        table = _take(stream, header["e_shoff"], header["e_shnum"] * size)
        sections: list[Any] = [structs.Elf_Shdr.parse(table[at : at + size]) for at in range(0, len(table), size)]
        if header["e_shstrndx"] >= len(sections):
            return None
        names = sections[header["e_shstrndx"]]
        text = _take(stream, names["sh_offset"], min(names["sh_size"], _MAX_NAMES_BYTES))
    except _BrokenError as error:
        raise HostError(f"{path}: {error}", hint="reinstall the package that it belongs to") from None
    found = (each for each in sections if text.startswith(name + b"\0", each["sh_name"]))
    return next(((each["sh_offset"], each["sh_size"]) for each in found), None)


def _read(stream: BinaryIO, path: str) -> ElfFile:
    ident = _take(stream, 0, 16)
    bits, endianness = _kind(ident)
    structs = _layout(ident)
    head = _take(stream, 0, structs.Elf_Ehdr.sizeof())
    segments = list(_segments(stream, structs, structs.Elf_Ehdr.parse(head)))
    interpreter = ""
    dynamic: dict[str, list[str]] = {}
    for segment in segments:
        if segment["p_type"] == "PT_INTERP":
            interpreter = _text(_take(stream, segment["p_offset"], segment["p_filesz"]))
        elif segment["p_type"] == "PT_DYNAMIC":
            dynamic = _dynamic(stream, structs, segment, segments)
    return ElfFile(
        machine=machine(head, path),
        bits=bits,
        endianness=endianness,
        interpreter=interpreter,
        needed=tuple(dynamic.get("DT_NEEDED", ())),
        rpath=_split_path(dynamic.get("DT_RPATH")),
        runpath=_split_path(dynamic.get("DT_RUNPATH")),
        soname="".join(dynamic.get("DT_SONAME", [])[-1:]),
    )


def _kind(ident: bytes) -> tuple[Literal[32, 64], Literal["little", "big"]]:
    """Return the word size and byte order that e_ident names."""
    if ident[:4] != MAGIC or len(ident) <= _EI_DATA:
        raise _BrokenError("not an ELF file")
    sizes: dict[int, Literal[32, 64]] = {1: 32, 2: 64}
    orders: dict[int, Literal["little", "big"]] = {1: "little", 2: "big"}
    bits, order = sizes.get(ident[_EI_CLASS]), orders.get(ident[_EI_DATA])
    if bits is None or order is None:
        raise _BrokenError("an ELF file of unknown class or byte order")
    return bits, order


def _layout(ident: bytes) -> "ELFStructs":
    bits, order = _kind(ident)
    return _structs(bits, little_endian=order == "little")


@cache
def _structs(bits: int, *, little_endian: bool) -> "ELFStructs":
    """Return the structures for that word size and byte order."""
    from elftools.elf.structs import ELFStructs  # noqa: PLC0415 - 25 ms that few subcommands need to pay

    structs = ELFStructs(little_endian=little_endian, elfclass=bits)
    structs.create_basic_structs()
    # No machine: its own segment types and dynamic tags are of no interest here.
    structs.create_advanced_structs()
    return structs


def _segments(stream: BinaryIO, structs: "ELFStructs", header: Any) -> Iterator[Any]:
    size = structs.Elf_Phdr.sizeof()
    if header["e_phnum"] and header["e_phentsize"] != size:
        raise _BrokenError(f"program headers of {header['e_phentsize']} bytes")
    table = _take(stream, header["e_phoff"], header["e_phnum"] * size)
    for offset in range(0, len(table), size):
        yield structs.Elf_Phdr.parse(table[offset : offset + size])


def _dynamic(stream: BinaryIO, structs: "ELFStructs", segment: Any, segments: list[Any]) -> dict[str, list[str]]:
    """Return the strings of the dynamic segment by tag (DT_NEEDED, DT_SONAME, DT_RPATH, DT_RUNPATH)."""
    size = structs.Elf_Dyn.sizeof()
    table = _take(stream, segment["p_offset"], segment["p_filesz"])
    offsets: list[tuple[str, int]] = []
    numbers: dict[str, int] = {}
    for offset in range(0, len(table) - size + 1, size):
        entry: Any = structs.Elf_Dyn.parse(table[offset : offset + size])
        tag = entry["d_tag"]
        if tag == "DT_NULL":
            break
        if tag in {"DT_NEEDED", "DT_SONAME", "DT_RPATH", "DT_RUNPATH"}:
            offsets.append((tag, entry["d_val"]))
        elif tag in {"DT_STRTAB", "DT_STRSZ"}:
            numbers[tag] = entry["d_val"]
    if not offsets:
        return {}
    strings = _strings(stream, numbers, segments)
    found: dict[str, list[str]] = {}
    for tag, position in offsets:
        if position >= len(strings):
            raise _BrokenError(f"{tag} points outside the string table")
        found.setdefault(tag, []).append(_text(strings[position : strings.find(b"\0", position)]))
    return found


def _strings(stream: BinaryIO, numbers: dict[str, int], segments: list[Any]) -> bytes:
    """Return the dynamic string table, with a NUL at its end; DT_STRTAB is an address, not a position in the file."""
    address, size = numbers.get("DT_STRTAB"), numbers.get("DT_STRSZ")
    if address is None or size is None:
        raise _BrokenError("a dynamic segment without string table")
    for segment in segments:
        start = segment["p_vaddr"]
        if segment["p_type"] == "PT_LOAD" and start <= address < start + segment["p_filesz"]:
            return _take(stream, segment["p_offset"] + address - start, size) + b"\0"
    raise _BrokenError("the dynamic string table lies in no segment")


def _split_path(values: list[str] | None) -> tuple[str, ...]:
    """Split the last value at its colons: ld.so keeps the last of several entries with one tag."""
    return tuple(part for part in values[-1].split(":") if part) if values else ()


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _take(stream: BinaryIO, offset: int, count: int) -> bytes:
    """Return `count` bytes at `offset`; the end is checked first, so that a false size reserves no memory."""
    if offset + count > stream.seek(0, os.SEEK_END):
        raise _BrokenError("truncated ELF file")
    stream.seek(offset)
    return stream.read(count)


def _section(data: bytes, name: bytes) -> bytes:
    """Return the content of the section `name`.

    Only the name of each section header is looked at until the right one is found: a module has about 50.
    """
    structs = _layout(data[:16].ljust(16, b"\0"))
    header_size = structs.Elf_Ehdr.sizeof()
    if len(data) < header_size:
        raise _BrokenError("truncated ELF file")
    header: Any = structs.Elf_Ehdr.parse(data[:header_size])
    size = structs.Elf_Shdr.sizeof()
    table = _slice(data, header["e_shoff"], header["e_shnum"] * size)
    headers = [table[offset : offset + size] for offset in range(0, len(table), size)]
    if header["e_shstrndx"] >= len(headers):
        raise _BrokenError("an ELF file without section names")
    names = _content(data, structs.Elf_Shdr.parse(headers[header["e_shstrndx"]]))
    order: Literal["little", "big"] = "little" if structs.little_endian else "big"
    for each in headers:
        if names.startswith(name + b"\0", int.from_bytes(each[:4], order)):  # sh_name
            return _content(data, structs.Elf_Shdr.parse(each))
    raise _BrokenError(f"no section {name.decode()}")


def _content(data: bytes, section: Any) -> bytes:
    return _slice(data, section["sh_offset"], section["sh_size"])


def _slice(data: bytes, offset: int, count: int) -> bytes:
    if offset + count > len(data):
        raise _BrokenError("truncated ELF file")
    return data[offset : offset + count]
