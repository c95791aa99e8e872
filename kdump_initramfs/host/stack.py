"""What a file system stands on, layer by layer: devices on devices, and through the files behind loop devices."""

from collections.abc import Sequence

from msgspec.structs import replace

from kdump_initramfs.errors import HostError
from kdump_initramfs.host import block, btrfs, mounts
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import BlockDevice, Filesystem, LoopFile

_MAX_LAYERS = 64


def read(root: Root, mounted: Sequence[mounts.Mount], numbers: Sequence[str]) -> tuple[BlockDevice, ...]:
    """Return the devices `numbers` ("major:minor") and everything below them, outermost first, disks last.

    Raises HostError where sysfs does not know a device, or the file behind a loop device cannot be followed.
    """
    stack: dict[str, BlockDevice] = {}
    waiting = [block.directory_of(root, number) for number in numbers]
    while waiting:
        directory = waiting.pop(0)
        device = block.read(root, directory)
        below = [block.directory_below(root, directory, name) for name in device.below]
        if device.kind == "loop":
            device, below = _through_file(root, tuple(mounted), device, directory)
        stack.pop(device.name, None)  # a device below two others comes after both
        stack[device.name] = device
        waiting += below
        if len(waiting) > _MAX_LAYERS or len(stack) > _MAX_LAYERS:
            raise HostError(f"{directory}: more than {_MAX_LAYERS} devices below", hint="report this machine's `probe`")
    return tuple(stack.values())


def carriers(root: Root, mount: mounts.Mount, name: str) -> tuple[str, ...]:
    """Return "major:minor" of the devices that carry what is mounted; `name` is what asks for it, for messages."""
    if not mount.number.startswith("0:"):
        return (mount.number,)
    if mount.fs_type == "btrfs":
        return _known_carriers(btrfs.carriers(root, mount), mount.source.removeprefix("/dev/"), name)
    raise HostError(
        f"{name}: on {mount.fs_type} ({mount.source}), which is not on a block device",
        hint='name a directory on a disk in a [[target]] with kind = "path"',
    )


def btrfs_carriers(root: Root, device: str, name: str) -> tuple[str, ...]:
    return _known_carriers(block.members_of_btrfs(root, device), device, name)


def _known_carriers(members: tuple[str, ...], device: str, name: str) -> tuple[str, ...]:
    if not members:
        raise HostError(f"{name}: on btrfs ({device}), whose devices /sys/fs/btrfs does not tell", hint="mount it")
    return members


def filesystem(fs_type: str, device: BlockDevice, name: str) -> Filesystem:
    """Return the file system on a device; raise HostError where its UUID is unknown."""
    if not device.content_uuid:
        raise HostError(
            f"{name}: the UUID of its file system ({fs_type} on {device.name}) is not to be found",
            hint="run as root, so that it can be read from the device, or start udev, which records it",
        )
    return Filesystem(type=fs_type, uuid=device.content_uuid)


def _through_file(
    root: Root, mounted: tuple[mounts.Mount, ...], device: BlockDevice, directory: str
) -> tuple[BlockDevice, list[str]]:
    """Return a loop device with what is behind it, and the directories of the devices that carry that."""
    path = root.read_word(f"{directory}/loop/backing_file")
    where = f"{device.name} ({path})"
    mount = mounts.holder(mounted, path)
    if not path.startswith("/") or path.endswith(" (deleted)") or mount is None:
        raise HostError(f"{where}: the file behind this loop device is not there", hint="set it up anew with losetup")
    if root.read_word(f"{directory}/loop/sizelimit") not in ("", "0"):
        raise HostError(f"{where}: only a part of the file is used", hint="set it up without losetup --sizelimit")
    below = [block.directory_of(root, number) for number in carriers(root, mount, where)]
    carrier = block.read(root, below[0])
    file = LoopFile(
        path=mounts.directory_inside(mount, path),
        offset_bytes=int(root.read_word(f"{directory}/loop/offset") or 0),
        filesystem=filesystem(mount.fs_type, carrier, where),
    )
    return replace(device, loop=file, below=tuple(block.name(each) for each in below)), below
