"""How the capture environment knows a device, as text for templates/devices.sh: by what it holds, and what it is.

Two things must agree before anything is written to a device: one that was made after the image may carry the same UUID.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import superblock
from kdump_initramfs.model import Text
from kdump_initramfs.storage import (
    BlockDevice,
    CryptDevice,
    Disk,
    Filesystem,
    FurtherDevice,
    LogicalVolume,
    MappedDevice,
    MultipathDevice,
    OnBlockDevices,
    Partition,
    UnseenDevice,
)

DIRECTORY = "/etc/kdump/devices"

_SECTOR_BYTES = 512
# dm/uuid tells them apart: whoever made the device has put the identity of what is inside into it.
_Mapped = LogicalVolume | CryptDevice | MultipathDevice | MappedDevice


class Mounted(Struct, frozen=True):
    """How the capture kernel mounts a type of file system."""

    modules: tuple[str, ...]
    options: tuple[str, ...] = ()
    # Where the type's own name is not what is mounted.
    type: str = ""


# FAT knows no modes: everything gets those of the mount. Its names here are ASCII.
_FAT = ("umask=0077", "codepage=437", "iocharset=ascii")
FILESYSTEMS = {
    "ext2": Mounted(("ext4",), type="ext4"),
    "ext3": Mounted(("ext4",), type="ext4"),
    "ext4": Mounted(("ext4",)),
    "xfs": Mounted(("xfs",)),
    # The whole file system, whatever the default subvolume is; and a balance that the crash interrupted stays so.
    "btrfs": Mounted(("btrfs",), ("subvolid=5", "skip_balance")),
    "f2fs": Mounted(("f2fs",)),
    "vfat": Mounted(("vfat", "nls_cp437", "nls_ascii"), _FAT),
    "exfat": Mounted(("exfat",), ("umask=0077",)),
}


def filesystem(name: str, target: OnBlockDevices, found: Filesystem, carriers: Sequence[BlockDevice]) -> Iterator[Text]:
    """Yield the descriptions of a file system of a type in FILESYSTEMS, and of each further device that it needs.

    Raises HostError where a further device has too little that tells it from others.
    """
    further = {each.option: f"{name}-{each.option}" for each in found.further}
    yield _filesystem(name, target, found, carriers, further)
    for each in found.further:
        yield _further(further[each.option], target, found, each)


def _filesystem(
    name: str, target: OnBlockDevices, found: Filesystem, carriers: Sequence[BlockDevice], further: Mapping[str, str]
) -> Text:
    kind = FILESYSTEMS[found.type]
    values = {
        "device_name": _name(target, found),
        "device_content": " ".join(_content(layout, found) for layout in superblock.layouts(found.type)),
        "device_count": str(max(1, len(carriers))),
        "device_agree": "1" if _is_known(carriers) else "0",
        "fs_type": kind.type or found.type,
        "fs_options": ",".join(("rw", "nosuid", "nodev", "noexec", *kind.options)),
    }
    if further:
        values["device_further"] = " ".join(f"{option} {described}" for option, described in further.items())
    return _text(name, values | _identities(target, carriers))


def _further(name: str, target: OnBlockDevices, found: Filesystem, further: FurtherDevice) -> Text:
    device = next(each for each in target.stack if each.name == further.name)
    called = f"{further.option} of {_name(target, found)}"
    if further.uuid:
        # An external journal has a superblock of ext4 (fs/ext4/super.c, ext4_get_journal_blkdev).
        journal = Filesystem(type="ext4", uuid=further.uuid)
        content = " ".join(_content(layout, journal) for layout in superblock.layouts("ext4"))
        return _device(name, target, device, called=called, content=content, agree=1)
    if identities(target, device) < 2:
        raise HostError(
            f"{target.name}: {device.name}, its {further.option}, has too little that tells it from another after a "
            "crash",
            hint="a partition of a GPT, a logical volume, or a disk with a serial number has enough",
        )
    return _device(name, target, device, called=called, content="", agree=2)


def bare(name: str, target: OnBlockDevices) -> Text:
    """Return the description of a device that holds no file system; see `identities`."""
    agree = identities(target, target.device)
    return _device(name, target, target.device, called=f"the identity of {target.name}", content="", agree=agree)


def _device(name: str, target: OnBlockDevices, device: BlockDevice, *, called: str, content: str, agree: int) -> Text:
    values = {"device_name": called, "device_content": content, "device_count": "1", "device_agree": str(agree)}
    return _text(name, values | _identities(target, (device,)))


def identities(target: OnBlockDevices, device: BlockDevice) -> int:
    """Return how many things tell a device from others, at most 2; dm/uuid alone is as good as two."""
    if isinstance(device, _Mapped):
        return 2 if device.dm_uuid else 0
    return min(2, sum(bool(each) for each in (device.size_bytes, _disk_id(target, device), _part_uuid(device))))


def _name(target: OnBlockDevices, found: Filesystem) -> str:
    """Return how messages call a file system."""
    if found.uuid:
        return f"file system UUID {found.uuid}"
    return f"file system label {found.label}" if found.label else f"{found.type} on {target.device.name}"


def _content(layout: superblock.Superblock, found: Filesystem) -> str:
    """Return offset, length and hexadecimal bytes of the magic, and of the UUID or the label where they are known."""
    magic = f"{layout.magic_offset} {len(layout.magic)} {layout.magic.hex()}"
    if found.uuid:
        return f"{magic} {layout.uuid_offset} {layout.uuid_bytes} {superblock.stored(layout, found.uuid)}"
    stored = superblock.stored_label(layout, found.label)
    # The magic once more where there is nothing else: the partition's own UUID must agree then.
    return f"{magic} {layout.label_offset} {len(stored) // 2} {stored}" if stored else f"{magic} {magic}"


def _is_known(carriers: Sequence[BlockDevice]) -> bool:
    """Whether the devices were seen: of a machine that is not here, there is nothing that could agree."""
    return any(
        device.size_bytes or _part_uuid(device) or (isinstance(device, _Mapped) and device.dm_uuid)
        for device in carriers
    )


def _identities(target: OnBlockDevices, carriers: Sequence[BlockDevice]) -> dict[str, str]:
    words = [
        f"{device.size_bytes // _SECTOR_BYTES or ''}:{_disk_id(target, device)}:{_part_uuid(device)}"
        for device in carriers
        if not isinstance(device, _Mapped)
    ]
    return {
        "device_dm_uuids": " ".join(_dm_prefix(device) for device in carriers if isinstance(device, _Mapped)),
        # Sectors, id of the disk, UUID of the partition: each may be empty.
        "device_disks": " ".join(word for word in words if word != "::"),
    }


def _dm_prefix(device: _Mapped) -> str:
    """Return dm/uuid as far as it stays: dm-crypt ends it with the name under which a device was opened."""
    return re.sub(r"^(CRYPT-[A-Z0-9]+-[0-9a-f]{32}-).*", r"\1", device.dm_uuid)


def _disk_id(target: OnBlockDevices, device: BlockDevice) -> str:
    """Return the id of the disk that a device is, or is a partition of."""
    disk = next(iter(target.under(device)), device) if isinstance(device, Partition) else device
    return id_word(disk.disk_id) if isinstance(disk, Disk) else ""


def _part_uuid(device: BlockDevice) -> str:
    return device.part_uuid if isinstance(device, Partition | UnseenDevice) else ""


def id_word(disk_id: str) -> str:
    """Return the id of a disk as one word; devices.sh reduces it likewise."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", disk_id).strip("_")


def _text(name: str, values: dict[str, str]) -> Text:
    lines = (f"{key}={shlex.quote(value)}\n" for key, value in sorted(values.items()))
    return Text(path=f"{DIRECTORY}/{name}", content="".join(lines), mode=0o600, reason="how a device is known")
