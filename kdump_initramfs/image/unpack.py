"""Unpacks an image into a directory, as the kernel does into its first root file system, and nowhere else."""

import logging
import os
import stat

from kdump_initramfs.errors import ImageError
from kdump_initramfs.formats import cpio
from kdump_initramfs.image import inspect

logger = logging.getLogger(__name__)


def unpack(image: str, directory: str) -> None:
    """Unpack an image into `directory`, which must be new or empty; device nodes only as root."""
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if os.listdir(directory):
            raise ImageError(f"{directory}: is not empty", hint="name a new directory")
        for member in inspect.members(image):
            _create(os.path.realpath(directory), member)
    except OSError as error:
        raise ImageError(f"{error.filename}: {error.strerror}", hint="unpacking has stopped there") from error


def _create(directory: str, member: cpio.Member) -> None:
    path = os.path.normpath(os.path.join(directory, member.name.lstrip("/")))
    parent = os.path.realpath(os.path.dirname(path))
    is_inside = directory in (path, parent) or parent.startswith(directory + "/")
    if not is_inside or (stat.S_ISDIR(member.mode) and os.path.islink(path)):
        raise ImageError(f"{member.name}: leads out of the archive", hint="this image is not to be trusted")
    mode = stat.S_IMODE(member.mode)
    if stat.S_ISDIR(member.mode):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
    elif stat.S_ISLNK(member.mode):
        os.symlink(member.data, os.fsencode(path))
    elif stat.S_ISREG(member.mode):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(member.data)
        os.chmod(path, mode)
    elif os.geteuid() == 0:
        os.mknod(path, member.mode, os.makedev(*member.device))
    else:
        logger.warning("/%s: a device node, which only root can make, is left out", member.name)
