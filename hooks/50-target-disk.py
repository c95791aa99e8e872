"""Drive targets that are a directory on a file system of block devices."""

from kdump_initramfs import devices
from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.model import Contribution, Filesystem, HostFacts, Phase, TargetFacts


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    found = {
        position: (target, target.filesystem)
        for position, target in enumerate(host.targets)
        if target.filesystem is not None and not target.filesystem.tag
    }
    if not found:
        return None
    raise_together(
        [
            _unknown(target, filesystem)
            for target, filesystem in found.values()
            if filesystem.type not in devices.FILESYSTEMS
        ]
    )
    modules = [module for _, filesystem in found.values() for module in devices.FILESYSTEMS[filesystem.type].modules]
    return Contribution(
        modules=tuple(dict.fromkeys(modules)),
        entries=tuple(
            devices.filesystem(f"target-{position}", target, filesystem, target.carriers)
            for position, (target, filesystem) in found.items()
        ),
        target_settings={
            position: {"KDUMP_DEVICE": f"target-{position}", "KDUMP_DIRECTORY": target.directory}
            for position, (target, _) in found.items()
        },
        phase=Phase.TARGET,
        drives=tuple(found),
    )


def _unknown(target: TargetFacts, filesystem: Filesystem) -> KdumpError:
    return HostError(
        f"{target.name}: on {filesystem.type}, which the capture environment cannot mount",
        hint=f"name a directory on one of {', '.join(devices.FILESYSTEMS)} in a [[target]]",
    )
