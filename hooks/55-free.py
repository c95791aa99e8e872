"""Generic images: give back the memory of the drivers that nothing has asked for."""

from kdump_initramfs.config import Config
from kdump_initramfs.model import Contribution, HostFacts, Phase


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    return Contribution(phase=Phase.SAVE) if config.image.mode == "generic" else None
