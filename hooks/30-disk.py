"""Drivers of the disks that the targets stand on, up to their buses; partitions come with their disk."""

from kdump_initramfs.config import Config
from kdump_initramfs.model import Contribution, HostFacts, StorageLayer
from kdump_initramfs.storage import Disk, Partition, UnseenDevice, stack_of

# A device that was not seen is whatever asks for a driver in a generic image; a site may have a hook for what it is.
_HARDWARE = (Disk, Partition, UnseenDevice)


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    hardware = [device for target in host.targets for device in stack_of(target) if isinstance(device, _HARDWARE)]
    if not hardware:
        return None
    disks = [device for device in hardware if isinstance(device, Disk)]
    # The bus first: a disk's driver finds nothing before its controller is there.
    drivers = tuple(module for disk in disks for module in reversed(disk.drivers))
    modaliases = tuple(alias for disk in disks for alias in reversed(disk.modaliases))
    is_generic = config.image.mode == "generic"
    return StorageLayer(
        modules=() if is_generic else drivers,
        # In a generic image they are known from another machine, or another kernel: what this one lacks is passed over.
        modaliases=(*drivers, *modaliases) if is_generic else modaliases,
        provides=tuple(dict.fromkeys(device.name for device in hardware)),
    )
