"""What a file system stands on, layer by layer: devices on devices, and through the files behind loop devices."""

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from kdump_initramfs.errors import HostError
from kdump_initramfs.host import block, btrfs, filesystem, layer, mounts
from kdump_initramfs.host.root import Root
from kdump_initramfs.storage import BlockDevice, Filesystem, LogicalVolume, LoopFile

_MAX_LAYERS = 64
# What LVM puts below a volume that has snapshots: the volume as it was, in dm/uuid (lib/activate/dev_manager.c).
_ORIGIN = "-real"


def read(root: Root, mounted: Sequence[mounts.Mount], numbers: Sequence[str]) -> tuple[BlockDevice, ...]:
    """Return the devices `numbers` ("major:minor") and everything below them, outermost first, disks last.

    Raises HostError where sysfs does not know a device, or the file behind a loop device cannot be followed.
    """
    stack: dict[str, BlockDevice] = {}
    waiting = [block.directory_of(root, number) for number in numbers]
    while waiting:
        directory = waiting.pop(0)
        device, below = _layer(root, tuple(mounted), directory)
        stack.pop(device.name, None)  # a device below two others comes after both
        stack[device.name] = device
        waiting += below
        if len(waiting) > _MAX_LAYERS or len(stack) > _MAX_LAYERS:
            raise HostError(f"{directory}: more than {_MAX_LAYERS} devices below", hint="report this machine's `probe`")
    return tuple(stack.values())


def _layer(root: Root, mounted: tuple[mounts.Mount, ...], directory: str) -> tuple[BlockDevice, list[str]]:
    """Return the device at a directory of sysfs, and the directories of those below it."""
    behind_loop: list[str] = []

    def follow(name: str, directory: str) -> tuple[LoopFile, tuple[str, ...]]:
        file, carriers = _through_file(root, mounted, name, directory)
        behind_loop.extend(carriers)
        return file, tuple(layer.name(each) for each in carriers)

    device = layer.read(root, directory, follow)
    if behind_loop:
        return device, behind_loop
    below = [block.directory_below(root, directory, name) for name in device.below]
    if isinstance(device, LogicalVolume) and device.dm_uuid.endswith(_ORIGIN):
        beside = list(_snapshots(root, directory, device.name))
        device = replace(device, below=(*device.below, *map(layer.name, beside)))
        below += beside
    return device, below


def _snapshots(root: Root, directory: str, origin: str) -> Iterator[str]:
    """Yield what the snapshots of a logical volume keep their data in: LVM activates the volume with all of them."""
    for holder in block.holders(root, directory):
        snapshot = root.resolve(f"{directory}/holders/{holder.replace('/', '!')}")
        for name in root.list(f"{snapshot}/slaves"):
            if name != origin:
                yield root.resolve(f"{snapshot}/slaves/{name}")


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


def with_filesystem(
    root: Root, mounted: Sequence[mounts.Mount], numbers: Sequence[str], fs_type: str, options: Sequence[str], name: str
) -> tuple[Filesystem, tuple[BlockDevice, ...]]:
    """Return the file system on the devices `numbers`, and all that it stands on: further devices of its own too.

    `options` are those of its mount, nothing where it is not mounted; `name` is what asks for it, for messages.
    """
    found = filesystem.read(root, fs_type, _devices(root, tuple(mounted), numbers), options, name)
    further = [root.read_word(f"/sys/class/block/{each.name.replace('/', '!')}/dev") for each in found.further]
    return found, read(root, mounted, (*numbers, *further))


def _devices(root: Root, mounted: tuple[mounts.Mount, ...], numbers: Sequence[str]) -> list[BlockDevice]:
    return [_layer(root, mounted, block.directory_of(root, number))[0] for number in numbers]


def _check_sectors(root: Root, directory: str, where: str) -> None:
    """Refuse partitions whose table counts in other sectors than the device will have after a crash."""
    size = root.read_word(f"{directory}/queue/logical_block_size")
    if size not in ("", "512") and any(root.exists(f"{directory}/{name}/partition") for name in root.list(directory)):
        raise HostError(
            f"{where}: this loop device has partitions, and sectors of {size} bytes, which busybox cannot give it",
            hint="set it up with losetup --sector-size 512 and partition it anew, or name another target",
        )


def _through_file(
    root: Root, mounted: tuple[mounts.Mount, ...], name: str, directory: str
) -> tuple[LoopFile, list[str]]:
    """Return the file behind a loop device, and the directories of the devices that carry it."""
    # A name may end in a blank.
    path = (root.read_text(f"{directory}/loop/backing_file") or "").removesuffix("\n")
    where = f"{name} ({path})"
    if path.startswith("/dev/"):
        raise HostError(
            f"{where}: a loop device on another block device, which is not made again after a crash",
            hint="name a target on that device itself, or on a loop device on a file",
        )
    mount = mounts.holder(mounted, path)
    if not path.startswith("/") or path.endswith(" (deleted)") or mount is None:
        raise HostError(f"{where}: the file behind this loop device is not there", hint="set it up anew with losetup")
    if root.read_word(f"{directory}/loop/sizelimit") not in ("", "0"):
        raise HostError(f"{where}: only a part of the file is used", hint="set it up without losetup --sizelimit")
    _check_sectors(root, directory, where)
    numbers = carriers(root, mount, where)
    found = filesystem.read(root, mount.fs_type, _devices(root, mounted, numbers), mount.options, where)
    if found.further:
        raise HostError(f"{where}: on a file system with an external log", hint="move the file")
    below = [block.directory_of(root, number) for number in numbers]
    file = LoopFile(
        path=mounts.directory_inside(mount, path),
        offset_bytes=int(root.read_word(f"{directory}/loop/offset") or 0),
        filesystem=found,
    )
    return file, below
