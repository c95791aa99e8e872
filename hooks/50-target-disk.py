"""Drive targets that are a directory on a file system of block devices."""

import re

from msgspec import Struct

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import superblock
from kdump_initramfs.model import BlockDevice, Contribution, HostFacts, Phase, TargetFacts

_SECTOR_BYTES = 512
_ENCODED = ("lvm", "crypt", "multipath", "dm")


class _Type(Struct, frozen=True):
    """How the capture kernel mounts a type of file system."""

    modules: tuple[str, ...]
    options: tuple[str, ...] = ()
    # Where the type's own name is not what is mounted.
    mounted_as: str = ""


# FAT knows no modes: everything gets those of the mount. Its names here are ASCII.
_FAT = ("umask=0077", "codepage=437", "iocharset=ascii")
_TYPES = {
    "ext2": _Type(("ext4",), mounted_as="ext4"),
    "ext3": _Type(("ext4",), mounted_as="ext4"),
    "ext4": _Type(("ext4",)),
    "xfs": _Type(("xfs",)),
    # The whole file system, whatever the default subvolume is; and a balance that the crash interrupted stays so.
    "btrfs": _Type(("btrfs",), ("subvolid=5", "skip_balance")),
    "f2fs": _Type(("f2fs",)),
    "vfat": _Type(("vfat", "nls_cp437", "nls_ascii"), _FAT),
    "exfat": _Type(("exfat",), ("umask=0077",)),
}


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    if not host.targets:
        return None
    for target in host.targets:
        if target.filesystem.type not in _TYPES:
            raise HostError(
                f"{target.name}: on {target.filesystem.type}, which the capture environment cannot mount",
                hint=f"name a directory on one of {', '.join(_TYPES)} in a [[target]]",
            )
    modules = [module for target in host.targets for module in _TYPES[target.filesystem.type].modules]
    return Contribution(
        modules=tuple(dict.fromkeys(modules)),
        target_settings={position: _settings(target) for position, target in enumerate(host.targets)},
        phase=Phase.TARGET,
        drives=tuple(range(len(host.targets))),
    )


def _settings(target: TargetFacts) -> dict[str, str]:
    filesystem = target.filesystem
    kind = _TYPES[filesystem.type]
    carriers = [device for device in target.stack if device.name in target.devices] or list(target.stack[:1])
    return {
        "KDUMP_FS_TYPE": kind.mounted_as or filesystem.type,
        "KDUMP_FS_OPTIONS": ",".join(("rw", "nosuid", "nodev", "noexec", *kind.options, *filesystem.options)),
        "KDUMP_FS_UUID": filesystem.uuid,
        # How the device is known by its content: offset, length and hexadecimal bytes, of magic and of UUID.
        "KDUMP_FS_CONTENT": " ".join(
            f"{layout.magic_offset} {len(layout.magic)} {layout.magic.hex()} "
            f"{layout.uuid_offset} {layout.uuid_bytes} {superblock.stored(layout, filesystem.uuid)}"
            for layout in superblock.layouts(filesystem.type)
        ),
        "KDUMP_FS_COUNT": str(max(1, len(carriers))),
        # How it is known besides: by dm/uuid (its beginning), or by its sectors and the id of its disk.
        "KDUMP_FS_DM_UUIDS": " ".join(_dm_prefix(device) for device in carriers if device.kind in _ENCODED),
        "KDUMP_FS_DISKS": " ".join(
            f"{device.size_bytes // _SECTOR_BYTES}:{_disk_id(target, device)}"
            for device in carriers
            if device.kind not in _ENCODED and device.size_bytes
        ),
        "KDUMP_DIRECTORY": target.directory,
    }


def _dm_prefix(device: BlockDevice) -> str:
    """Return dm/uuid as far as it stays: dm-crypt ends it with the name under which a device was opened."""
    return re.sub(r"^(CRYPT-[A-Z0-9]+-[0-9a-f]{32}-).*", r"\1", device.dm_uuid)


def _disk_id(target: TargetFacts, device: BlockDevice) -> str:
    """Return the id of the disk that a device is, or is a partition of; templates/lib.sh reduces it likewise."""
    disk = device if device.kind != "partition" else next(iter(target.under(device)), device)
    return re.sub(r"[^A-Za-z0-9.+=:-]+", "_", disk.disk_id).strip("_")
