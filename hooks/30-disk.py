"""Drivers of the disks that the targets stand on, up to their buses; partitions come with their disk."""

from kdump_initramfs.config import Config
from kdump_initramfs.model import Contribution, HostFacts


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    disks = [device for target in host.targets for device in target.stack if device.kind in ("disk", "partition")]
    if not disks:
        return None
    return Contribution(
        # The bus first: a disk's driver finds nothing before its controller is there.
        modules=tuple(module for disk in disks for module in reversed(disk.drivers)),
        modaliases=tuple(alias for disk in disks for alias in reversed(disk.modaliases)),
        provides=tuple(disk.name for disk in disks),
    )
