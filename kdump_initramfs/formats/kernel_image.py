"""What a kernel image says of itself in its headers: its format and machine, its release, and what is packed in it.

bzImage: Documentation/arch/x86/boot.rst. Image: Documentation/arch/arm64/booting.rst, Documentation/arch/riscv/
boot-image-header.rst, arch/loongarch/kernel/head.S. zboot: drivers/firmware/efi/libstub/zboot-header.S. s390x:
arch/s390/boot/head.S. vmlinux and zImage: elf(5), arch/powerpc/boot/wrapper. UKI: the UAPI Group's specification of
unified kernel images. A file that lies is a HostError; no more of it is read than what its headers can be in.
"""

import os
import struct
from collections.abc import Callable
from typing import BinaryIO, Literal

from msgspec import Struct
from msgspec.structs import replace

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import compression, elf, pe

Format = Literal["bzImage", "vmlinux", "zImage", "Image", "s390", "zboot", "uki", "packed"]

# What is packed is known by its first bytes: lib/decompress.c; of zboot by its name: Makefile.zboot.
_MAGICS = {
    "gzip": b"\x1f\x8b\x08",
    "bzip2": b"BZh",
    "lzma": b"\x5d\0\0",
    "xz": b"\xfd7zXZ\0",
    "lzo": b"\x89LZO\0",
    "lz4": b"\x02\x21\x4c\x18",
    "zstd": b"\x28\xb5\x2f\xfd",
}
_ZBOOT_NAMES = {"xzkern": "xz", "zstd22": "zstd"}

# As much as the headers can take: the parameters of s390x lie behind 64 KiB.
_HEAD_BYTES = 0x11000
# More than any version string has.
_MAX_VERSION_BYTES = 256

_HDRS = 0x202
_X86_HEADER_BYTES = 0x268
_IMAGE_MAGIC = 56
_S390_MAGIC, _S390_VERSION = 0x10008, 0x10428
_SIGNATURE_AT_END = b"~Module signature appended~\n"


class KernelImage(Struct, frozen=True, kw_only=True):
    format: Format
    # As `uname -m` says it; "" where a packed file does not tell.
    machine: str = ""
    # "" where the headers do not tell.
    release: str = ""
    # Of what is packed inside; "" where nothing is, or the headers do not tell.
    compression: str = ""
    # Where in the file that is; of a unified image, its kernel.
    payload_offset: int = 0
    payload_bytes: int = 0
    # It runs wherever it was put, as in reserved memory.
    is_relocatable: bool = True
    # Entry points of a bzImage: 64-bit, and that of an EFI boot loader (handover).
    has_64bit_entry: bool = False
    has_efi_handover: bool = False
    # It carries a signature of its own; whose is not looked at.
    is_signed: bool = False
    # Of a unified image: what its section .uname says, which is believed where the kernel in it does not tell; and the
    # headers of that kernel.
    uname: str = ""
    inner: "KernelImage | None" = None


def read(stream: BinaryIO, name: str) -> KernelImage:
    """Return what the file says of itself; HostError where it is no kernel, or its headers do not hold together."""
    size_bytes = stream.seek(0, os.SEEK_END)
    found = _read_part(stream, name, 0, size_bytes)
    if found is None:
        raise HostError(f"{name}: {NO_KERNEL}", hint=_HINT)
    if _ends_with_signature(stream, size_bytes):
        found = replace(found, is_signed=True)
    return found


NO_KERNEL = "not a kernel image of a format that is known here"
_HINT = "reinstall the kernel's package, or name its image in kernel.image"


def packed_as(start: bytes) -> str:
    """Return the compression that the first bytes tell, or ""."""
    return next((kind for kind, magic in _MAGICS.items() if start.startswith(magic)), "")


def magics() -> dict[str, bytes]:
    """Return what packed data begin with, by the name of the compression."""
    return dict(_MAGICS)


def _ends_with_signature(stream: BinaryIO, size_bytes: int) -> bool:
    """Tell whether a signature is appended as to a module, as ppc64le and s390x have it (kernel/module_signature.c)."""
    stream.seek(max(size_bytes - len(_SIGNATURE_AT_END), 0))
    return stream.read(len(_SIGNATURE_AT_END)) == _SIGNATURE_AT_END


class _Part(Struct, frozen=True):
    """A range of a file: all of it, or what a unified image has for a kernel."""

    stream: BinaryIO
    name: str
    offset: int
    size_bytes: int
    head: bytes

    def fail(self, what: str) -> HostError:
        return HostError(f"{self.name}: {what}", hint=_HINT)

    def range(self, what: str, offset: int, size_bytes: int) -> tuple[int, int]:
        """Return where in the file a range of this part is; HostError where the part is shorter."""
        if size_bytes <= 0 or offset < 0 or offset + size_bytes > self.size_bytes:
            raise self.fail(f"truncated: {what} reaches beyond its end")
        return self.offset + offset, size_bytes


def _read_part(
    stream: BinaryIO, name: str, offset: int, size_bytes: int, *, nested: bool = False
) -> KernelImage | None:
    stream.seek(offset)
    head = stream.read(min(_HEAD_BYTES, size_bytes))
    part = _Part(stream, name, offset, size_bytes, head)
    readers: tuple[Callable[[_Part], KernelImage | None], ...] = (_elf, _zboot, _bzimage, _image, _s390, _packed)
    if not nested:
        readers = (_uki, *readers)
    return next((found for reader in readers if (found := reader(part)) is not None), None)


def _bzimage(part: _Part) -> KernelImage | None:
    head = part.head
    if head[_HDRS : _HDRS + 4] != b"HdrS":
        return None
    if len(head) < _X86_HEADER_BYTES:
        raise part.fail("truncated: the boot header of a bzImage is not complete")
    (protocol,) = struct.unpack_from("<H", head, 0x206)
    flags = struct.unpack_from("<H", head, 0x236)[0] if protocol >= 0x20C else 0
    has_64bit_entry = bool(flags & 1)
    setup_bytes = ((head[0x1F1] or 4) + 1) * 512
    offset, size_bytes = struct.unpack_from("<II", head, 0x248) if protocol >= 0x208 else (0, 0)
    if size_bytes:
        offset, size_bytes = part.range("the packed kernel", setup_bytes + offset, size_bytes)
    header = pe.parse(head)
    return KernelImage(
        format="bzImage",
        machine="x86_64" if has_64bit_entry else header.machine if header else "i686",
        release=_x86_release(head),
        compression=_magic_at(part, offset) if size_bytes else "",
        payload_offset=offset,
        payload_bytes=size_bytes,
        is_relocatable=protocol >= 0x205 and head[0x234] != 0,
        has_64bit_entry=has_64bit_entry,
        has_efi_handover=bool(flags & 0b1100),
        is_signed=header is not None and header.is_signed,
    )


def _x86_release(head: bytes) -> str:
    """Return the release; kernel_version is the offset of the version string, less 0x200."""
    (pointer,) = struct.unpack_from("<H", head, 0x20E)
    return _first_word(head[pointer + 0x200 : pointer + 0x400]) if pointer else ""


def _first_word(text: bytes) -> str:
    """Return the release that a version string begins with; "" where these bytes are none."""
    version, end, _ = text.partition(b"\0")
    word = version.partition(b" ")[0].decode("ascii", "replace")
    return word if end and word.isprintable() and word.isascii() else ""


def _magic_at(part: _Part, offset: int) -> str:
    """Return the compression of what is packed at an offset in the file; frames to be skipped may come first."""
    end = part.offset + part.size_bytes
    while offset < end:
        part.stream.seek(offset)
        start = part.stream.read(compression.SKIPPABLE_BYTES)
        size_bytes = compression.skippable_bytes(start)
        if not size_bytes:
            return packed_as(start)
        offset += size_bytes
    return ""


def _elf(part: _Part) -> KernelImage | None:
    if part.head[:4] != elf.MAGIC:
        return None
    machine = elf.machine(part.head, part.name)
    is_wrapped = machine.startswith("ppc") and part.offset == 0
    place = elf.find_section(part.stream, b".kernel:vmlinux.strip", part.name) if is_wrapped else None
    if place is None:
        return KernelImage(format="vmlinux", machine=machine)
    offset, size_bytes = part.range("the packed kernel", *place)
    return KernelImage(
        format="zImage",
        machine=machine,
        compression=_magic_at(part, offset),
        payload_offset=offset,
        payload_bytes=size_bytes,
    )


def _zboot(part: _Part) -> KernelImage | None:
    head = part.head
    if head[:2] != b"MZ" or head[4:8] != b"zimg":
        return None
    header = pe.parse(head)
    if header is None:
        raise part.fail("truncated: a zboot image without the headers of a PE file")
    offset, size_bytes = part.range("the packed kernel", *struct.unpack_from("<II", head, 8))
    name = head[24:56].partition(b"\0")[0].decode("ascii", "replace")
    return KernelImage(
        format="zboot",
        machine=header.machine,
        compression=_ZBOOT_NAMES.get(name, name),
        payload_offset=offset,
        payload_bytes=size_bytes,
        is_signed=header.is_signed,
    )


def _image(part: _Part) -> KernelImage | None:
    head = part.head
    if len(head) < _IMAGE_MAGIC + 4:
        return None
    header = pe.parse(head)
    machine = header.machine if header else ""
    match head[_IMAGE_MAGIC : _IMAGE_MAGIC + 4]:
        case b"ARM\x64":
            is_big = struct.unpack_from("<Q", head, 24)[0] & 1
            machine = "aarch64_be" if is_big else "aarch64"
        case b"RSC\x05":
            machine = machine or "riscv64"
        case b"\xcd\x23\x82\x81" if machine.startswith("loongarch"):
            pass
        case _:
            return None
    return KernelImage(format="Image", machine=machine, is_signed=header is not None and header.is_signed)


def _s390(part: _Part) -> KernelImage | None:
    head = part.head
    if head[_S390_MAGIC : _S390_MAGIC + 6] != b"S390EP":
        return None
    if len(head) < _S390_VERSION + 8:
        raise part.fail("truncated: the parameters of an s390x kernel are not complete")
    (pointer,) = struct.unpack_from(">Q", head, _S390_VERSION)
    return KernelImage(format="s390", machine="s390x", release=_first_word(_version_at(part, pointer)))


def _packed(part: _Part) -> KernelImage | None:
    kind = _magic_at(part, part.offset)
    if not kind:
        return None
    return KernelImage(format="packed", compression=kind, payload_offset=part.offset, payload_bytes=part.size_bytes)


def _uki(part: _Part) -> KernelImage | None:
    header = pe.parse(part.head)
    sections = {section.name: section for section in reversed(header.sections)} if header else {}
    if header is None or ".linux" not in sections:
        return None
    kernel = sections[".linux"]
    offset, size_bytes = part.range("the section .linux", kernel.offset, kernel.size_bytes)
    inner = _read_part(part.stream, f"{part.name} (.linux)", offset, size_bytes, nested=True)
    if inner is None:
        raise part.fail("what it has in the section .linux is not a kernel")
    uname = _uname(part, sections.get(".uname"))
    return KernelImage(
        format="uki",
        machine=inner.machine or header.machine,
        release=inner.release or uname,
        uname=uname,
        compression=inner.compression,
        payload_offset=offset,
        payload_bytes=size_bytes,
        is_relocatable=inner.is_relocatable,
        has_64bit_entry=inner.has_64bit_entry,
        has_efi_handover=inner.has_efi_handover,
        is_signed=header.is_signed,
        inner=inner,
    )


def _uname(part: _Part, section: pe.Section | None) -> str:
    if section is None:
        return ""
    part.range("the section .uname", section.offset, section.size_bytes)
    return _first_word(_version_at(part, section.offset)[: section.size_bytes].strip() + b"\0")


def _version_at(part: _Part, offset: int) -> bytes:
    if not 0 < offset < part.size_bytes:
        return b""
    part.stream.seek(part.offset + offset)
    return part.stream.read(min(_MAX_VERSION_BYTES, part.size_bytes - offset))
