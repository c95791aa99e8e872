"""Generic images: give back the memory of the drivers that nothing has asked for."""

from kdump_initramfs.config import Config
from kdump_initramfs.model import Contribution, HostFacts, Saver


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    return Saver() if config.image.mode == "generic" else None
