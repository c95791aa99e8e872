"""Block devices: what a file system stands on, layer by layer, from /sys/dev/block.

Format: Documentation/ABI/stable/sysfs-block and Documentation/ABI/testing/sysfs-block-dm of the kernel.
"""

import os

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import superblock
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import BlockDevice, BlockKind

_SECTOR_BYTES = 512  # unit of /sys/block/*/size whatever the device (Documentation/ABI/stable/sysfs-block)
_MAX_LAYERS = 64


def read_stack(root: Root, number: str) -> tuple[BlockDevice, ...]:
    """Return the device `number` ("major:minor") and everything below it, outermost first, disks last.

    Raises HostError where sysfs does not know the device.
    """
    uuids = _content_uuids(root)
    stack: dict[str, BlockDevice] = {}
    waiting = [_device_directory(root, number)]
    while waiting:
        directory = waiting.pop(0)
        device = _read_device(root, directory, uuids)
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
    if root.exists(f"{directory}/slaves/{name}"):
        return root.resolve(f"{directory}/slaves/{name}")
    return os.path.dirname(directory)  # a partition's disk is the directory above


def _read_device(root: Root, directory: str, uuids: dict[str, str]) -> BlockDevice:
    name = os.path.basename(directory).replace("!", "/")
    number = root.read_word(f"{directory}/dev")
    below = tuple(root.list(f"{directory}/slaves"))
    if root.exists(f"{directory}/partition"):
        below = (os.path.basename(os.path.dirname(directory)),)
    dm_uuid = root.read_word(f"{directory}/dm/uuid")
    drivers, modaliases = ((), ()) if below else _read_drivers(root, directory)
    return BlockDevice(
        name=name,
        kind=_kind(root, directory, dm_uuid),
        number=number,
        size_bytes=int(root.read_word(f"{directory}/size") or 0) * _SECTOR_BYTES,
        drivers=drivers,
        modaliases=modaliases,
        dm_name=root.read_word(f"{directory}/dm/name"),
        dm_uuid=dm_uuid,
        content_uuid=uuids.get(name, "") or _read_uuid(root, name),
        below=below,
    )


_DM_KINDS: dict[str, BlockKind] = {"LVM": "lvm", "CRYPT": "crypt", "mpath": "multipath"}


def _kind(root: Root, directory: str, dm_uuid: str) -> BlockKind:
    """Return the kind of device; the prefix of dm/uuid names who made it (device-mapper.h, DM_UUID conventions)."""
    if root.exists(f"{directory}/partition"):
        return "partition"
    if root.exists(f"{directory}/dm"):
        return _DM_KINDS.get(dm_uuid.partition("-")[0], "dm")
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


def _content_uuids(root: Root) -> dict[str, str]:
    """Return kernel name -> UUID of the content, as udev has recorded it in /dev/disk/by-uuid."""
    directory = "/dev/disk/by-uuid"
    return {os.path.basename(root.resolve(f"{directory}/{uuid}")): uuid for uuid in root.list(directory)}


def identify(root: Root, name: str) -> tuple[str, str] | None:
    """Return type and UUID of the file system from the device itself; None if unknown or not to be read."""
    try:
        with open(root.host(f"/dev/{name}"), "rb") as stream:
            return superblock.identify(stream.read(superblock.HEAD_BYTES))
    except OSError:
        return None


def _read_uuid(root: Root, name: str) -> str:
    """Return the UUID for machines without udev."""
    found = identify(root, name)
    return found[1] if found else ""


def find_by_uuid(root: Root, uuid: str) -> str:
    """Return "major:minor" of the device with that content; raise HostError where there is none."""
    for name, known in ((name, known) for name, known in _content_uuids(root).items()):
        if known.lower() == uuid.lower():
            return root.read_word(f"/sys/class/block/{name.replace('/', '!')}/dev")
    raise HostError(f"UUID={uuid}: no such file system on this machine", hint="lsblk -o NAME,UUID lists them")
