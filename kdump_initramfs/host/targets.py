"""Dump targets: from what was configured to the file system, the directory on it and the devices below."""

from collections.abc import Sequence
from typing import assert_never

from msgspec.structs import replace

from kdump_initramfs.config import DiskTarget, PathTarget, RawTarget, Target
from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.formats import blkid_types, superblock
from kdump_initramfs.host import automount, block, content, directory, expected, mounts, share, unseen
from kdump_initramfs.host import stack as layers
from kdump_initramfs.host.root import Root
from kdump_initramfs.storage import BlockDevice, DeviceTarget, DirectoryTarget, TargetFacts

# The mounts of a running machine; None of a root that is not running.
_Mounts = tuple[mounts.Mount, ...] | None


def read(root: Root, targets: Sequence[Target], *, generic: bool = False) -> tuple[TargetFacts, ...]:
    """Return the facts of each target in order; everything that is wrong with any of them is raised together.

    For a `generic` image the devices need not be there, and the root need not be running.
    """
    mounted = None if generic and not mounts.are_known(root) else mounts.read(root)
    found: list[TargetFacts] = []
    errors: list[KdumpError] = []
    for target in targets:
        try:
            facts = _read_target(root, mounted, target, generic=generic)
            found.append(replace(facts, budget_s=target.budget_s))
        except KdumpError as error:
            errors.append(error)
    raise_together(errors)
    return tuple(found)


def _read_target(root: Root, mounted: _Mounts, target: Target, *, generic: bool) -> TargetFacts:
    match target:
        case PathTarget():
            return unseen.path(root, target) if mounted is None else _read_path(root, mounted, target)
        case DiskTarget() | RawTarget() if generic and (mounted is None or not _is_there(root, target.device)):
            return unseen.disk(root, target) if isinstance(target, DiskTarget) else unseen.raw(target)
        case DiskTarget():
            return _read_disk(root, mounted or (), target)
        case RawTarget():
            return _read_raw(root, mounted or (), target)
        case _:
            assert_never(target)


def _is_there(root: Root, device: str) -> bool:
    try:
        return bool(block.find(root, device))
    except HostError:
        return False


# --- directories -------------------------------------------------------------------------------------------------


def _read_path(root: Root, mounted: tuple[mounts.Mount, ...], target: PathTarget) -> TargetFacts:
    mounted = automount.awake(root, mounted, target.path)
    resolved = root.resolve(target.path)
    expected.check(root, mounted, resolved)
    if not root.is_dir(target.path):
        problem = "is no directory" if root.exists(target.path) else "no such directory"
        raise HostError(f"{target.path}: {problem}", hint=f"create it: mkdir -m 0700 -p {target.path}")
    mount = _holder(mounted, resolved, target.path)
    inside = mounts.directory_inside(mount, resolved)
    directory.check_path(inside, target.path)
    directory.check_attributes(root, resolved, target.path)
    if share.is_share(mount):
        return share.read(root, mount, target.path, inside)
    directory.check_owner(root, mount.mount_point, resolved, target.path)
    numbers = layers.carriers(root, mount, target.path)
    filesystem, stack = layers.with_filesystem(root, mounted, numbers, mount.fs_type, mount.options, target.path)
    _check_writable(root, _names(stack, numbers), target.path)
    return DirectoryTarget(
        kind="path",
        name=target.path,
        directory=inside,
        filesystem=filesystem,
        stack=stack,
        devices=_names(stack, numbers),
    )


def _holder(mounted: tuple[mounts.Mount, ...], resolved: str, name: str) -> mounts.Mount:
    mount = mounts.holder(mounted, resolved)
    if mount is None:
        raise HostError(f"{name}: on no mounted file system", hint="mount the file system that should hold it")
    if over := mounts.hidden_by(mounted, mount):
        raise HostError(
            f"{name}: {mount.source}, mounted at {mount.mount_point}, is hidden by {over.source}, which was mounted "
            f"at {over.mount_point} later",
            hint=f"unmount {over.mount_point}, or mount {mount.source} anew",
        )
    directory.check_mount(mount, name)
    return mount


def _names(devices: tuple[BlockDevice, ...], numbers: Sequence[str]) -> tuple[str, ...]:
    return tuple(device.name for device in devices if device.number in numbers)


def _check_writable(root: Root, devices: Sequence[str], name: str) -> None:
    """Refuse a device that takes no writes: busybox's mount says nothing of that after the crash."""
    for device in devices:
        if root.read_word(f"/sys/class/block/{device.replace('/', '!')}/ro") == "1":
            raise HostError(
                f"{name}: {device} is read-only",
                hint=f"make it writable where it comes from (blockdev --setrw /dev/{device}), or name another target",
            )


# --- devices -----------------------------------------------------------------------------------------------------


def _read_disk(root: Root, mounted: tuple[mounts.Mount, ...], target: DiskTarget) -> TargetFacts:
    numbers: tuple[str, ...] = (block.find(root, target.device),)
    device, *_ = layers.read(root, mounted, numbers)
    mount = next((mount for mount in mounted if mount.number == numbers[0]), None)
    fs_type = mount.fs_type if mount else device.content.type
    if fs_type == "btrfs":
        numbers = layers.btrfs_carriers(root, device.name, target.device)
    if not fs_type or not blkid_types.is_filesystem(fs_type):
        seems = f", but {blkid_types.describe(fs_type)}" if fs_type else ""
        raise HostError(f"{target.device}: no known file system is on it{seems}", hint="make one, or mount it")
    options = mount.options if mount else ()
    filesystem, stack = layers.with_filesystem(root, mounted, numbers, fs_type, options, target.device)
    _check_writable(root, _names(stack, numbers), target.device)
    carriers = (*numbers, *(f"/dev/{name}" for name in _names(stack, numbers)))
    directory.check_inside(root, mounted, carriers, target.path, target.device)
    return DirectoryTarget(
        kind="disk",
        name=target.device,
        directory=target.path.strip("/"),
        filesystem=filesystem,
        stack=stack,
        devices=_names(stack, numbers),
    )


def _signature(root: Root, device: BlockDevice) -> str:
    """Return what a device holds, be it a table of partitions; "" if nothing that is known."""
    if device.content.type:
        return device.content.type
    return superblock.signature(lambda offset, size: content.part(root, device.name, offset, size), device.size_bytes)


def _read_raw(root: Root, mounted: tuple[mounts.Mount, ...], target: RawTarget) -> TargetFacts:
    number = block.find(root, target.device)
    devices = layers.read(root, mounted, [number])
    _check_unused(root, mounted, devices[0], target.device)
    _check_writable(root, (devices[0].name,), target.device)
    return DeviceTarget(kind="raw", name=target.device, stack=devices)


def _check_unused(root: Root, mounted: tuple[mounts.Mount, ...], device: BlockDevice, name: str) -> None:
    """Refuse a device that holds something: what it held would be gone after a crash."""
    free = "name a partition that is free for dumps; where it is, clear it: wipefs --all"
    used_by = block.holders(root, block.directory_of(root, device.number))
    if used_by:
        raise HostError(f"{name}: {device.name} is in use by {', '.join(used_by)}", hint=free)
    if any(mount.number == device.number for mount in mounted):
        raise HostError(f"{name}: {device.name} is mounted", hint=free)
    if found := _signature(root, device):
        raise HostError(f"{name}: {device.name} is not empty, {found} is on it", hint=free)
