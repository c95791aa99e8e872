"""Load the modules of the image; the plan writes their list, in load order, to /etc/kdump/modules."""

from kdump_initramfs.config import Config
from kdump_initramfs.model import BootStep, Contribution, HostFacts


def contribute(config: Config, host: HostFacts) -> Contribution:
    return BootStep()
