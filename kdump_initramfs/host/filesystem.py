"""A file system and what it needs besides the devices that carry it, from its superblock and its mount options."""

from collections.abc import Iterator, Sequence

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import filesystems
from kdump_initramfs.formats.filesystem import External
from kdump_initramfs.formats.filesystem import Filesystem as FilesystemFeatures
from kdump_initramfs.host import block, content, layer
from kdump_initramfs.host.root import Root
from kdump_initramfs.storage import BlockDevice, Filesystem, FurtherDevice

_ANOTHER = "name a target on another file system"
# Mount options that name a further device, as mountinfo shows them: xfs(5), ext4(5).
_ROLES = {"logdev": "log", "rtdev": "realtime", "journal_path": "journal"}


def read(root: Root, fs_type: str, devices: Sequence[BlockDevice], options: Sequence[str], name: str) -> Filesystem:
    """Return the file system that is on some devices: on one, or on all of a btrfs.

    `options` are those of its mount, `name` is what asks, for messages.

    Raises HostError where its UUID is unknown, or the capture kernel could not mount it.
    """
    device = devices[0]
    found = filesystems.parse(fs_type, lambda offset, size: content.part(root, device.name, offset, size))
    uuid = device.content.uuid or (found.uuid if found else "")
    if not uuid:
        raise HostError(
            f"{name}: the UUID of its file system ({fs_type} on {device.name}) cannot be found",
            hint="run as root, so that it can be read from the device, or start udev, which records it",
        )
    if fs_type == "btrfs":
        _check_members(name, uuid, found, devices)
    external = found.external if found else _named_by_options(options)
    if found and not found.is_mountable:
        raise HostError(f"{name}: {device.name} holds a journal, and no file system", hint=_ANOTHER)
    return Filesystem(
        type=fs_type,
        uuid=uuid,
        requests=found.requests if found else (),
        further=tuple(_further(root, f"{name}: its {fs_type}", external, options)),
    )


def _check_members(name: str, uuid: str, found: FilesystemFeatures | None, devices: Sequence[BlockDevice]) -> None:
    """Refuse a btrfs of which a device is missing, or that grows from another one (btrfs(5), SEEDING DEVICE)."""
    others = [each.name for each in devices if each.content.uuid not in ("", uuid)]
    if others or (found and len(devices) > 1 and "seeding" in found.features):
        seed = others[0] if found is None or "seeding" not in found.features else devices[0].name
        raise HostError(
            f"{name}: its btrfs has a seed device ({seed}), which has a UUID of its own",
            hint=f"take the seed away, with what is on it moved: btrfs device remove /dev/{seed}; or {_ANOTHER}",
        )
    if found and found.devices > len(devices):
        raise HostError(
            f"{name}: of the {found.devices} devices of its btrfs {len(devices)} are there",
            hint="bring the others back, or put new ones in their place: btrfs replace start",
        )


def _named_by_options(options: Sequence[str]) -> tuple[External, ...]:
    """Return the further devices of a file system that may not be read, as far as its mount tells them."""
    named = {option.partition("=")[0] for option in options}
    return tuple(External(role=role, option=option) for option, role in _ROLES.items() if option in named)


def _further(root: Root, where: str, external: Sequence[External], options: Sequence[str]) -> Iterator[FurtherDevice]:
    """Yield the devices of a file system that lie beside it; those of a btrfs are all alike, and carry it."""
    for each in external:
        if each.option == "device":
            continue
        if not each.option:
            raise HostError(
                f"{where} is on several devices ({each.path}), which the kernel finds by path alone",
                hint=f"{_ANOTHER}: paths change after a crash",
            )
        yield FurtherDevice(name=_find(root, where, each, options), option=each.option, uuid=each.uuid)


def _find(root: Root, where: str, wanted: External, options: Sequence[str]) -> str:
    """Return the kernel name of a further device."""
    named = dict(option.partition("=")[::2] for option in options if "=" in option)
    if path := named.get(wanted.option, ""):
        return layer.name(block.directory_of(root, block.find(root, path)))
    if wanted.uuid and (found := _with_content(root, wanted.uuid)):
        return found
    raise HostError(
        f"{where} has its {wanted.role} on another device, which cannot be found",
        hint=f"mount it with {wanted.option}=, which tells the device",
    )


def _with_content(root: Root, uuid: str) -> str:
    """Return the kernel name of the device on which something with this UUID lies."""
    linked = (device for device, value in content.links(root, "UUID").items() if value == uuid)
    return next(linked, "") or _read_everywhere(root, uuid)


def _read_everywhere(root: Root, uuid: str) -> str:
    for device in root.list("/sys/class/block"):
        directory = root.resolve(f"/sys/class/block/{device}")
        # A path of a multipath device, or a leg of a mirror, begins like the whole.
        if not block.holders(root, directory) and layer.content_of(root, directory).uuid == uuid:
            return layer.name(directory)
    return ""
