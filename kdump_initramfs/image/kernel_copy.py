"""The kernel beside an image, for kexec: unpacked where kexec cannot read the kernel's own file, else a plain copy.

It is named by its content. So it is written before the image and its record are replaced, the old one is removed
afterwards, and at every instant the record that fits the image (image/record.py) names a copy that is there.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from msgspec.structs import replace

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import kernel_image, kernel_payload
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.model import ImageRecord, Kernel

logger = logging.getLogger(__name__)

_PIECE_BYTES = 1 << 20
# What kexec takes, by kexec-tools or by the kernel (kernel_image.Format).
_LOADABLE = ("bzImage", "vmlinux", "Image", "s390")


def add(root: Root, image: str, described: ImageRecord) -> ImageRecord:
    """Write the copy that the kernel of an image needs, and return the record with it."""
    kernel = described.manifest.kernel
    if not kernel.copied_because:
        return described
    directory, name = os.path.split(image)
    partial = record.partial_of(image)
    try:
        with record.create(partial) as stream:
            digest = _write(root, kernel, stream)
        if kernel.copied_because == "packed":
            _check(partial, kernel)
        copy = f"{name}{_SUFFIX}{digest[:16]}"
        os.rename(partial, os.path.join(directory, copy))
        logger.info("wrote %s for kexec: %s", os.path.join(directory, copy), _WHY[kernel.copied_because])
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    return replace(described, kernel_copy=copy, kernel_copy_sha256=digest)


_SUFFIX = ".kernel-"
_WHY = {
    "packed": "what is in the kernel image, which kexec cannot take as it is",
    "unmounted": "a copy of the kernel image, whose file system has noauto in /etc/fstab",
}


def remove_others(image: str, described: ImageRecord) -> None:
    """Remove the copies that belonged to former images of this name."""
    remove(image, but=described.kernel_copy)


def remove(image: str, *, but: str = "") -> None:
    """Remove the copies of the kernels of an image, but for the one of that name."""
    directory, name = os.path.split(image)
    for each in os.listdir(directory):
        if each.startswith(f"{name}{_SUFFIX}") and each != but:
            os.unlink(os.path.join(directory, each))


def _write(root: Root, kernel: Kernel, copy: BinaryIO) -> str:
    digest = hashlib.sha256()
    with open(root.host(kernel.image), "rb") as stream:
        for piece in _pieces(stream, kernel):
            digest.update(piece)
            copy.write(piece)
    copy.flush()
    os.fsync(copy.fileno())
    return digest.hexdigest()


def _pieces(stream: BinaryIO, kernel: Kernel) -> Iterator[bytes]:
    if kernel.copied_because == "packed":
        return kernel_payload.loadable(stream, kernel_image.read(stream, kernel.image), kernel.image)
    return iter(lambda: stream.read(_PIECE_BYTES), b"")


def _check(path: str, kernel: Kernel) -> None:
    """Refuse what came out of a packed image and is no kernel that kexec can take."""
    with open(path, "rb") as stream:
        image = kernel_image.read(stream, f"{kernel.image}, unpacked")
    if image.format not in _LOADABLE:
        raise HostError(
            f"{kernel.image}: what is packed in it is packed once more ({image.format})",
            hint="name a plain image of this kernel in kernel.image",
        )
