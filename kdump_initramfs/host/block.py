"""Block devices: what sysfs tells of each, and what lies on it.

Format: Documentation/ABI/stable/sysfs-block and Documentation/ABI/testing/sysfs-block-dm of the kernel.
"""

import os
import re

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import partition
from kdump_initramfs.host import content
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import BlockDevice, BlockKind

_SECTOR_BYTES = 512  # unit of /sys/block/*/size whatever the device (Documentation/ABI/stable/sysfs-block)


def directory_of(root: Root, number: str) -> str:
    """Return the sysfs directory of the device "major:minor"; raise HostError where sysfs does not know it."""
    path = f"/sys/dev/block/{number}"
    if not root.exists(path):
        raise HostError(
            f"{path}: no such block device",
            hint="mount /sys, or name a target on a block device: a network or memory file system is none",
        )
    return root.resolve(path)


def directory_below(root: Root, directory: str, name: str) -> str:
    """Return the sysfs directory of the device `name` that stands below the one at `directory`."""
    slave = f"{directory}/slaves/{name.replace('/', '!')}"
    if root.exists(slave):
        return root.resolve(slave)
    return os.path.dirname(directory)  # a partition's disk is the directory above


def holders(root: Root, directory: str) -> tuple[str, ...]:
    """Return the names of the devices that stand on the one at `directory`."""
    return tuple(holder.replace("!", "/") for holder in root.list(f"{directory}/holders"))


def read(root: Root, directory: str) -> BlockDevice:
    """Return what sysfs tells of the device at `directory`, and what lies on it."""
    device = name(directory)
    number = root.read_word(f"{directory}/dev")
    below = tuple(slave.replace("!", "/") for slave in root.list(f"{directory}/slaves"))
    is_partition = root.exists(f"{directory}/partition")
    if is_partition:
        below = (name(os.path.dirname(directory)),)
    dm_uuid = root.read_word(f"{directory}/dm/uuid")
    drivers, modaliases = ((), ()) if below else read_drivers(root, f"{directory}/device")
    size_bytes = int(root.read_word(f"{directory}/size") or 0) * _SECTOR_BYTES
    found = content.read(root, device, number, size_bytes)
    return BlockDevice(
        name=device,
        kind=_kind(root, directory, dm_uuid),
        number=number,
        size_bytes=size_bytes,
        drivers=drivers,
        modaliases=modaliases,
        disk_id=_disk_id(root, directory),
        part_uuid=_part_uuid(root, directory, number) if is_partition else "",
        dm_name=root.read_word(f"{directory}/dm/name"),
        dm_uuid=dm_uuid,
        md_level=root.read_word(f"{directory}/md/level"),
        content_type=found.type,
        content_uuid=found.uuid,
        luks_kdf_kib=content.luks_kdf_kib(root, device),
        below=below,
    )


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


def name(directory: str) -> str:
    """Return the kernel name of a device; sysfs writes the slash of cciss/c0d0 as an exclamation mark."""
    return os.path.basename(directory).replace("!", "/")


# Where a disk tells its WWN or serial number: NVMe, SCSI and SATA, virtio, MMC.
_DISK_IDS = ("wwid", "device/wwid", "serial", "device/serial", "device/cid")


def _disk_id(root: Root, directory: str) -> str:
    return next((word for path in _DISK_IDS if (word := _read_id(root, f"{directory}/{path}"))), "")


def _read_id(root: Root, path: str) -> str:
    """Return what sysfs says; a SCSI disk has the file and yet refuses to read it (EINVAL) where it knows no WWN."""
    try:
        return root.read_word(path)
    except HostError:
        return ""


_DM_KINDS: dict[str, BlockKind] = {"LVM": "lvm", "CRYPT": "crypt", "mpath": "multipath"}
# kpartx(8) puts partN- before the UUID of the device that the partition is on.
_remove_part = re.compile(r"^part[0-9]+-(?=mpath-)").sub


def _kind(root: Root, directory: str, dm_uuid: str) -> BlockKind:
    """Return the kind of device; the prefix of dm/uuid names who made it (device-mapper.h, DM_UUID conventions)."""
    if root.exists(f"{directory}/partition"):
        return "partition"
    if root.exists(f"{directory}/dm"):
        return _DM_KINDS.get(_remove_part("", dm_uuid).partition("-")[0], "dm")
    if root.exists(f"{directory}/md"):
        return "md"
    return "loop" if root.exists(f"{directory}/loop") else "disk"


def read_drivers(root: Root, link: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the modules of the drivers from a device up to its bus, and the modaliases of those without a module.

    `link` is where sysfs has the device, such as /sys/block/sda/device.

    A driver that is built into the running kernel has no driver/module link; in another kernel it may be a module,
    hence the modalias.
    """
    modules: list[str] = []
    modaliases: list[str] = []
    node = root.resolve(link)
    while node.startswith("/sys/devices/") and root.exists(link):
        if root.exists(f"{node}/driver"):
            module = root.resolve(f"{node}/driver/module")
            if root.exists(f"{node}/driver/module"):
                modules.append(os.path.basename(module))
            elif alias := root.read_word(f"{node}/modalias"):
                modaliases.append(alias)
        node = os.path.dirname(node)
    return tuple(modules), tuple(modaliases)


def find(root: Root, spec: str) -> str:
    """Return "major:minor" of the device that a path below /dev, UUID=, LABEL=, PARTUUID= or PARTLABEL= names.

    Raises HostError where there is none.
    """
    key, _, value = spec.partition("=")
    if spec.startswith("/"):
        device, what, columns = root.resolve(spec).removeprefix("/dev/"), "block device", "NAME"
    else:
        what = "partition" if key.startswith("PART") else "file system"
        device, columns = _found_by(root, key, value), f"NAME,{key}"
    number = root.read_word(f"/sys/class/block/{device.replace('/', '!')}/dev") if device else ""
    if not number:
        raise HostError(f"{spec}: no such {what} on this machine", hint=f"lsblk -o {columns} lists them")
    return number


def path(root: Root, spec: str) -> str:
    """Return where on the machine that runs us the node of a device is that `spec` names as for `find`."""
    directory = directory_of(root, find(root, spec))
    return root.host(f"/dev/{name(directory)}")


def _found_by(root: Root, key: str, value: str) -> str:
    """Return the kernel name of the device whose `key` udev links to it has; "" if there is none."""
    wanted = value.lower() if key in ("UUID", "PARTUUID") else value
    for device, found in content.links(root, key).items():
        if (found.lower() if key in ("UUID", "PARTUUID") else found) == wanted:
            return device
    return ""


def members_of_btrfs(root: Root, device: str) -> tuple[str, ...]:
    """Return "major:minor" of all devices of the btrfs that `device` belongs to; none where none is mounted.

    They are in /sys/fs/btrfs/UUID/devices.
    """
    link = device.replace("/", "!")
    for filesystem in root.list("/sys/fs/btrfs"):
        devices = f"/sys/fs/btrfs/{filesystem}/devices"
        if link in root.list(devices):
            return tuple(root.read_word(f"{devices}/{each}/dev") for each in root.list(devices))
    return ()
