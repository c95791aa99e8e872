"""Find block devices: by number, by a name that mount(8) takes, and from one to those above and below."""

import os
import stat

from kdump_initramfs.errors import HostError
from kdump_initramfs.host import content, layer
from kdump_initramfs.host.root import Root


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


def find(root: Root, spec: str) -> str:
    """Return "major:minor" of the device that a path below /dev, UUID=, LABEL=, PARTUUID= or PARTLABEL= names.

    Raises HostError where there is none.
    """
    key, _, value = spec.partition("=")
    if spec.startswith("/"):
        if number := _number_of_node(root, spec):
            return number
        device, what, columns = root.resolve(spec).removeprefix("/dev/"), "block device", "NAME"
    else:
        what = "partition" if key.startswith("PART") else "file system"
        device, columns = _found_by(root, key, value), f"NAME,{key}"
    number = root.read_word(f"/sys/class/block/{device.replace('/', '!')}/dev") if device else ""
    if not number:
        raise HostError(f"{spec}: no such {what} on this machine", hint=f"lsblk -o {columns} lists them")
    return number


def _number_of_node(root: Root, path: str) -> str:
    """Return what a node says: without udev, /dev/mapper has nodes of its own instead of links."""
    try:
        found = os.stat(root.host(root.resolve(path)))
    except OSError:
        return ""
    number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return number if stat.S_ISBLK(found.st_mode) and root.exists(f"/sys/dev/block/{number}") else ""


def path(root: Root, spec: str) -> str:
    """Return where on the machine that runs us the node of a device is that `spec` names as for `find`."""
    directory = directory_of(root, find(root, spec))
    return root.host(f"/dev/{layer.name(directory)}")


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
