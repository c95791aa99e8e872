"""The devices of a btrfs that is mounted: it has no number of its own, and its source may be a name for nothing."""

import fcntl
import os
import re

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import superblock
from kdump_initramfs.host import block, layer, mounts
from kdump_initramfs.host.root import Root

_MOUNTED = "/sys/fs/btrfs"
# include/uapi/linux/btrfs.h: BTRFS_IOC_FS_INFO, _IOR(0x94, 31, 1024 bytes); two numbers, then the UUID.
_FS_INFO, _FS_INFO_BYTES, _FSID = 0x8400941F, 1024, 16
# What the kernel calls the device of root= where no initramfs has mounted it (init/do_mounts.c): it need not exist.
_OF_THE_KERNEL = ("/dev/root", "root", "none")


def carriers(root: Root, mount: mounts.Mount) -> tuple[str, ...]:
    """Return "major:minor" of all devices of what is mounted; none where the machine does not tell."""
    return _by_source(root, mount) or _by_question(root, mount) or _the_only(root) or _by_command_line(root, mount)


def _by_source(root: Root, mount: mounts.Mount) -> tuple[str, ...]:
    return block.members_of_btrfs(root, root.resolve(mount.source).removeprefix("/dev/"))


def _by_question(root: Root, mount: mounts.Mount) -> tuple[str, ...]:
    """Ask the file system itself, of which the UUID is in sysfs."""
    answer = bytearray(_FS_INFO_BYTES)
    try:
        descriptor = os.open(root.host(mount.mount_point), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return ()
    try:
        fcntl.ioctl(descriptor, _FS_INFO, answer)
    except OSError:
        return ()
    finally:
        os.close(descriptor)
    return _members(root, superblock.format_uuid(bytes(answer[_FSID : _FSID + 16])))


def _the_only(root: Root) -> tuple[str, ...]:
    """Return the devices of the one btrfs that is mounted, if there is only one."""
    found = [each for each in root.list(_MOUNTED) if root.exists(f"{_MOUNTED}/{each}/devices")]
    return _members(root, found[0]) if len(found) == 1 else ()


def _by_command_line(root: Root, mount: mounts.Mount) -> tuple[str, ...]:
    asked = re.findall(r"(?:^|\s)root=(\S+)", root.read_text("/proc/cmdline") or "")
    if mount.source not in _OF_THE_KERNEL or not asked:
        return ()
    try:
        number = block.find(root, asked[-1])
    except HostError:
        return ()
    return block.members_of_btrfs(root, layer.name(block.directory_of(root, number)))


def _members(root: Root, filesystem: str) -> tuple[str, ...]:
    devices = f"{_MOUNTED}/{filesystem}/devices"
    return tuple(root.read_word(f"{devices}/{each}/dev") for each in root.list(devices))
