"""Drive targets that are a directory on a file system of a block device."""

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import superblock
from kdump_initramfs.model import Contribution, HostFacts, Phase, TargetFacts

# The module that mounts each type; the kernel's ext4 mounts ext2 and ext3 as well.
_MODULES = {"ext2": "ext4", "ext3": "ext4", "ext4": "ext4", "xfs": "xfs"}


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    if not host.targets:
        return None
    for target in host.targets:
        if target.filesystem.type not in _MODULES:
            raise HostError(
                f"{target.name}: on {target.filesystem.type}, which the capture environment cannot mount",
                hint=f"name a directory on one of {', '.join(_MODULES)} in a [[target]]",
            )
    return Contribution(
        modules=tuple(dict.fromkeys(_MODULES[target.filesystem.type] for target in host.targets)),
        target_settings={position: _settings(target) for position, target in enumerate(host.targets)},
        phase=Phase.TARGET,
        drives=tuple(range(len(host.targets))),
    )


def _settings(target: TargetFacts) -> dict[str, str]:
    layout = superblock.KNOWN[target.filesystem.type]
    return {
        "KDUMP_FS_TYPE": _MODULES[target.filesystem.type],
        "KDUMP_FS_OPTIONS": ",".join(("rw", "nosuid", "nodev", "noexec", *target.filesystem.options)),
        # How the device is known by its content: offset, length and hexadecimal bytes.
        "KDUMP_FS_MAGIC": f"{layout.magic_offset} {len(layout.magic)} {layout.magic.hex()}",
        "KDUMP_FS_UUID": f"{layout.uuid_offset} {layout.uuid_bytes} {target.filesystem.uuid.replace('-', '').lower()}",
        # How a device-mapper device is known besides; empty for others.
        "KDUMP_FS_DM_UUID": target.device.dm_uuid,
        "KDUMP_DIRECTORY": target.directory,
    }
