"""How much memory a kernel takes, by its image: real kernels, made-up ones of every format, and what is cut off."""

import gzip
import lzma
import struct
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.formats import kernel_memory
from tests import kernels

_MIB = 1 << 20

# "Memory: … kernel code, … rwdata, … rodata, … init, … bss" of its log: no less than that is what the kernel is.
KNOWN_KIB = {"6.1.": {False: 45981, True: 33066}, "6.12": {False: 39767, True: 0}}


def test_real_kernels_take_no_less_than_they_say_at_boot_and_little_more() -> None:
    for release, root in kernels.roots().items():
        with open(f"{root}/boot/vmlinuz-{release}", "rb") as stream:
            found = kernel_memory.read(stream.read(kernel_memory.HEAD_BYTES))
        assert found is not None
        known = next((each for start, each in KNOWN_KIB.items() if release.startswith(start)), {}).get(
            "cloud" in release, 0
        )
        assert known << 10 <= found.bytes <= 72 * _MIB
        assert found.bytes <= found.unpacking_bytes <= found.bytes + 8 * _MIB
        assert "vmlinux" in found.source


def elf(*segments: tuple[int, int, int], bits: int = 64, order: str = "<") -> bytes:
    """Return a vmlinux of segments: type, physical address, size in memory."""
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    if bits == 64:
        head = struct.pack(f"{order}HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
        table = (struct.pack(f"{order}II6Q", kind, 5, 0, 0, place, 1, size, 0) for kind, place, size in segments)
    else:
        head = struct.pack(f"{order}HHIIIIIHHHHHH", 2, 3, 1, 0, 52, 0, 0, 52, 32, len(segments), 0, 0, 0)
        table = (struct.pack(f"{order}8I", kind, 0, 0, place, 1, size, 5, 0) for kind, place, size in segments)
    return ident + head + b"".join(table) + bytes(8192)


SEGMENTS = ((1, 0x1000000, 16 * _MIB), (1, 0x2000000, 8 * _MIB), (4, 0x9000000, 64 * _MIB))
SPAN = 24 * _MIB


def bzimage(payload: bytes, *, init_bytes: int = 40 * _MIB) -> bytes:
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 0x100, len(payload))
    struct.pack_into("<I", head, 0x260, init_bytes)
    return bytes(head) + bytes(0x100) + payload


def lz4(data: bytes) -> bytes:
    """Return the legacy frame with one block of literals, and one that repeats the last byte."""
    count = len(data) - 15
    lengths = b"\xff" * (count // 255) + bytes([count % 255])
    block = b"\xf4" + lengths + data + struct.pack("<H", 1) + b"\x00"
    return b"\x02!L\x18" + struct.pack("<I", len(block)) + block


def arm64(size: int, magic: bytes = b"ARM\x64") -> bytes:
    return b"MZ\0\x91" + bytes(12) + struct.pack("<Q", size) + bytes(32) + magic + bytes(4096)


def zboot(payload: bytes) -> bytes:
    return b"MZ\0\0zimg" + struct.pack("<II", 64, len(payload)) + bytes(48) + payload


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": lz4,
    "plain": lambda data: data,
}


@pytest.mark.parametrize("packer", PACKERS)
def test_bzimage_of_every_compression(packer: str) -> None:
    found = kernel_memory.read(bzimage(PACKERS[packer](elf(*SEGMENTS))))
    assert found is not None
    assert (found.bytes, found.unpacking_bytes) == (SPAN, 40 * _MIB)


def test_bzimage_whose_kernel_cannot_be_unpacked_is_known_by_its_header() -> None:
    found = kernel_memory.read(bzimage(b"\x89LZO" + bytes(64)))
    assert found is not None
    assert (found.bytes, found.unpacking_bytes) == (40 * _MIB, 40 * _MIB)
    assert "init_size" in found.source


IMAGES = {
    "vmlinux": elf(*SEGMENTS),
    "vmlinux, big endian": elf(*SEGMENTS, order=">"),
    "vmlinux, 32 bits": elf(*SEGMENTS, bits=32),
    "vmlinux, 32 bits, big endian": elf(*SEGMENTS, bits=32, order=">"),
    "arm64": arm64(SPAN),
    "arm64, gzip": gzip.compress(arm64(SPAN)),
    "arm64, zstd": PACKERS["zstd"](arm64(SPAN)),
    "riscv64": arm64(SPAN, b"RSC\x05"),
    "zboot, gzip": zboot(gzip.compress(arm64(SPAN))),
    "zboot, xz": zboot(PACKERS["xz"](arm64(SPAN))),
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
def test_image_of_other_formats(image: bytes) -> None:
    found = kernel_memory.read(image)
    assert found is not None
    assert (found.bytes, found.unpacking_bytes) == (SPAN, SPAN)


NOTHING = {
    "nothing": b"",
    "text": b"#!/bin/sh\n",
    "no segments": elf(),
    "a header that lies": arm64(1 << 40),
    "no size": arm64(0),
    "bzImage without init_size": bzimage(elf(*SEGMENTS), init_bytes=0),
    "LZ4 that copies from before its beginning": b"MZ\0\0zimg" + struct.pack("<II", 64, 32) + bytes(48) + b"\x02!L\x18"
    b"\0\0\0\0\x10a\x09\0" + bytes(16),
}


@pytest.mark.parametrize("image", NOTHING.values(), ids=NOTHING.keys())
def test_what_tells_nothing_is_no_size(image: bytes) -> None:
    assert kernel_memory.read(image) is None


@given(st.sampled_from([*IMAGES.values(), bzimage(lz4(elf(*SEGMENTS)))]), st.integers(0, 4096))
def test_what_is_cut_off_raises_nothing(image: bytes, end: int) -> None:
    kernel_memory.read(image[:end])


@given(st.binary(max_size=512))
def test_anything_raises_nothing(payload: bytes) -> None:
    kernel_memory.read(payload)
    kernel_memory.read(bzimage(b"\x02!L\x18" + payload))
    kernel_memory.read(zboot(payload))
