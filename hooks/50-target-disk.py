"""Drive targets that are a directory on a file system of block devices."""

from kdump_initramfs import devices
from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.model import Contribution, HostFacts, TargetDriver
from kdump_initramfs.storage import DirectoryTarget


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    # The number of a target is in the names of its files.
    found = {target: number for number, target in enumerate(host.targets) if isinstance(target, DirectoryTarget)}
    if not found:
        return None
    raise_together([_unknown(target) for target in found if target.filesystem.type not in devices.FILESYSTEMS])
    modules = [module for target in found for module in devices.FILESYSTEMS[target.filesystem.type].modules]
    return TargetDriver(
        modules=tuple(dict.fromkeys(modules)),
        modaliases=tuple(dict.fromkeys(name for target in found for name in target.filesystem.requests)),
        entries=tuple(
            entry
            for target, number in found.items()
            for entry in devices.filesystem(f"target-{number}", target, target.filesystem, target.carriers)
        ),
        drives={
            target: {"KDUMP_DEVICE": f"target-{number}", "KDUMP_DIRECTORY": target.directory}
            for target, number in found.items()
        },
    )


def _unknown(target: DirectoryTarget) -> KdumpError:
    return HostError(
        f"{target.name}: on {target.filesystem.type}, which the capture environment cannot mount",
        hint=f"name a directory on one of {', '.join(devices.FILESYSTEMS)} in a [[target]]",
    )
