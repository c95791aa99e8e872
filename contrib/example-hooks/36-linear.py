"""An example of a layer: devices that dmsetup(8) has made of one whole device, each with a uuid that begins LINEAR-."""

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError
from kdump_initramfs.model import BlockDevice, Contribution, HostFacts, OnFailure, Phase


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    found = {position: _linear(target.stack) for position, target in enumerate(host.targets)}
    every = [device.name for devices in found.values() for device in devices]
    if not every:
        return None
    if not host.tools.dmsetup:
        raise HostError("dmsetup: no such program, but the dump target needs it", hint="install dmsetup")
    return Contribution(
        binaries=(host.tools.dmsetup,),
        modules=("dm_mod",),
        target_settings={
            position: {
                "KDUMP_DMSETUP": host.tools.dmsetup,
                # For each: uuid, and the UUID of the partition that it is made of.
                "KDUMP_LINEAR": " ".join(
                    f"{device.dm_uuid} {below.part_uuid}"
                    for device in devices
                    for below in host.targets[position].under(device)
                ),
            }
            for position, devices in found.items()
            if devices
        },
        provides=tuple(every),
        phase=Phase.STORAGE,
        on_failure=OnFailure.STOP,
    )


def _linear(stack: tuple[BlockDevice, ...]) -> list[BlockDevice]:
    return [device for device in stack if device.kind == "dm" and device.dm_uuid.startswith("LINEAR-")]
