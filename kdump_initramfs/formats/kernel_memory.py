"""How much memory a kernel takes once it runs, from the head of its image; nothing but that head is unpacked.

x86: Documentation/arch/x86/boot.rst, and the program headers of the vmlinux inside. arm64 and riscv64: booting.rst and
boot-image-header.rst there. EFI zboot: drivers/firmware/efi/libstub/zboot-header.S. vmlinux: elf(5).
"""

import io
import struct

from msgspec import Struct

from kdump_initramfs.errors import ImageError
from kdump_initramfs.formats import compression

# Of a kernel's image: its headers, and as much of what is packed in it as unpacks to those of the kernel.
HEAD_BYTES = 1 << 20
# The ELF header and the program headers of a vmlinux are all that is unpacked.
_HEAD_BYTES = 4096
_PT_LOAD = 1
_MAX_SEGMENTS = 32
# A kernel that takes more is a header that lies.
_MAX_BYTES = 1 << 30


class KernelMemory(Struct, frozen=True, kw_only=True):
    # Code, data and bss, from the first to the last byte: what the kernel keeps for itself (of which its init part is
    # given back when it has started).
    bytes: int
    # What is needed in one piece while it unpacks itself; the same where it does not.
    unpacking_bytes: int
    # What tells it, for people.
    source: str
    # Of its pages, as the header of an Image of arm64 tells it; 0 where nothing does.
    page_bytes: int = 0


def read(image: bytes) -> KernelMemory | None:
    """Return what the first HEAD_BYTES of an image say; None where they do not tell, or are of no format we know."""
    try:
        return _read(image)
    except (struct.error, ImageError, OSError, EOFError, IndexError):
        return None


def _read(image: bytes) -> KernelMemory | None:
    if image[0x202:0x206] == b"HdrS":
        return _bzimage(image)
    if image.startswith(b"MZ\0\0zimg"):
        return _zboot(image)
    if compression.detect(image) != "none" or image.startswith(_LZ4_MAGIC):
        return _plain(_unpacked_head(image), "the header of the image inside")
    return _plain(image, "its header")


def _bzimage(image: bytes) -> KernelMemory | None:
    (setup_sectors,) = struct.unpack_from("<B", image, 0x1F1)
    payload, length = struct.unpack_from("<II", image, 0x248)
    (init_bytes,) = struct.unpack_from("<I", image, 0x260)
    if not 0 < init_bytes < _MAX_BYTES:
        return None
    start = ((setup_sectors or 4) + 1) * 512 + payload
    inside = _elf_bytes(_unpacked_head(image[start : start + length]))
    if inside is None:
        # The kernel unpacks itself inside of init_size, which holds all that it is and the packed part besides.
        return KernelMemory(bytes=init_bytes, unpacking_bytes=init_bytes, source="init_size of its boot header")
    return KernelMemory(
        bytes=inside,
        unpacking_bytes=max(init_bytes, inside),
        source="the program headers of the vmlinux in it, and init_size of its boot header",
    )


def _zboot(image: bytes) -> KernelMemory | None:
    start, length = struct.unpack_from("<II", image, 8)
    return _plain(_unpacked_head(image[start : start + length]), "the header of the image inside")


def _plain(head: bytes, source: str) -> KernelMemory | None:
    """Return the memory of an image that is not packed: a vmlinux, or an Image of arm64 or riscv64."""
    found = _elf_bytes(head)
    if found is None and (head[56:60] == b"ARM\x64" or head[56:60] == b"RSC\x05"):
        (found,) = struct.unpack_from("<Q", head, 16)
    if not found or found > _MAX_BYTES:
        return None
    return KernelMemory(bytes=found, unpacking_bytes=found, source=source, page_bytes=_page_bytes(head))


# Bits 1 and 2 of the flags (Documentation/arch/arm64/booting.rst); 0 is "unspecified".
_PAGE_BYTES = (0, 4096, 16384, 65536)


def _page_bytes(head: bytes) -> int:
    if head[56:60] != b"ARM\x64" or head[:4] == b"\x7fELF":
        return 0
    (flags,) = struct.unpack_from("<Q", head, 24)
    return _PAGE_BYTES[flags >> 1 & 3]


def _elf_bytes(head: bytes) -> int | None:
    """Return from the first to the last byte of what an ELF kernel loads, by physical address; None if it is none."""
    if head[:4] != b"\x7fELF":
        return None
    order = "<" if head[5] == 1 else ">"
    is_64 = head[4] == 2
    (offset,) = struct.unpack_from(f"{order}Q", head, 32) if is_64 else struct.unpack_from(f"{order}I", head, 28)
    size, count = struct.unpack_from(f"{order}HH", head, 54 if is_64 else 42)
    starts, ends = [], []
    for number in range(min(count, _MAX_SEGMENTS)):
        # Elf64_Phdr has p_flags in the second place, Elf32_Phdr behind the sizes.
        layout = f"{order}II6Q" if is_64 else f"{order}8I"
        fields = struct.unpack_from(layout, head, offset + number * size)
        address, memory_bytes = (fields[4], fields[6]) if is_64 else (fields[3], fields[5])
        if fields[0] == _PT_LOAD:
            starts.append(address)
            ends.append(address + memory_bytes)
    found = max(ends, default=0) - min(starts, default=0)
    return found if 0 < found < _MAX_BYTES else None


# --- unpacking the head ------------------------------------------------------------------------------------------

# lib/decompress_unlz4.c: the magic of the legacy frame, then blocks, each behind its size.
_LZ4_MAGIC = b"\x02!L\x18"


def _unpacked_head(packed: bytes) -> bytes:
    while skipped := compression.skippable_bytes(packed[: compression.SKIPPABLE_BYTES]):
        packed = packed[skipped:]
    if packed.startswith(_LZ4_MAGIC):
        return _lz4_head(packed[8:], _HEAD_BYTES)
    if compression.detect(packed) == "none":
        return packed[:_HEAD_BYTES]
    with compression.reader(io.BytesIO(packed), "kernel image") as stream:
        return stream.read(_HEAD_BYTES)


def _lz4_head(block: bytes, wanted: int) -> bytes:
    """Return the first bytes of an LZ4 block (lz4_Block_format.md): literals, then a copy of what was there before."""
    out = bytearray()
    position = 0
    while len(out) < wanted and position < len(block):
        token = block[position]
        count, position = _lz4_length(block, position + 1, token >> 4)
        out += block[position : position + count]
        position += count
        if position + 2 > len(block):
            break  # the last sequence has literals alone
        distance = block[position] | block[position + 1] << 8
        count, position = _lz4_length(block, position + 2, token & 15)
        if not 0 < distance <= len(out):
            raise ImageError("kernel image: broken LZ4 data")
        for _ in range(min(count + 4, wanted)):
            out.append(out[-distance])
    return bytes(out[:wanted])


def _lz4_length(block: bytes, position: int, length: int) -> tuple[int, int]:
    """Return a length that a token begins, and where it ends: 15 goes on in bytes until one is not 255."""
    more = 255 if length == 15 else 0
    while more == 255:
        more = block[position]
        length += more
        position += 1
    return length, position
