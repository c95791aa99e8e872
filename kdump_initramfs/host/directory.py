"""Directories for dumps: what would keep the capture kernel from creating one in them, although it works now.

The path to a directory may differ after the crash; its inode is the same.
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator, Sequence

from kdump_initramfs.errors import HostError
from kdump_initramfs.host import mounts
from kdump_initramfs.host.root import Root

# --- the mount ---------------------------------------------------------------------------------------------------

# File systems that nobody can write to.
_READ_ONLY = ("squashfs", "erofs", "iso9660", "cramfs", "romfs")
_ANOTHER = "name a directory on another mount"


def check_mount(mount: mounts.Mount, name: str) -> None:
    """Refuse a mount that shows a directory otherwise than the capture kernel will see it."""
    where = mount.mount_point
    if mount.fs_type == "autofs":
        raise HostError(
            f"{name}: on an automount that is idle ({where}), so that what holds it cannot be seen",
            hint=f"access it once: ls {name}/. - or mount its file system",
        )
    # show_mountinfo() of fs/proc_namespace.c: seq_dentry() and seq_path_root().
    if mount.fs_root.endswith("//deleted") or mount.fs_root.startswith("/.."):
        raise HostError(
            f"{name}: the directory that is mounted at {where} ({mount.fs_root}) no longer exists",
            hint=f"unmount {where} and mount a directory that is there",
        )
    if "idmapped" in mount.options:
        raise HostError(
            f"{name}: {where} is an idmapped mount, and the capture kernel would see other owners", hint=_ANOTHER
        )
    if mount.fs_type in _READ_ONLY:
        raise HostError(
            f"{name}: on {mount.fs_type} ({mount.source}), which cannot be written to",
            hint='name a directory on a disk in a [[target]] with kind = "path"',
        )


# --- the path ----------------------------------------------------------------------------------------------------


def check_path(directory: str, name: str) -> None:
    """Refuse a path that settings, records and log lines cannot hold."""
    if any(character < " " or character == "\x7f" or "\ud800" <= character <= "\udfff" for character in directory):
        raise HostError(
            f"{name!a}: its path ({'/' + directory!a}) is not UTF-8, or has control characters",
            hint="name a directory whose path is plain text",
        )


def check_owner(root: Root, top: str, resolved: str, name: str) -> None:
    """Refuse a directory that others could put into the place of, or into which they could put what we would follow.

    That goes for all above it up to `top`, the root of its file system; check_owner of templates/directory.sh asks the
    same after the crash. In one with the sticky bit nobody can move what is root's.
    """
    for place in _upwards(top, resolved):
        status = os.stat(root.host(place))
        exposed = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
        if exposed or (os.geteuid() == 0 and status.st_uid != 0):
            what = f"{name}:" if place == resolved else f"{name}: {place}, which it is in,"
            raise HostError(
                f"{what} may be changed by others than root, and so could a dump in it",
                hint=f"chown root {place} && chmod go-w {place}",
            )


def _upwards(top: str, path: str) -> Iterator[str]:
    """Yield a path and those above it, up to `top`."""
    while True:
        yield path
        if path in ("/", top):
            return
        path = os.path.dirname(path)


def check_inside(root: Root, mounted: Sequence[mounts.Mount], carriers: Sequence[str], path: str, name: str) -> None:
    """Refuse a directory of a file system on `carriers` ("major:minor", and paths of nodes), where that is mounted.

    What is not there yet will be made, in the nearest directory above.
    """
    for mount in mounted:
        if mount.number not in carriers and root.resolve(mount.source) not in carriers:
            continue
        below = f"/{path.strip('/')}"
        if not mounts.covers(mount.fs_root, below):
            continue
        inside = below[len(mount.fs_root.rstrip("/")) :].strip("/")
        place = os.path.join(mount.mount_point, inside) if inside else mount.mount_point
        if mounts.holder(tuple(mounted), place) == mount:
            _check_seen(root, mount, place, name)
            return


def _check_seen(root: Root, mount: mounts.Mount, place: str, name: str) -> None:
    while place != mount.mount_point and not root.is_dir(place):
        place = os.path.dirname(place)
    if root.resolve(place) != place:
        raise HostError(
            f"{name}: {place} leads to {root.resolve(place)}, and links are not followed after a crash",
            hint="name the directory that it leads to",
        )
    check_owner(root, mount.mount_point, place, f"{name}: {place}")
    check_attributes(root, place, name)


# --- the inode ---------------------------------------------------------------------------------------------------

# include/uapi/linux/fs.h: FS_IOC_GETFLAGS is _IOR('f', 1, long), and what chattr(1) calls i, a and E.
_GETFLAGS = 0x80006601 | struct.calcsize("l") << 16
_IMMUTABLE, _APPEND, _ENCRYPTED = 0x10, 0x20, 0x800
# include/uapi/linux/fscrypt.h: FS_IOC_GET_ENCRYPTION_POLICY_EX, _IOWR('f', 22, 9 bytes); works without the key.
_GET_POLICY = 0xC0096616
_POLICY = struct.Struct("=Q24s")
# include/uapi/linux/btrfs.h: BTRFS_IOC_GET_SUBVOL_INFO (_IOR(0x94, 60, 504 bytes), since Linux 4.18): flags lie behind
# id, name and three numbers; BTRFS_ROOT_SUBVOL_RDONLY is bit 0 of them (include/uapi/linux/btrfs_tree.h).
_SUBVOLUME, _SUBVOLUME_BYTES, _SUBVOLUME_FLAGS = 0x81F8943C, 504, 288
_SUBVOLUME_READ_ONLY = 1


def check_attributes(root: Root, place: str, name: str) -> None:
    """Refuse a directory in which not even root can create anything; one that cannot be opened is not checked."""
    try:
        descriptor = os.open(root.host(place), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        problem = _problem(descriptor)
    finally:
        os.close(descriptor)
    if problem:
        what, hint = problem
        raise HostError(f"{name}: {what}", hint=hint.format(place=place))


def _problem(descriptor: int) -> tuple[str, str] | None:
    """Return what prevents a new directory, and the remedy."""
    flags = _number(_ask(descriptor, _GETFLAGS, struct.calcsize("l")))
    if flags & _ENCRYPTED or _has_policy(descriptor):
        return (
            "under an encryption policy (fscrypt), whose key is gone after a crash",
            "name a directory without a policy (fscrypt status {place}, ext4: lsattr -d shows E)",
        )
    if flags & _IMMUTABLE:
        return "is immutable, so that nothing can be made in it", "chattr -i {place}"
    if flags & _APPEND:
        return "can only be appended to, so that no dump in it can be removed", "chattr -a {place}"
    subvolume = _ask(descriptor, _SUBVOLUME, _SUBVOLUME_BYTES)
    if _number(subvolume[_SUBVOLUME_FLAGS : _SUBVOLUME_FLAGS + 8]) & _SUBVOLUME_READ_ONLY:
        return (
            "in a subvolume of btrfs that is read-only",
            "btrfs property set SUBVOLUME ro false, or name a directory in another subvolume",
        )
    return None


def _ask(descriptor: int, request: int, size: int) -> bytes:
    """Return the answer to an ioctl(2) that asks; nothing where the file system does not know the question."""
    answer = bytearray(size)
    try:
        fcntl.ioctl(descriptor, request, answer)
    except OSError:
        return b""
    return bytes(answer)


def _number(content: bytes) -> int:
    return int.from_bytes(content, "little" if struct.pack("=H", 1)[0] else "big")


def _has_policy(descriptor: int) -> bool:
    """Whether there is a policy, be it one that is longer than we know (EOVERFLOW)."""
    answer = bytearray(_POLICY.pack(24, b""))
    try:
        fcntl.ioctl(descriptor, _GET_POLICY, answer)
    except OSError as error:
        return error.errno == errno.EOVERFLOW
    return True
