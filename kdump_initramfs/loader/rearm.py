"""Builds an image again where it is missing or stale; where that cannot be done, what is there is good enough.

A machine that could be armed with an older image stays armed: a dump by yesterday's configuration is better than none.
"""

import logging

from kdump_initramfs import build
from kdump_initramfs.config import Config
from kdump_initramfs.errors import ImageError, KdumpError
from kdump_initramfs.host import kernel
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
