"""Builds an image again where it is missing or stale; where that cannot be done, what is there is good enough.

A machine that could be armed with an older image stays armed: a dump by yesterday's configuration is better than none.
"""

import logging
from collections.abc import Iterator

from kdump_initramfs import build
from kdump_initramfs.config import Config, PathTarget
from kdump_initramfs.errors import HostError, ImageError, KdumpError, raise_together
from kdump_initramfs.host import fstab, kernel, mounts
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.loader import kexec, staleness

logger = logging.getLogger(__name__)


def rebuild(root: Root, config: Config, image: str) -> None:
    """Build `image` if it is missing or stale; raise KdumpError where that fails and there is none that fits."""
    reasons = reasons_to_build(root, config, image)
    if not reasons:
        logger.debug("%s: is what would be built", image)
        return
    for reason in reasons:
        logger.info("%s", reason)
    try:
        check_mounted(root, config)
        build.output_path(root, config, config.kernel.version or kernel.running_release(root))
        build.build(root, config, output=image)
    except KdumpError as error:
        _check_usable(root, config, image, error)
        logger.warning("%s", error)
        logger.warning("%s: could not be built again, so the one that is there is taken", image)
    else:
        logger.info("built %s", image)


def reasons_to_build(root: Root, config: Config, image: str) -> tuple[str, ...]:
    """Return why the image must be built; nothing if it need not."""
    try:
        described = record.read(image)
    except ImageError as error:
        return (str(error),)
    return staleness.reasons(root, config, described)


def _check_usable(root: Root, config: Config, image: str, error: KdumpError) -> None:
    """Raise `error` where there is no image, or none that fits its kernel."""
    try:
        kexec.command(root, config, image)
    except KdumpError:
        raise error from None


def check_mounted(root: Root, config: Config, *, on_demand: bool = False) -> None:
    """Raise while a target's file system is not mounted: the directory would be that of another one.

    `on_demand`: those that /etc/fstab mounts on demand (noauto) count, too.
    """
    if mounts.are_known(root):
        entries = tuple(entry for entry in fstab.read(root) if on_demand or "noauto" not in entry.options)
        mounted = {mount.mount_point for mount in mounts.read(root)}
        raise_together(list(_unmounted(root, config, entries, mounted)))


def _unmounted(root: Root, config: Config, entries: tuple[fstab.Entry, ...], mounted: set[str]) -> Iterator[HostError]:
    for target in config.targets:
        entry = fstab.holder(entries, root.resolve(target.path)) if isinstance(target, PathTarget) else None
        if entry is not None and entry.mount_point and entry.mount_point not in mounted:
            yield HostError(
                f"{entry.mount_point}: is not mounted, though /etc/fstab has it and a dump target is on it",
                hint=f"mount {entry.mount_point}",
            )
