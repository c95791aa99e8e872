"""From a directory of sysfs to the layer that a block device is; what is not recognised is an `UnknownDevice`.

Format: Documentation/ABI/stable/sysfs-block, Documentation/ABI/testing/sysfs-block-dm and
Documentation/admin-guide/md.rst of the kernel.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import TypedDict

from msgspec.structs import replace

from kdump_initramfs.formats import partition
from kdump_initramfs.host import content, device_mapper, hardware, lvm_backup
from kdump_initramfs.host.root import Root
from kdump_initramfs.storage import (
    Array,
    BlockDevice,
    Content,
    CryptDevice,
    Disk,
    LogicalVolume,
    LoopDevice,
    LoopFile,
    MappedDevice,
    MultipathDevice,
    Partition,
    UnknownDevice,
)

_SECTOR_BYTES = 512  # unit of /sys/block/*/size whatever the device (Documentation/ABI/stable/sysfs-block)
# By the prefix of dm/uuid, which names who made the device (device-mapper.h, DM_UUID conventions).
_Mapped = LogicalVolume | CryptDevice | MultipathDevice | MappedDevice
_MAPPED: Mapping[str, type[_Mapped]] = {"LVM": LogicalVolume, "CRYPT": CryptDevice, "mpath": MultipathDevice}
# kpartx(8) puts partN- before the UUID of the device that the partition is on.
_remove_part = re.compile(r"^part[0-9]+-(?=mpath-)").sub
# md/metadata_version of arrays that the kernel and mdadm(8) assemble by what is on their members alone.
_is_native = re.compile(r"0\.90|1\.[0-2]").fullmatch
# md/level of what holds data (Documentation/admin-guide/md.rst); `faulty` is for tests, `container` holds arrays.
_LEVELS = frozenset({"linear", "raid0", "raid1", "raid4", "raid5", "raid6", "raid10", "multipath"})
_IN_CONTAINER = "an array with external metadata (IMSM or DDF: the firmware's RAID)"
_ANOTHER = "name a target on a disk of this machine"

# Takes the kernel name and the directory of a loop device; returns the file behind it, and the names of the devices
# that carry the file.
Follow = Callable[[str, str], tuple[LoopFile, tuple[str, ...]]]


class _Common(TypedDict):
    """What all layers have."""

    name: str
    number: str
    size_bytes: int
    content: Content
    below: tuple[str, ...]


def read(root: Root, directory: str, follow: Follow) -> BlockDevice:
    """Return the device at `directory`, with what lies on it."""
    common = _common(root, directory)
    if root.exists(f"{directory}/partition"):
        return _partition(root, directory, common)
    if root.exists(f"{directory}/dm"):
        return _mapped(root, directory, common)
    if root.exists(f"{directory}/md"):
        return _array(root, directory, common)
    if root.exists(f"{directory}/loop/backing_file"):
        file, common["below"] = follow(common["name"], directory)
        return LoopDevice(**common, file=file)
    return _disk(root, directory, common)


def name(directory: str) -> str:
    """Return the kernel name of a device; sysfs writes the slash of cciss/c0d0 as an exclamation mark."""
    return os.path.basename(directory).replace("!", "/")


def content_of(root: Root, directory: str) -> Content:
    """Return what lies on the device at `directory`."""
    return content.read(root, name(directory), root.read_word(f"{directory}/dev"), _size_bytes(root, directory))


def _size_bytes(root: Root, directory: str) -> int:
    return int(root.read_word(f"{directory}/size") or 0) * _SECTOR_BYTES


def _common(root: Root, directory: str) -> _Common:
    return _Common(
        name=name(directory),
        number=root.read_word(f"{directory}/dev"),
        size_bytes=_size_bytes(root, directory),
        content=content_of(root, directory),
        below=tuple(slave.replace("!", "/") for slave in root.list(f"{directory}/slaves")),
    )


def _partition(root: Root, directory: str, common: _Common) -> Partition:
    common["below"] = (name(os.path.dirname(directory)),)
    return Partition(**common, part_uuid=_part_uuid(root, directory, common["number"]))


def _part_uuid(root: Root, directory: str, number: str) -> str:
    """Return the UUID of a partition as udev has recorded it, or as the table on its disk says."""
    if recorded := content.udev(root, number).get("ID_PART_ENTRY_UUID", ""):
        return recorded.lower()
    disk = os.path.dirname(directory)
    sector_bytes = int(root.read_word(f"{disk}/queue/logical_block_size") or _SECTOR_BYTES)
    return partition.part_uuid(
        lambda offset, size: content.part(root, name(disk), offset, size),
        int(root.read_word(f"{directory}/partition")),
        sector_bytes,
    )


def _mapped(root: Root, directory: str, common: _Common) -> _Mapped:
    dm_uuid = root.read_word(f"{directory}/dm/uuid")
    maker: type[_Mapped] = _MAPPED.get(_remove_part("", dm_uuid).partition("-")[0], MappedDevice)
    table = device_mapper.table(root, common["number"])
    found = maker(
        **common,
        dm_name=root.read_word(f"{directory}/dm/name"),
        dm_uuid=dm_uuid,
        target_types=tuple(dict.fromkeys(target.type for target in table)),
        requests=tuple(dict.fromkeys(request for target in table for request in target.requests)),
    )
    return _of_group(root, found) if isinstance(found, LogicalVolume) else found


def _of_group(root: Root, volume: LogicalVolume) -> LogicalVolume:
    """Return a logical volume with what LVM has written of its group."""
    written = lvm_backup.text(root, lvm_backup.group_of(volume.dm_name))
    return replace(volume, system_id=lvm_backup.system_id(written), lock_type=lvm_backup.lock_type(written))


def _array(root: Root, directory: str, common: _Common) -> Array | UnknownDevice:
    metadata = root.read_word(f"{directory}/md/metadata_version")
    if metadata and not _is_native(metadata):
        seems = _IN_CONTAINER if metadata.startswith("external:") else f"an array with metadata={metadata}"
        return UnknownDevice(**common, seems=seems, remedy=f"{_ANOTHER}, or on an array that mdadm created")
    if root.read_word(f"{directory}/md/bitmap/metadata") == "clustered":
        remedy = f"{_ANOTHER}: no lock manager runs after a crash"
        return UnknownDevice(**common, seems="an array of a cluster (md-cluster)", remedy=remedy)
    level = root.read_word(f"{directory}/md/level")
    if level not in _LEVELS:
        seems = f"an array of level {level or 'none'}, which keeps no data safe"
        return UnknownDevice(**common, seems=seems, remedy=_ANOTHER)
    return Array(**common, level=level)


def _disk(root: Root, directory: str, common: _Common) -> Disk | UnknownDevice:
    found = hardware.read(root, directory)
    if isinstance(found, hardware.NotOurs):
        return UnknownDevice(**common, seems=found.seems, remedy=found.remedy)
    if common["below"]:
        seems = f"a device on {', '.join(common['below'])}"
        return UnknownDevice(**common, seems=seems, remedy=_ANOTHER)
    return Disk(**common, drivers=found.drivers, modaliases=found.modaliases, disk_id=hardware.disk_id(root, directory))
