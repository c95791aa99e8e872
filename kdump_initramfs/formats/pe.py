"""The headers of a PE file, as far as EFI kernels use them: its machine, its sections, and whether it is signed.

include/linux/pe.h; the PE format of Microsoft, "PE Format", for what is behind the headers.
"""

import struct

from msgspec import Struct

# `uname -m` by the Machine field (include/linux/pe.h: IMAGE_FILE_MACHINE_*).
_MACHINES = {
    0x014C: "i686",
    0x01C2: "armv7l",
    0x5032: "riscv32",
    0x5064: "riscv64",
    0x6232: "loongarch32",
    0x6264: "loongarch64",
    0x8664: "x86_64",
    0xAA64: "aarch64",
}

_FILE_HEADER = struct.Struct("<4sHHIIIHH")
_SECTION = struct.Struct("<8sIIII16x")
# Where the directories begin in the optional header, by its magic: PE32 and PE32+.
_DIRECTORIES = {0x10B: 96, 0x20B: 112}
_CERTIFICATES = 4


class Section(Struct, frozen=True):
    name: str
    # Where its bytes are in the file, and how many of them mean something: the file is padded.
    offset: int
    size_bytes: int


class Pe(Struct, frozen=True, kw_only=True):
    # As `uname -m` says it; "" if unknown.
    machine: str
    sections: tuple[Section, ...]
    # It has an Authenticode signature; whose is not looked at.
    is_signed: bool


def parse(head: bytes) -> Pe | None:
    """Return what the first bytes of a file say, or None where they are no PE file or do not hold its headers."""
    if head[:2] != b"MZ" or len(head) < 0x40:
        return None
    (start,) = struct.unpack_from("<I", head, 0x3C)
    if len(head) < start + _FILE_HEADER.size:
        return None
    magic, machine, count, _, _, _, optional_bytes, _ = _FILE_HEADER.unpack_from(head, start)
    optional = start + _FILE_HEADER.size
    table = optional + optional_bytes
    if magic != b"PE\0\0" or len(head) < table + count * _SECTION.size:
        return None
    sections = [_section(head, table + number * _SECTION.size) for number in range(count)]
    return Pe(
        machine=_MACHINES.get(machine, ""),
        sections=tuple(sections),
        is_signed=_is_signed(head[optional:table]),
    )


def _section(head: bytes, offset: int) -> Section:
    name, virtual_bytes, _, raw_bytes, position = _SECTION.unpack_from(head, offset)
    return Section(
        name=name.rstrip(b"\0").decode("ascii", "replace"),
        offset=position,
        size_bytes=min(virtual_bytes, raw_bytes) or raw_bytes,
    )


def _is_signed(optional: bytes) -> bool:
    """Tell whether the table of certificates has a place and a size."""
    if len(optional) < 2:
        return False
    start = _DIRECTORIES.get(int.from_bytes(optional[:2], "little"))
    if start is None or len(optional) < start + (_CERTIFICATES + 1) * 8:
        return False
    count = int.from_bytes(optional[start - 4 : start], "little")
    place, size = struct.unpack_from("<II", optional, start + _CERTIFICATES * 8)
    return count > _CERTIFICATES and place > 0 and size > 0
