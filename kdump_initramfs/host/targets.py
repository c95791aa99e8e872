"""Dump targets: from what was configured to the file system, the directory on it and the devices below."""

import os
from collections.abc import Sequence
from typing import assert_never

from kdump_initramfs.config import DiskTarget, PathTarget, Target
from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.host import block, mounts
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import BlockDevice, Filesystem, TargetFacts


def read(root: Root, targets: Sequence[Target]) -> tuple[TargetFacts, ...]:
    """Return the facts of each target in order; everything that is wrong with any of them is raised together."""
    mounted = mounts.read(root)
    found: list[TargetFacts] = []
    errors: list[KdumpError] = []
    for target in targets:
        try:
            found.append(_read_target(root, mounted, target))
        except KdumpError as error:
            errors.append(error)
    raise_together(errors)
    return tuple(found)


def _read_target(root: Root, mounted: tuple[mounts.Mount, ...], target: Target) -> TargetFacts:
    match target:
        case PathTarget():
            return _read_path(root, mounted, target)
        case DiskTarget():
            return _read_disk(root, mounted, target)
        case _:
            assert_never(target)


def _read_path(root: Root, mounted: tuple[mounts.Mount, ...], target: PathTarget) -> TargetFacts:
    if not root.is_dir(target.path):
        problem = "is no directory" if root.exists(target.path) else "no such directory"
        raise HostError(f"{target.path}: {problem}", hint=f"create it: mkdir -m 0700 -p {target.path}")
    resolved = root.resolve(target.path)
    mount = mounts.holder(mounted, resolved)
    if mount is None:
        raise HostError(f"{target.path}: on no mounted file system", hint="mount the file system that should hold it")
    if mount.number.startswith("0:"):
        raise HostError(
            f"{target.path}: on {mount.fs_type} ({mount.source}), which is not one block device",
            hint='name a directory on a disk in a [[target]] with kind = "path"',
        )
    stack = block.read_stack(root, mount.number)
    return TargetFacts(
        kind="path",
        name=target.path,
        directory=mounts.directory_inside(mount, resolved),
        filesystem=_filesystem(mount.fs_type, stack[0], target.path),
        stack=stack,
    )


def _read_disk(root: Root, mounted: tuple[mounts.Mount, ...], target: DiskTarget) -> TargetFacts:
    stack = block.read_stack(root, _device_number(root, target.device))
    fs_type = _filesystem_type(root, mounted, stack[0], target.device)
    return TargetFacts(
        kind="disk",
        name=target.device,
        directory=target.path.strip("/"),
        filesystem=_filesystem(fs_type, stack[0], target.device),
        stack=stack,
    )


def _filesystem(fs_type: str, device: BlockDevice, name: str) -> Filesystem:
    if not device.content_uuid:
        raise HostError(
            f"{name}: the UUID of its file system ({fs_type} on {device.name}) is not to be found",
            hint="run as root, so that it can be read from the device, or start udev, which keeps /dev/disk/by-uuid",
        )
    return Filesystem(type=fs_type, uuid=device.content_uuid)


def _device_number(root: Root, device: str) -> str:
    if device.startswith("UUID="):
        return block.find_by_uuid(root, device.removeprefix("UUID="))
    name = os.path.basename(root.resolve(device))
    number = root.read_word(f"/sys/class/block/{name}/dev")
    if not number:
        raise HostError(f"{device}: no such block device", hint="lsblk lists them")
    return number


def _filesystem_type(root: Root, mounted: tuple[mounts.Mount, ...], device: BlockDevice, name: str) -> str:
    """Return the type of the file system on a device: as mounted, as udev knows it, or as its first bytes say."""
    for mount in mounted:
        if mount.number == device.number:
            return mount.fs_type
    for line in (root.read_text(f"/run/udev/data/b{device.number}") or "").splitlines():
        if line.startswith("E:ID_FS_TYPE="):
            return line.partition("=")[2]
    found = block.identify(root, device.name)
    if found is None:
        raise HostError(f"{name}: no file system that we know is on it", hint="mount it, or make a file system on it")
    return found[0]
