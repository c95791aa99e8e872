"""Set up the loop devices that targets stand on: mount what holds the file, then make a device of it."""

from kdump_initramfs import devices
from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.model import Contribution, HostFacts, Link, StorageLayer, Text
from kdump_initramfs.storage import LoopDevice, OnBlockDevices, layers


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    # The lowest first: a file may lie on what is behind another one.
    loops = layers(host.targets, LoopDevice)
    if not loops:
        return None
    raise_together([problem for found in loops.found for problem in _problems(host, *found)])
    numbers = {name: number for number, name in enumerate(loops.names)}
    filesystems = [device.file.filesystem for device in loops.devices]
    modules = (module for each in filesystems for module in devices.FILESYSTEMS[each.type].modules)
    return StorageLayer(
        modules=tuple(dict.fromkeys(("loop", *modules))),
        modaliases=tuple(dict.fromkeys(name for each in filesystems for name in each.requests)),
        entries=(
            Link(path="/bin/losetup", target=host.tools.busybox, reason="busybox applet"),
            *(entry for target, device in loops.found for entry in _described(numbers[device.name], target, device)),
        ),
        target_settings={
            target: {"KDUMP_LOOPS": " ".join(str(numbers[device.name]) for device in found)}
            for target, found in loops.by_target.items()
        },
        provides=loops.names,
    )


def _described(number: int, target: OnBlockDevices, device: LoopDevice) -> tuple[Text, ...]:
    """Return how the devices below are known, and which file on them it is, as a line: offset, path."""
    return (
        *devices.filesystem(f"loop-{number}", target, device.file.filesystem, target.under(device)),
        Text(
            path=f"{devices.DIRECTORY}/loop-{number}.file",
            content=f"{device.file.offset_bytes} {device.file.path}\n",
            reason=f"the file behind {device.name}",
        ),
    )


def _problems(host: HostFacts, target: OnBlockDevices, device: LoopDevice) -> list[KdumpError]:
    file = device.file
    where = f"{target.name}: {device.name} (/{file.path})"
    problems: list[KdumpError] = []
    if "losetup" not in host.tools.busybox_applets:
        problems.append(
            HostError(
                f"{where}: {host.tools.busybox} was built without losetup",
                hint="install a busybox with all applets, such as Debian's busybox-static",
            )
        )
    if file.filesystem.type not in devices.FILESYSTEMS:
        problems.append(
            HostError(
                f"{where}: on {file.filesystem.type}, which the capture environment cannot mount",
                hint=f"move the file to one of {', '.join(devices.FILESYSTEMS)}",
            )
        )
    if "\n" in file.path:
        problems.append(HostError(f"{where}: has a line break in its path", hint="rename the file"))
    return problems
