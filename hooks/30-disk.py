"""Drivers of the disks that the targets stand on, up to their buses; partitions come with their disk."""

from kdump_initramfs.config import Config
from kdump_initramfs.model import Contribution, HostFacts


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    disks = [device for target in host.targets for device in target.stack if device.kind in ("disk", "partition")]
    if not disks:
        return None
    # The bus first: a disk's driver finds nothing before its controller is there.
    drivers = tuple(module for disk in disks for module in reversed(disk.drivers))
    modaliases = tuple(alias for disk in disks for alias in reversed(disk.modaliases))
    is_generic = config.image.mode == "generic"
    return Contribution(
        modules=() if is_generic else drivers,
        # In a generic image they are known from another machine, or another kernel: what this one lacks is passed over.
        modaliases=(*drivers, *modaliases) if is_generic else modaliases,
        provides=tuple(disk.name for disk in disks),
    )
