"""Tiny kernel images for tests: the headers that a boot loader reads, and something packed behind them."""

import bz2
import gzip
import lzma
import struct
from collections.abc import Mapping

import zstandard

from tests import elfmaker

PE_MACHINES = {"i686": 0x14C, "x86_64": 0x8664, "aarch64": 0xAA64, "riscv64": 0x5064, "loongarch64": 0x6264}
_IMAGE_MAGICS = {"aarch64": b"ARM\x64", "riscv64": b"RSC\x05", "loongarch64": b"\xcd\x23\x82\x81"}
_OPTIONAL_BYTES = 112 + 16 * 8
_SECTIONS_START = 0x1000


def pack(kind: str, content: bytes) -> bytes:
    """Return what a kernel build makes of a kernel: the size of the content follows (cmd_file_size, Makefile.lib)."""
    packed = {
        "gzip": lambda: gzip.compress(content, mtime=0),
        "bzip2": lambda: bz2.compress(content),
        "xz": lambda: lzma.compress(content, check=lzma.CHECK_CRC32),
        "lzma": lambda: lzma.compress(content, lzma.FORMAT_ALONE),
        "zstd": lambda: zstandard.ZstdCompressor().compress(content),
        "lz4": lambda: b"\x02\x21\x4c\x18" + content,
        "lzo": lambda: b"\x89LZO\0\r\n\x1a\n" + content,
        "": lambda: content,
    }[kind]()
    return packed if kind in ("gzip", "") else packed + struct.pack("<I", len(content))


def kernel(release: str, config: str = "") -> bytes:
    """Return something that says of itself what a kernel says."""
    built_in = b"IKCFG_ST" + gzip.compress(config.encode(), mtime=0) + b"IKCFG_ED" if config else b""
    return (
        bytes(5000) + f"Linux version {release} (builder@example) #1 SMP".encode() + bytes(300) + built_in + bytes(99)
    )


def bzimage(
    release: str,
    *,
    kind: str = "",
    content: bytes = b"",
    protocol: int = 0x20F,
    flags: int = 0b1101,
    relocatable: bool = True,
    signed: bool = False,
) -> bytes:
    """Return a bzImage (Documentation/arch/x86/boot.rst)."""
    setup = bytearray(4 * 512)
    setup[0x1F1] = 3
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, protocol)
    struct.pack_into("<H", setup, 0x20E, 0x100 if release else 0)
    setup[0x234] = relocatable
    struct.pack_into("<H", setup, 0x236, flags)
    packed = pack(kind, content) if content else b""
    struct.pack_into("<II", setup, 0x248, 0x40 if packed else 0, len(packed))
    version = f"{release} (builder@example) #1 SMP".encode() + b"\0"
    setup[0x300 : 0x300 + len(version)] = version
    if signed:
        header = pe_header("x86_64", (), signed=True)
        setup[:2] = b"MZ"
        struct.pack_into("<I", setup, 0x3C, 0x400)
        setup[0x400 : 0x400 + len(header)] = header
    return bytes(setup) + bytes(0x40) + packed + bytes(64)


def pe_header(machine: str, sections: tuple[tuple[str, int, int], ...], *, signed: bool = False) -> bytes:
    """Return the headers from the signature of PE on; sections are names with places and sizes in the file."""
    head = struct.pack("<4sHHIIIHH", b"PE\0\0", PE_MACHINES[machine], len(sections), 0, 0, 0, _OPTIONAL_BYTES, 0x206)
    optional = bytearray(_OPTIONAL_BYTES)
    struct.pack_into("<H", optional, 0, 0x20B)
    struct.pack_into("<I", optional, 108, 16)
    if signed:
        struct.pack_into("<II", optional, 112 + 4 * 8, 0x2000, 0x100)
    table = [
        struct.pack("<8sIIII16x", name.encode(), size, 0x10000 * (number + 1), size + -size % 512, place)
        for number, (name, place, size) in enumerate(sections)
    ]
    return head + bytes(optional) + b"".join(table)


def uki(
    linux: bytes | None,
    *,
    machine: str = "x86_64",
    uname: str = "",
    others: Mapping[str, bytes] = {},
    signed: bool = False,
) -> bytes:
    """Return a unified kernel image; `others` are further sections by their names."""
    contents = {".osrel": b"ID=example\n", ".cmdline": b"quiet"}
    contents |= {".uname": uname.encode()} if uname else {}
    contents |= others
    contents |= {} if linux is None else {".linux": linux}
    sections: list[tuple[str, int, int]] = []
    body = bytearray()
    for name, content in contents.items():
        sections.append((name, _SECTIONS_START + len(body), len(content)))
        body += content + bytes(-len(content) % 512)
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x80)
    head = head.ljust(0x80, b"\0") + pe_header(machine, tuple(sections), signed=signed)
    return head.ljust(_SECTIONS_START, b"\0") + bytes(body)


def zboot(machine: str, kind: str, content: bytes, *, name: str = "", signed: bool = False) -> bytes:
    """Return an EFI zboot image (drivers/firmware/efi/libstub/zboot-header.S)."""
    packed = pack(kind, content)
    word = (name or {"xz": "xzkern", "zstd": "zstd22"}.get(kind, kind)).encode()
    head = b"MZ\0\0zimg" + struct.pack("<II", _SECTIONS_START, len(packed)) + bytes(8) + word
    head = head.ljust(0x38, b"\0") + _IMAGE_MAGICS["loongarch64"] + struct.pack("<I", 0x40)
    head += pe_header(machine, ((".text", 0x400, 0x200),), signed=signed)
    return head.ljust(_SECTIONS_START, b"\0") + packed + bytes(64)


def image(machine: str, content: bytes = b"", *, flags: int = 0, efi: bool = True, signed: bool = False) -> bytes:
    """Return an Image of arm64, riscv or loongarch."""
    head = bytearray(0x40)
    head[:2] = b"MZ" if efi else b"\x14\0"
    struct.pack_into("<Q", head, 16, 0x100000)
    struct.pack_into("<Q", head, 24, flags)
    head[56:60] = _IMAGE_MAGICS[machine]
    struct.pack_into("<I", head, 60, 0x40 if efi else 0)
    header = pe_header(machine, ((".text", 0x400, 0x200),), signed=signed) if efi else b""
    return (bytes(head) + header).ljust(0x800, b"\0") + content + bytes(64)


def s390(release: str, *, kind: str = "gzip", content: bytes = b"", version_at: int = 0x12000) -> bytes:
    """Return a kernel of s390x (arch/s390/boot/head.S)."""
    head = bytearray(0x13000)
    head[0x10008:0x10010] = b"S390EP\0\1"
    struct.pack_into(">Q", head, 0x10428, version_at)
    version = f"{release} (builder@example) #1 SMP".encode() + b"\0"
    head[0x12000 : 0x12000 + len(version)] = version
    return bytes(head) + (pack(kind, content) if content else b"") + bytes(64)


def vmlinux(machine: elfmaker.Machine, content: bytes = b"") -> bytes:
    return elfmaker.program(machine=machine, is_static=True) + content + bytes(64)


def zimage(content: bytes, *, kind: str = "gzip", machine: elfmaker.Machine = elfmaker.PPC64LE) -> bytes:
    """Return a zImage of powerpc (arch/powerpc/boot/wrapper)."""
    return elfmaker.with_section(".kernel:vmlinux.strip", pack(kind, content), machine=machine)
