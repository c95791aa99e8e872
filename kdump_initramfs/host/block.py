"""Block devices: what a file system stands on, layer by layer, from /sys/dev/block.

Format: Documentation/ABI/stable/sysfs-block and Documentation/ABI/testing/sysfs-block-dm of the kernel.
"""

import os
import re
from collections.abc import Sequence

from kdump_initramfs.errors import HostError
from kdump_initramfs.host import content
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import BlockDevice, BlockKind

_SECTOR_BYTES = 512  # unit of /sys/block/*/size whatever the device (Documentation/ABI/stable/sysfs-block)
_MAX_LAYERS = 64


def read_stack(root: Root, numbers: Sequence[str]) -> tuple[BlockDevice, ...]:
    """Return the devices `numbers` ("major:minor") and everything below them, outermost first, disks last.

    Raises HostError where sysfs does not know a device.
    """
    stack: dict[str, BlockDevice] = {}
    waiting = [_device_directory(root, number) for number in numbers]
    while waiting:
        directory = waiting.pop(0)
        device = _read_device(root, directory)
        stack.pop(device.name, None)  # a device below two others comes after both
        stack[device.name] = device
        waiting += [_sysfs_of(root, directory, name) for name in device.below]
        if len(waiting) > _MAX_LAYERS:
            raise HostError(f"{directory}: more than {_MAX_LAYERS} devices below", hint="report this machine's `probe`")
    return tuple(stack.values())


def _device_directory(root: Root, number: str) -> str:
    path = f"/sys/dev/block/{number}"
    if not root.exists(path):
        raise HostError(
            f"{path}: no such block device",
            hint="mount /sys, or name a target on a block device: a network or memory file system is none",
        )
    return root.resolve(path)


def _sysfs_of(root: Root, directory: str, name: str) -> str:
    """Return the sysfs directory of the device `name` that stands below the one at `directory`."""
    slave = f"{directory}/slaves/{name.replace('/', '!')}"
    if root.exists(slave):
        return root.resolve(slave)
    return os.path.dirname(directory)  # a partition's disk is the directory above


def _read_device(root: Root, directory: str) -> BlockDevice:
    name = _name(directory)
    number = root.read_word(f"{directory}/dev")
    below = tuple(slave.replace("!", "/") for slave in root.list(f"{directory}/slaves"))
    if root.exists(f"{directory}/partition"):
        below = (_name(os.path.dirname(directory)),)
    dm_uuid = root.read_word(f"{directory}/dm/uuid")
    drivers, modaliases = ((), ()) if below else _read_drivers(root, directory)
    found = content.read(root, name, number)
    return BlockDevice(
        name=name,
        kind=_kind(root, directory, dm_uuid),
        number=number,
        size_bytes=int(root.read_word(f"{directory}/size") or 0) * _SECTOR_BYTES,
        drivers=drivers,
        modaliases=modaliases,
        disk_id=_disk_id(root, directory),
        dm_name=root.read_word(f"{directory}/dm/name"),
        dm_uuid=dm_uuid,
        md_level=root.read_word(f"{directory}/md/level"),
        loop_file=root.read_word(f"{directory}/loop/backing_file"),
        content_type=found.type,
        content_uuid=found.uuid,
        luks_kdf_kib=content.luks_kdf_kib(root, name),
        below=below,
    )


def _name(directory: str) -> str:
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


def _read_drivers(root: Root, directory: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the modules of the drivers from the disk up to its bus, and the modaliases of those without a module.

    A driver that is built into the running kernel has no driver/module link; in another kernel it may be a module,
    hence the modalias.
    """
    modules: list[str] = []
    modaliases: list[str] = []
    node = root.resolve(f"{directory}/device")
    while node.startswith("/sys/devices/") and root.exists(f"{directory}/device"):
        if root.exists(f"{node}/driver"):
            module = root.resolve(f"{node}/driver/module")
            if root.exists(f"{node}/driver/module"):
                modules.append(os.path.basename(module))
            elif alias := root.read_word(f"{node}/modalias"):
                modaliases.append(alias)
        node = os.path.dirname(node)
    return tuple(modules), tuple(modaliases)


def find_by_uuid(root: Root, uuid: str) -> str:
    """Return "major:minor" of the device with that content; raise HostError where there is none."""
    for name, known in content.by_uuid(root).items():
        if known.lower() == uuid.lower():
            return root.read_word(f"/sys/class/block/{name.replace('/', '!')}/dev")
    raise HostError(f"UUID={uuid}: no such file system on this machine", hint="lsblk -o NAME,UUID lists them")


def members_of_btrfs(root: Root, name: str) -> tuple[str, ...]:
    """Return "major:minor" of all devices of the btrfs that the device `name` belongs to; none where none is mounted.

    They are in /sys/fs/btrfs/UUID/devices.
    """
    link = name.replace("/", "!")
    for filesystem in root.list("/sys/fs/btrfs"):
        devices = f"/sys/fs/btrfs/{filesystem}/devices"
        if link in root.list(devices):
            return tuple(root.read_word(f"{devices}/{each}/dev") for each in root.list(devices))
    return ()
