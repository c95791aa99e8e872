"""The storage of a target made again on a scratch disk: the same layers with the same UUIDs, in a guest."""

import os
import struct
from typing import Literal

from msgspec import Struct

from kdump_initramfs.errors import RehearsalError
from kdump_initramfs.rehearsal.qemu import Bus
from kdump_initramfs.storage import (
    DirectoryTarget,
    Disk,
    LogicalVolume,
    Partition,
    ShareTarget,
    TargetFacts,
    UnseenDevice,
)

_MIB = 1 << 20
_SECTOR_BYTES = 512
_PARTITION_START = 2048  # sectors: 1 MiB, where partitioning tools begin
_EXTENT_SECTORS = 8192  # 4 MiB, the default of vgcreate(8)
_PV_START = 2048  # pe_start: 1 MiB, the default of pvcreate(8)

# The bus on which QEMU offers a disk that this driver drives.
_BUSES: dict[str, Bus] = {
    "virtio_blk": "virtio-blk",
    "virtio_scsi": "virtio-scsi",
    "nvme": "nvme",
    "ahci": "ahci",
}

_MKFS = {
    "ext2": ("mkfs.ext2", "-q -F -U {uuid}"),
    "ext3": ("mkfs.ext3", "-q -F -U {uuid}"),
    "ext4": ("mkfs.ext4", "-q -F -U {uuid}"),
    "xfs": ("mkfs.xfs", "-q -f -m uuid={uuid}"),
}
# What file systems of these types ask the kernel for as they are made by default.
_COMMON_REQUESTS = frozenset({"crypto-crc32c"})


class Recipe(Struct, frozen=True, kw_only=True):
    """How to make, and how to open, the storage of one target."""

    bus: Bus
    # What the disk begins with before the guest sees it; "" for an empty one.
    partition_table: Literal["", "mbr"]
    # Programs that the guest needs.
    binaries: tuple[str, ...]
    # Scripts of the guest, which find the disk in $VICTIM_DISK and its partition in $VICTIM_PARTITION; `open` mounts
    # the file system at /mnt.
    make: str
    open: str
    # Where on the file system the dumps are; see DirectoryTarget.
    directory: str
    # Description of the volume group for vgcfgrestore(8); "" without LVM.
    lvm_metadata: str = ""


def recipe(target: TargetFacts, disk_bytes: int) -> Recipe:
    """Return the recipe for a disk of that size; RehearsalError where a layer cannot be made again here."""
    if not isinstance(target, DirectoryTarget):
        what = "a share" if isinstance(target, ShareTarget) else "a target without a file system"
        raise RehearsalError(f"{target.name}: {what} cannot be rehearsed yet", hint=_OTHER)
    program, options = _mkfs(target)
    disk = _only_disk(target)
    partition = next((device for device in target.stack if isinstance(device, Partition)), None)
    lvm = next((device for device in target.stack if isinstance(device, LogicalVolume)), None)
    odd = [device for device in target.stack if device not in (disk, partition, lvm)]
    if odd:
        raise RehearsalError(f"{target.name}: a device of kind {odd[0].kind} cannot be rehearsed yet", hint=_OTHER)
    below = "$VICTIM_PARTITION" if partition else "$VICTIM_DISK"
    mkfs = f"{program} {options}"
    if lvm is None:
        make, device = "", below
        activate = ""
    else:
        make, device = _make_lvm(lvm, below), f"/dev/mapper/{lvm.dm_name}"
        activate = "lvm vgchange -ay --sysinit --noudevsync\nlvm vgmknodes\n"
    return Recipe(
        bus=_bus(disk),
        partition_table="mbr" if partition else "",
        binaries=(program, *(("lvm",) if lvm else ())),
        make=f'{make}{mkfs} "{device}"\n',
        open=f'{activate}mount "{device}" /mnt\n',
        directory=target.directory,
        lvm_metadata=_lvm_metadata(target, lvm, disk_bytes) if lvm else "",
    )


_OTHER = "name another target with --set target=[…], and build an image for it"


def _only_disk(target: DirectoryTarget) -> Disk | UnseenDevice:
    disks = [device for device in target.stack if isinstance(device, Disk | UnseenDevice)]
    if len(disks) != 1:
        raise RehearsalError(f"{target.name}: stands on {len(disks)} disks; one can be rehearsed yet", hint=_OTHER)
    return disks[0]


def _bus(disk: Disk | UnseenDevice) -> Bus:
    if isinstance(disk, UnseenDevice):
        return "virtio-blk"  # a generic image for a disk that was not there: any disk will do
    for driver in disk.drivers:
        if driver in _BUSES:
            return _BUSES[driver]
    drivers = ", ".join(disk.drivers) or "a built-in driver"
    raise RehearsalError(f"{disk.name}: QEMU has no disk for {drivers}", hint=_OTHER)


def _mkfs(target: DirectoryTarget) -> tuple[str, str]:
    """Return the program that makes the file system, and its options."""
    filesystem = target.filesystem
    if not filesystem.uuid or filesystem.type not in _MKFS:
        raise RehearsalError(f"{target.name}: {filesystem.type} cannot be rehearsed yet", hint=_OTHER)
    if filesystem.further:
        options = ", ".join(each.option for each in filesystem.further)
        raise RehearsalError(
            f"{target.name}: its {filesystem.type} has a device of its own ({options}), which cannot be made again yet",
            hint=_OTHER,
        )
    if odd := sorted(set(filesystem.requests) - _COMMON_REQUESTS):
        raise RehearsalError(
            f"{target.name}: its {filesystem.type} asks the kernel for {', '.join(odd)}, which one that is made here "
            "would not",
            hint=_OTHER,
        )
    program, options = _MKFS[filesystem.type]
    return program, options.format(uuid=filesystem.uuid)


# --- LVM ---------------------------------------------------------------------------------------------------------

_PV_UUID = "kdumpi-nitr-amfs-rehe-arsa-ldis-k00000"
METADATA_PATH = "/etc/victim/volume-group"


def _names(volume: LogicalVolume) -> tuple[str, str]:
    """Return names of group and volume; dm/name joins them by one dash, and doubles those inside of them."""
    group, _, logical = volume.dm_name.replace("--", "\0").partition("-")
    return group.replace("\0", "-"), logical.replace("\0", "-")


def _make_lvm(volume: LogicalVolume, device: str) -> str:
    group, _ = _names(volume)
    return (
        f'lvm pvcreate -ff -y --uuid {_PV_UUID} --restorefile {METADATA_PATH} "{device}"\n'
        f"lvm vgcfgrestore -f {METADATA_PATH} {group}\n"
        "lvm vgchange -ay --sysinit --noudevsync\n"
        "lvm vgmknodes\n"
    )


_METADATA = """\
contents = "Text Format Volume Group"
version = 1
{group} {{
id = "{group_uuid}"
seqno = 1
format = "lvm2"
status = ["RESIZEABLE", "READ", "WRITE"]
flags = []
extent_size = {extent_sectors}
max_lv = 0
max_pv = 0
metadata_copies = 0
physical_volumes {{
pv0 {{
id = "{pv_uuid}"
status = ["ALLOCATABLE"]
flags = []
dev_size = {sectors}
pe_start = {pv_start}
pe_count = {extents}
}}
}}
logical_volumes {{
{logical} {{
id = "{logical_uuid}"
status = ["READ", "WRITE", "VISIBLE"]
flags = []
segment_count = 1
segment1 {{
start_extent = 0
extent_count = {extents}
type = "striped"
stripe_count = 1
stripes = ["pv0", 0]
}}
}}
}}
}}
"""


def _lvm_metadata(target: DirectoryTarget, volume: LogicalVolume, disk_bytes: int) -> str:
    """Return a volume group of one physical and one logical volume, with the UUIDs of the real one."""
    group, logical = _names(volume)
    both = volume.dm_uuid.removeprefix("LVM-")
    on_partition = any(isinstance(device, Partition) for device in target.stack)
    sectors = disk_bytes // _SECTOR_BYTES - (_PARTITION_START if on_partition else 0)
    return _METADATA.format(
        group=group,
        logical=logical,
        group_uuid=_dashed(both[:32]),
        logical_uuid=_dashed(both[32:64]),
        pv_uuid=_PV_UUID,
        sectors=sectors,
        pv_start=_PV_START,
        extent_sectors=_EXTENT_SECTORS,
        extents=(sectors - _PV_START) // _EXTENT_SECTORS,
    )


def _dashed(uuid: str) -> str:
    return "-".join((uuid[:6], uuid[6:10], uuid[10:14], uuid[14:18], uuid[18:22], uuid[22:26], uuid[26:]))


def disk_bytes(target: TargetFacts) -> int:
    """Return how large the disk must be: the capture environment knows a disk or a partition by its size; 0 for any."""
    match target:
        case DirectoryTarget(device=Partition(size_bytes=size_bytes)) if size_bytes:
            return size_bytes + _PARTITION_START * _SECTOR_BYTES
        case DirectoryTarget(device=Disk(size_bytes=size_bytes)):
            return size_bytes
        case _:
            return 0


# --- the scratch disk --------------------------------------------------------------------------------------------


def write_disk(path: str, size_bytes: int, partition_table: str) -> None:
    """Make a sparse disk image, with one partition over all of it where that is wanted."""
    with open(path, "wb") as stream:
        os.truncate(stream.fileno(), size_bytes)
        if partition_table == "mbr":
            stream.write(_mbr(size_bytes // _SECTOR_BYTES))


def _mbr(sectors: int) -> bytes:
    """Return a master boot record: one entry of 16 bytes at 446 (status, CHS, type, CHS, start, length), then 55 AA."""
    everywhere = b"\xfe\xff\xff"  # cylinder, head and sector that say: see the sector numbers
    entry = struct.pack("<B3sB3sII", 0, everywhere, 0x83, everywhere, _PARTITION_START, sectors - _PARTITION_START)
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"
