"""Dump targets: from what was configured to the file system, the directory on it and the devices below."""

from collections.abc import Sequence
from typing import assert_never

from kdump_initramfs.config import DiskTarget, PathTarget, Target
from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.host import block, mounts, unseen
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import BlockDevice, Filesystem, TargetFacts

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
            found.append(_read_target(root, mounted, target, generic=generic))
        except KdumpError as error:
            errors.append(error)
    raise_together(errors)
    return tuple(found)


def _read_target(root: Root, mounted: _Mounts, target: Target, *, generic: bool) -> TargetFacts:
    match target:
        case PathTarget():
            return unseen.path(root, target) if mounted is None else _read_path(root, mounted, target)
        case DiskTarget():
            if generic and (mounted is None or not _is_there(root, target.device)):
                return unseen.disk(target)
            return _read_disk(root, mounted or (), target)
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
    stack, devices = _stack_of_mount(root, mount, target.path)
    return TargetFacts(
        kind="path",
        name=target.path,
        directory=mounts.directory_inside(mount, resolved),
        filesystem=_filesystem(mount.fs_type, stack[0], target.path),
        stack=stack,
        devices=devices,
    )


def _read_disk(root: Root, mounted: tuple[mounts.Mount, ...], target: DiskTarget) -> TargetFacts:
    number = _device_number(root, target.device)
    stack = block.read_stack(root, [number])
    devices: tuple[str, ...] = (stack[0].name,)
    mount = next((mount for mount in mounted if mount.number == number), None)
    fs_type = mount.fs_type if mount else stack[0].content_type
    if fs_type == "btrfs":
        stack, devices = _stack_of_btrfs(root, stack[0].name, target.device)
    if not fs_type:
        raise HostError(f"{target.device}: no file system that we know is on it", hint="make one, or mount it")
    return TargetFacts(
        kind="disk",
        name=target.device,
        directory=target.path.strip("/"),
        filesystem=_filesystem(fs_type, stack[0], target.device),
        stack=stack,
        devices=devices,
    )


def _stack_of_mount(root: Root, mount: mounts.Mount, name: str) -> tuple[tuple[BlockDevice, ...], tuple[str, ...]]:
    """Return the stack below a mount, and the names of the devices that carry its file system."""
    if not mount.number.startswith("0:"):
        return _stack_of(root, [mount.number])
    if mount.fs_type == "btrfs":
        return _stack_of_btrfs(root, root.resolve(mount.source).removeprefix("/dev/"), name)
    raise HostError(
        f"{name}: on {mount.fs_type} ({mount.source}), which is not on a block device",
        hint='name a directory on a disk in a [[target]] with kind = "path"',
    )


def _stack_of_btrfs(root: Root, device: str, name: str) -> tuple[tuple[BlockDevice, ...], tuple[str, ...]]:
    members = block.members_of_btrfs(root, device)
    if not members:
        raise HostError(f"{name}: on btrfs ({device}), whose devices /sys/fs/btrfs does not tell", hint="mount it")
    return _stack_of(root, members)


def _stack_of(root: Root, numbers: Sequence[str]) -> tuple[tuple[BlockDevice, ...], tuple[str, ...]]:
    stack = block.read_stack(root, numbers)
    return stack, tuple(device.name for device in stack if device.number in numbers)


def _is_there(root: Root, device: str) -> bool:
    try:
        return bool(_device_number(root, device))
    except HostError:
        return False


def _device_number(root: Root, device: str) -> str:
    if device.startswith("UUID="):
        return block.find_by_uuid(root, device.removeprefix("UUID="))
    name = root.resolve(device).removeprefix("/dev/").replace("/", "!")
    number = root.read_word(f"/sys/class/block/{name}/dev")
    if not number:
        raise HostError(f"{device}: no such block device", hint="lsblk lists them")
    return number


def _filesystem(fs_type: str, device: BlockDevice, name: str) -> Filesystem:
    if not device.content_uuid:
        raise HostError(
            f"{name}: the UUID of its file system ({fs_type} on {device.name}) is not to be found",
            hint="run as root, so that it can be read from the device, or start udev, which records it",
        )
    return Filesystem(type=fs_type, uuid=device.content_uuid)
