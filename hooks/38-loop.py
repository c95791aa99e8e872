"""Set up the loop devices that targets stand on: mount what holds the file, then make a device of it."""

from kdump_initramfs import devices
from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.model import (
    BlockDevice,
    Contribution,
    HostFacts,
    Link,
    LoopFile,
    OnFailure,
    Phase,
    TargetFacts,
    Text,
)


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    # The lowest first: a file may lie on what is behind another one.
    every = {
        device.name: (target, device, device.loop)
        for target in host.targets
        for device in reversed(target.stack)
        if device.loop is not None
    }
    if not every:
        return None
    raise_together([problem for found in every.values() for problem in _problems(host, *found)])
    numbers = {name: number for number, name in enumerate(every)}
    modules = (module for _, _, file in every.values() for module in devices.FILESYSTEMS[file.filesystem.type].modules)
    return Contribution(
        modules=tuple(dict.fromkeys(("loop", *modules))),
        entries=(
            Link(path="/bin/losetup", target=host.tools.busybox, reason="busybox applet"),
            *(entry for name, found in every.items() for entry in _described(numbers[name], *found)),
        ),
        target_settings={
            position: {"KDUMP_LOOPS": " ".join(str(numbers[name]) for name in numbers if name in names)}
            for position, target in enumerate(host.targets)
            if (names := {device.name for device in target.stack if device.loop is not None})
        },
        provides=tuple(every),
        phase=Phase.STORAGE,
        on_failure=OnFailure.STOP,
    )


def _described(number: int, target: TargetFacts, device: BlockDevice, file: LoopFile) -> tuple[Text, Text]:
    """Return how the devices below are known, and which file on them it is, as a line: offset, path."""
    return (
        devices.filesystem(f"loop-{number}", target, file.filesystem, target.under(device)),
        Text(
            path=f"{devices.DIRECTORY}/loop-{number}.file",
            content=f"{file.offset_bytes} {file.path}\n",
            reason=f"the file behind {device.name}",
        ),
    )


def _problems(host: HostFacts, target: TargetFacts, device: BlockDevice, file: LoopFile) -> list[KdumpError]:
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
