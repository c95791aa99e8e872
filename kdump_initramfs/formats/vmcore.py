"""What a saved vmcore says of itself, and whether it is whole: kdump-compressed or ELF.

Kdump-compressed: struct disk_dump_header and struct page_desc of makedumpfile (diskdump_mod.h, and IMPLEMENTATION).
ELF: elf(5), with the VMCOREINFO note of Documentation/admin-guide/kdump/vmcoreinfo.rst.
"""

import re
import struct
from typing import BinaryIO, Literal

from msgspec import Struct

from kdump_initramfs.errors import KdumpError

_SIGNATURE = b"KDUMP   "
# Signature, header_version, then struct new_utsname: six strings of 65 bytes, of which the third is the release.
_RELEASE_OFFSET = 12 + 2 * 65
_NAME_BYTES = 65
# status, block_size, sub_hdr_size, bitmap_blocks, behind a timestamp of 16 bytes that is aligned to 8.
_FIELDS_OFFSET = 424
_FIELDS = struct.Struct("<4I")
_INCOMPLETE = 0x8  # DUMP_DH_COMPRESSED_INCOMPLETE: makedumpfile ran out of space
# offset, size, flags, page_flags
_PAGE_DESCRIPTOR = struct.Struct("<QIIQ")
_MAX_BLOCK_BYTES = 1 << 16
_DESCRIPTORS_AT_ONCE = 1 << 16

_NOTES_BYTES = 1 << 20


class Vmcore(Struct, frozen=True, kw_only=True):
    format: Literal["kdump-compressed", "elf"]
    # Release of the crashed kernel; "" where the file does not say.
    release: str
    # Pages (kdump-compressed) or segments (ELF) that it holds.
    parts: int


class VmcoreError(KdumpError):
    """The file is no vmcore, or not a whole one."""


def check(stream: BinaryIO, size_bytes: int, name: str) -> Vmcore:
    """Return what the file is, having seen that everything that its headers promise is there.

    Raises VmcoreError where it is not.
    """
    stream.seek(0)
    head = stream.read(4096)
    try:
        if head.startswith(_SIGNATURE):
            return _check_compressed(stream, head, size_bytes)
        if head.startswith(b"\x7fELF\x02\x01"):
            return _check_elf(stream, head, size_bytes)
    except (struct.error, VmcoreError) as error:
        raise VmcoreError(f"{name}: {error}", hint="the dump is damaged") from None
    raise VmcoreError(f"{name}: neither kdump-compressed nor 64-bit ELF", hint="it is no vmcore")


def _check_compressed(stream: BinaryIO, head: bytes, size_bytes: int) -> Vmcore:
    status, block_bytes, sub_header_blocks, bitmap_blocks = _FIELDS.unpack_from(head, _FIELDS_OFFSET)
    if status & _INCOMPLETE:
        raise VmcoreError("its header says that it is incomplete")
    if not 0 < block_bytes <= _MAX_BLOCK_BYTES:
        raise VmcoreError(f"a block size of {block_bytes} bytes")
    bitmaps = (1 + sub_header_blocks) * block_bytes
    descriptors = bitmaps + bitmap_blocks * block_bytes
    if descriptors > size_bytes:
        raise VmcoreError(f"{size_bytes} bytes, but its bitmaps end at {descriptors}")
    pages = _dumped_pages(stream, bitmaps, bitmap_blocks * block_bytes)
    _check_pages(stream, descriptors, pages, size_bytes)
    release = head[_RELEASE_OFFSET : _RELEASE_OFFSET + _NAME_BYTES].split(b"\0")[0].decode("ascii", "replace")
    return Vmcore(format="kdump-compressed", release=release, parts=pages)


def _dumped_pages(stream: BinaryIO, start: int, length: int) -> int:
    """Return the number of pages in the dump: the bits of the second of the two bitmaps."""
    stream.seek(start + length // 2)
    return int.from_bytes(stream.read(length // 2), "little").bit_count()


def _check_pages(stream: BinaryIO, start: int, pages: int, size_bytes: int) -> None:
    """See that every page descriptor is there and points at data that is there."""
    stream.seek(start)
    left = pages
    while left:
        count = min(left, _DESCRIPTORS_AT_ONCE)
        block = stream.read(count * _PAGE_DESCRIPTOR.size)
        if len(block) < count * _PAGE_DESCRIPTOR.size:
            raise VmcoreError("it ends among its page descriptors")
        end = max(offset + size for offset, size, _, _ in _PAGE_DESCRIPTOR.iter_unpack(block))
        if end > size_bytes:
            raise VmcoreError(f"{size_bytes} bytes, but a page ends at {end}")
        left -= count


def _check_elf(stream: BinaryIO, head: bytes, size_bytes: int) -> Vmcore:
    (table,) = struct.unpack_from("<Q", head, 0x20)
    entry_bytes, entries = struct.unpack_from("<2H", head, 0x36)
    if table + entry_bytes * entries > size_bytes:
        raise VmcoreError(f"{size_bytes} bytes, but its program headers end at {table + entry_bytes * entries}")
    stream.seek(table)
    headers = stream.read(entry_bytes * entries)
    loads = 0
    for position in range(entries):
        kind, _, offset, _, _, file_bytes = struct.unpack_from("<2I4Q", headers, position * entry_bytes)
        if offset + file_bytes > size_bytes:
            raise VmcoreError(f"{size_bytes} bytes, but a segment ends at {offset + file_bytes}")
        loads += kind == 1  # PT_LOAD
    stream.seek(0)
    match = re.search(rb"\nOSRELEASE=([!-~]+)\n|\0OSRELEASE=([!-~]+)\n", stream.read(_NOTES_BYTES))
    release = (match[1] or match[2]).decode("ascii") if match else ""
    return Vmcore(format="elf", release=release, parts=loads)
