"""The spine: if you read one file, read this one."""

import logging
import os

from kdump_initramfs import hooks
from kdump_initramfs.config import Config, ImageSection
from kdump_initramfs.errors import ImageError, Problems
from kdump_initramfs.host import probe
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import plan as planning
from kdump_initramfs.image import write
from kdump_initramfs.model import HostFacts, ImageRecord, Plan

logger = logging.getLogger(__name__)


def plan(root: Root, config: Config, *, facts_of: HostFacts | None = None) -> Plan:
    """Return what would be built: facts, then what the hooks make of them, then every file of the image."""
    host = probe.read(root, config, facts_of=facts_of)
    problems = Problems()
    contributions = hooks.contribute(config, host, root=root, problems=problems)
    return planning.make(root, config, host, contributions, problems=problems)


def build(root: Root, config: Config, *, output: str = "", facts_of: HostFacts | None = None) -> ImageRecord:
    """Build the capture image that `config` describes, and return the record of what was written."""
    blueprint = plan(root, config, facts_of=facts_of)
    for warning in blueprint.warnings:
        logger.warning("%s", warning)
    return write.write(blueprint, root, output or output_path(root, config, blueprint.kernel.release))


def output_path(root: Root, config: Config, release: str) -> str:
    """Return where the image of a kernel belongs; the directory of the default is made where it is missing."""
    path = root.host(config.image.output.replace("{kernel}", release))
    if config.image.output == ImageSection().output:
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        except OSError as error:
            raise ImageError(f"{error.filename}: {error.strerror}", hint="name another place with --output") from error
    return path
