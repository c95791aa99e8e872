"""What follows the installation and the removal of a kernel: its capture image is built, or removed.

It is the kernel that is named, not the running one. Nothing is asked of the machine but files, so that it works in a
chroot; where that is no machine (no /proc, or that of another root), the image is a generic one by /etc/fstab, and the
next boot builds the one that fits.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from kdump_initramfs import build
from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError
from kdump_initramfs.host import kernel_places, mounts, tools
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import kernel_copy, record
from kdump_initramfs.loader import minimum, proof, rearm
from kdump_initramfs.model import Kernel

logger = logging.getLogger(__name__)

# Where an image stays; what is installed from elsewhere (a build tree, a staging area) is looked for instead.
_LASTING = (
    *(f"{directory}/" for directory in kernel_places.BOOT),
    *("/usr/lib/modules/", "/lib/modules/", "/usr/lib/ostree-boot/"),
)
_MODULES = re.compile(r"(?:^|/)modules/(?P<release>[^/]+)(?:/|$)")


def releases_of(paths: Iterable[str]) -> list[str]:
    """Return the kernels that paths such as usr/lib/modules/RELEASE/vmlinuz belong to, each once."""
    found = (_MODULES.search(path.strip()) for path in paths)
    return list(dict.fromkeys(match["release"] for match in found if match))


def add(root: Root, config: Config, release: str, image: str = "") -> None:
    """Build the capture image of a kernel, unless it is there; remove those of kernels that have gone."""
    if config.kernel.version not in ("", release):
        logger.info("kernel.version is %s: nothing to build for %s", config.kernel.version, release)
        return
    output = root.host(config.image.output.replace("{kernel}", release))
    wanted = _seen_from_here(root, _for_kernel(root, config, release, image))
    if not rearm.reasons_to_build(root, wanted, output):
        logger.info("%s: is what would be built", output)
    else:
        build.output_path(root, wanted, release)
        written = build.build(root, wanted, output=output)
        logger.info("built %s, %.1f MiB, for kernel %s", output, written.image_bytes / (1 << 20), release)
    for orphan in _orphans(root, config):
        _remove(orphan)


def _for_kernel(root: Root, config: Config, release: str, image: str) -> Config:
    lasts = image.startswith(_LASTING) and root.is_file(image) and not config.kernel.image
    kernel = replace(config.kernel, version=release, image=image if lasts else config.kernel.image)
    return replace(config, kernel=kernel)


def _seen_from_here(root: Root, config: Config) -> Config:
    """Return the configuration; for a generic image where what runs here is not the machine of this root."""
    if config.image.mode == "generic" or not _is_foreign(root):
        return config
    logger.info("%s is not the root of the running system, so the image is for any machine", root.directory)
    return replace(config, image=replace(config.image, mode="generic"))


def _is_foreign(root: Root) -> bool:
    if not mounts.are_known(root):
        return True
    try:
        return root.directory == "/" and not os.path.samefile("/", "/proc/1/root")
    except OSError:  # another user's process: in a namespace, or without privilege
        return False


def remove(root: Root, config: Config, release: str, going: Sequence[str] = ()) -> None:
    """Remove the capture image of a kernel, if it is one of ours and the kernel has gone; and those of others gone.

    A kernel that can still be booted keeps it: what is removed may be one of its entries, or the package that another
    one replaces. `going`: files and directories that are still there, and are removed with the kernel.
    """
    image = root.host(config.image.output.replace("{kernel}", release))
    described = record.beside(image)
    if described is None and not os.path.lexists(image):
        logger.info("%s: is not there, so there is nothing to remove", image)
    elif described is None or described.manifest.kernel.release != release:
        logger.warning("%s: no record of ours says that it is for kernel %s, so it is left there", image, release)
    elif still_there := _bootable(root, config, release, going):
        logger.info("%s: kernel %s can still be booted, so its capture image stays", still_there, release)
    else:
        _remove(image)
    for orphan in _orphans(root, config):
        _remove(orphan)


def _bootable(root: Root, config: Config, release: str, going: Sequence[str]) -> str:
    """Return the path of an image of the kernel that stays; "" where there is none."""
    named = config.kernel.image
    if named and named not in going and root.is_file(named) and kernel_places.is_image_of(root, named, release):
        return named
    try:
        return kernel_places.find(root, release, tools.machine(root), going)
    except HostError as error:
        logger.debug("%s", error)
        return ""


def _orphans(root: Root, config: Config) -> Iterator[str]:
    """Yield the images of kernels that have gone with their modules: not every framework tells of a removal."""
    directory, name = os.path.split(config.image.output)
    before, has_release, after = name.partition("{kernel}")
    if not has_release or "{kernel}" in directory:
        return
    place = root.host(directory)
    for file in root.list(directory):
        if file.startswith(before) and file.endswith(after):
            image = os.path.join(place, file)
            described = record.beside(image)
            if described is not None and described.image == file and _has_gone(root, described.manifest.kernel):
                yield image


def _has_gone(root: Root, kernel: Kernel) -> bool:
    """Whether nothing is there of a kernel; its image alone may be on a /boot that is not mounted."""
    places = (kernel.modules_dir, f"/lib/modules/{kernel.release}")
    return not any(root.is_dir(place) for place in places) and not root.is_file(kernel.image)


def _remove(image: str) -> None:
    record.remove(image)
    proof.forget(image)
    minimum.forget(image)
    kernel_copy.remove(image)
    logger.info("removed %s", image)
