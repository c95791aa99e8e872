"""An example of a layer: devices that dmsetup(8) has made of one whole device, each with a uuid that begins LINEAR-."""

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError
from kdump_initramfs.model import Contribution, HostFacts, StorageLayer
from kdump_initramfs.storage import MappedDevice, OnBlockDevices, Partition, layers


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    mapped = layers(host.targets, MappedDevice).by_target
    found = {
        target: [each for each in devices if each.dm_uuid.startswith("LINEAR-")] for target, devices in mapped.items()
    }
    every = [device.name for devices in found.values() for device in devices]
    if not every:
        return None
    if not host.tools.dmsetup:
        raise HostError("dmsetup: no such program, but the dump target needs it", hint="install dmsetup")
    return StorageLayer(
        binaries=(host.tools.dmsetup,),
        modules=("dm_mod",),
        target_settings={
            target: {
                "KDUMP_DMSETUP": host.tools.dmsetup,
                # For each: uuid, and the UUID of the partition that it is made of.
                "KDUMP_LINEAR": " ".join(word for device in devices for word in _words(target, device)),
            }
            for target, devices in found.items()
            if devices
        },
        provides=tuple(every),
    )


def _words(target: OnBlockDevices, device: MappedDevice) -> list[str]:
    below = (each for each in target.under(device) if isinstance(each, Partition))
    return [f"{device.dm_uuid} {each.part_uuid}" for each in below]
