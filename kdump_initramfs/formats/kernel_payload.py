"""What is packed in a kernel image: the kernel that kexec can take, and what that says of itself.

A kernel that was built with CONFIG_IKCONFIG holds its configuration between two markers (kernel/configs.c), and each
its version as "Linux version …" (init/version.c). Everything is streamed: no more than a piece is held at a time.
"""

import io
import logging
import os
import re
from collections.abc import Iterator
from typing import BinaryIO

from kdump_initramfs.errors import HostError, ImageError
from kdump_initramfs.formats import compression, kernel_image
from kdump_initramfs.formats.kernel_image import KernelImage

logger = logging.getLogger(__name__)

# Ten times as much as a kernel with everything built in.
MAX_BYTES = 512 << 20
_PIECE_BYTES = 1 << 20

_BANNER = b"Linux version "
_MAX_RELEASE_BYTES = 128
_CONFIG_START, _CONFIG_END = b"IKCFG_ST", b"IKCFG_ED"
_MAX_CONFIG_BYTES = 4 << 20
# Bytes that look like the beginning of something packed, but are not, are tried so many times.
_MAX_TRIALS = 16


def loadable(stream: BinaryIO, image: KernelImage, name: str) -> Iterator[bytes]:
    """Yield the kernel inside: of a unified image, unpacked where it is packed; HostError where it cannot be."""
    kernel = image.inner or image
    if kernel.format in ("zboot", "packed"):
        return _bounded(_unpacked(stream, kernel, name), name)
    return _range(stream, image.payload_offset, image.payload_bytes)


def release(stream: BinaryIO, image: KernelImage, name: str) -> str:
    """Return the release: from the headers, or from the kernel inside; "" where neither tells.

    Of a unified image what its .uname says counts last: it is text that somebody has put beside the kernel.
    """
    by_headers = image.inner.release if image.inner else image.release
    if by_headers:
        return by_headers
    found = _between(contents(stream, image, name), _BANNER, b" ", _MAX_RELEASE_BYTES) or b""
    return found.decode() if re.fullmatch(rb"[0-9]+\.[0-9!-~]*", found) else image.uname


def config(stream: BinaryIO, image: KernelImage, name: str) -> str | None:
    """Return the configuration that is built in; None where there is none, or it is packed as nothing here unpacks."""
    found = _between(contents(stream, image, name), _CONFIG_START, _CONFIG_END, _MAX_CONFIG_BYTES)
    if found is None:
        return None
    try:
        return compression.unpack(found, limit_bytes=_MAX_CONFIG_BYTES, name=name).decode("ascii", "replace")
    except ImageError as error:
        raise HostError(str(error), hint="copy the kernel's config to /boot/config-RELEASE") from None


def contents(stream: BinaryIO, image: KernelImage, name: str) -> Iterator[bytes]:
    """Yield the kernel itself, without what unpacks it when it boots; nothing where it cannot be unpacked here."""
    kernel = image.inner or image
    try:
        if kernel.format == "s390":
            yield from _searched(stream, name)
        elif kernel.payload_bytes:
            yield from _bounded(_unpacked(stream, kernel, name), name)
        else:
            yield from _range(stream, image.payload_offset, image.payload_bytes or stream.seek(0, os.SEEK_END))
    except HostError as error:
        logger.debug("%s", error)


def _unpacked(stream: BinaryIO, kernel: KernelImage, name: str) -> Iterator[bytes]:
    stream.seek(kernel.payload_offset)
    try:
        yield from compression.streams(stream, kernel.compression, size_bytes=kernel.payload_bytes, name=name)
    except ImageError as error:
        raise HostError(
            str(error), hint="reinstall the kernel's package, or unpack it by hand and name that in kernel.image"
        ) from None


def _bounded(pieces: Iterator[bytes], name: str) -> Iterator[bytes]:
    size_bytes = 0
    for piece in pieces:
        size_bytes += len(piece)
        if size_bytes > MAX_BYTES:
            raise HostError(f"{name}: more than {MAX_BYTES >> 20} MiB when unpacked", hint="this is no kernel")
        yield piece


def _range(stream: BinaryIO, offset: int, size_bytes: int) -> Iterator[bytes]:
    stream.seek(offset)
    while size_bytes > 0 and (piece := stream.read(min(_PIECE_BYTES, size_bytes))):
        size_bytes -= len(piece)
        yield piece


def _searched(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield what is packed in a kernel whose headers do not tell where, as scripts/extract-ikconfig looks for it."""
    size_bytes = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    data = stream.read(min(size_bytes, MAX_BYTES))
    pattern = b"|".join(re.escape(magic) for magic in kernel_image.magics().values())
    for number, match in enumerate(re.finditer(pattern, data)):
        if number >= _MAX_TRIALS:
            return
        pieces = _trial(data, match.start(), name)
        first = next(pieces, b"")
        if first:
            yield first
            yield from pieces
            return


def _trial(data: bytes, offset: int, name: str) -> Iterator[bytes]:
    kind = kernel_image.packed_as(data[offset : offset + 8])
    with io.BytesIO(data) as stream:
        stream.seek(offset)
        try:
            yield from _bounded(compression.streams(stream, kind, size_bytes=len(data) - offset, name=name), name)
        except ImageError:
            return


def _between(pieces: Iterator[bytes], start: bytes, end: bytes, limit_bytes: int) -> bytes | None:
    """Return what stands between two markers, at most `limit_bytes`, without holding what is before the first."""
    window = b""
    for piece in pieces:
        window += piece
        found = window.find(start)
        if found < 0:
            window = window[-len(start) :]
            continue
        window = window[found:]
        stop = window.find(end, len(start))
        if stop >= 0:
            return window[len(start) : stop]
        if len(window) > limit_bytes:
            return None
    return None
