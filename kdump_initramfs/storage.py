"""What dump targets are, and the layers that they stand on: two closed unions, `TargetFacts` and `BlockDevice`.

Each kind has the fields that it has in the kernel, and no others. `match` with `assert_never` is how kinds are told
apart, so that the type checker names each place that a new one concerns.
"""

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from msgspec import Struct

# --- what lies on a device ---------------------------------------------------------------------------------------


class LuksHeader(Struct, frozen=True, kw_only=True):
    """What a LUKS header asks of whoever opens the device."""

    # Memory that deriving the key takes (Argon2); 0 if none.
    kdf_kib: int = 0
    # What the kernel will ask modprobe for, as aliases of modules: crypto-aes, crypto-xts, …
    requests: tuple[str, ...] = ()
    # Why the device cannot be opened after a crash; "" if nothing speaks against it.
    problem: str = ""


class Content(Struct, frozen=True, kw_only=True):
    """What lies on a block device, as blkid(8) says it."""

    # ext4, LVM2_member, crypto_LUKS, linux_raid_member, …; "" if unknown.
    type: str = ""
    # Of the file system, the physical volume, the LUKS header or the array; "" if unknown.
    uuid: str = ""
    # The device itself was asked: what is unknown then is nothing that could be recognised.
    was_read: bool = False
    luks: LuksHeader | None = None


class FurtherDevice(Struct, frozen=True, kw_only=True):
    """A device that a file system needs besides those that carry it: a log, a journal, a realtime section."""

    # Kernel name of a device of the stack.
    name: str
    # The mount option that names it: logdev, rtdev (xfs(5)), journal_path (ext4(5)).
    option: str
    # UUID of what lies on it, where that has one: an external journal of ext4.
    uuid: str = ""


class Filesystem(Struct, frozen=True, kw_only=True):
    type: str
    # As blkid(8) prints it; "" where it is known by its label alone.
    uuid: str
    # "" where the UUID is known.
    label: str = ""
    # What the kernel will ask modprobe for when it mounts it, as aliases of modules: crypto-xxhash64, …
    requests: tuple[str, ...] = ()
    further: tuple[FurtherDevice, ...] = ()


class LoopFile(Struct, frozen=True, kw_only=True):
    """The file behind a loop device; the devices that carry its file system are those below the loop device."""

    # From the root of that file system, without a slash at the beginning.
    path: str
    # Where in the file the device begins (losetup -o).
    offset_bytes: int
    filesystem: Filesystem


# --- layers ------------------------------------------------------------------------------------------------------


class _Device(Struct, frozen=True, kw_only=True, tag_field="kind"):
    # Kernel name, for messages only: it may be another one after the crash.
    name: str
    # "major:minor" as of now.
    number: str
    size_bytes: int
    content: Content = Content()
    # The devices below, by kernel name.
    below: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The tag of the layer, as messages and JSON have it."""
        return str(self.__struct_config__.tag)


class Disk(_Device, frozen=True, kw_only=True, tag="disk"):
    """A disk of this machine's own hardware, or of its hypervisor: its drivers are enough to have it."""

    # Modules of the drivers from the disk up to its bus, the disk's own first (driver/module links of sysfs); of one
    # with several controllers, those of all.
    drivers: tuple[str, ...] = ()
    # modalias of the same devices, where a driver is built in.
    modaliases: tuple[str, ...] = ()
    # What the disk says of itself: WWN or serial number, whichever sysfs has; "" if none.
    disk_id: str = ""


class Partition(_Device, frozen=True, kw_only=True, tag="partition"):
    # Its UUID in the partition table, in lower case (ID_PART_ENTRY_UUID of udev).
    part_uuid: str = ""


class _Mapped(_Device, frozen=True, kw_only=True):
    dm_name: str = ""
    dm_uuid: str = ""
    # What its table is made of: names of device-mapper's target types; none where the table could not be read.
    target_types: tuple[str, ...] = ()
    # What the kernel will ask modprobe for when the table is loaded, as names and aliases of modules.
    requests: tuple[str, ...] = ()


class LogicalVolume(_Mapped, frozen=True, kw_only=True, tag="lvm"):
    """A logical volume of LVM, or a device that LVM has made for the inside of one."""

    # Of its group: the host that it belongs to, and the lock manager of hosts that share it; "" if there is none.
    system_id: str = ""
    lock_type: str = ""


class CryptDevice(_Mapped, frozen=True, kw_only=True, tag="crypt"):
    """What cryptsetup(8) has opened; the header is content of the device below."""


class MultipathDevice(_Mapped, frozen=True, kw_only=True, tag="multipath"):
    """A disk that several paths lead to, or what kpartx(8) has made of a partition on it."""


class MappedDevice(_Mapped, frozen=True, kw_only=True, tag="dm"):
    """A device of device-mapper that none of the above has made: a hook of the site may know it."""


class Array(_Device, frozen=True, kw_only=True, tag="md"):
    """An array of Linux software RAID with metadata of its own (0.90, 1.x)."""

    # md/level: raid0, raid1, raid4, raid5, raid6, raid10, linear.
    level: str


class LoopDevice(_Device, frozen=True, kw_only=True, tag="loop"):
    file: LoopFile


class UnseenDevice(_Device, frozen=True, kw_only=True, tag="unseen"):
    """A device of a machine that is not here: what its configuration calls it by."""

    part_uuid: str = ""


class UnknownDevice(_Device, frozen=True, kw_only=True, tag="unknown"):
    """A device that is none of the above."""

    # What it seems to be: "an iSCSI disk", "zram".
    seems: str
    # What the administrator can do.
    remedy: str


BlockDevice = (
    Disk
    | Partition
    | LogicalVolume
    | CryptDevice
    | MultipathDevice
    | MappedDevice
    | Array
    | LoopDevice
    | UnseenDevice
    | UnknownDevice
)

# --- targets -----------------------------------------------------------------------------------------------------


class _Target(Struct, frozen=True, kw_only=True, tag_field="type"):
    # As configured: kind, and the directory on the running system or the device.
    kind: str
    name: str
    # The most time that it may take; 0 for its share of what is left.
    budget_s: int = 0


class _OnBlockDevices(_Target, frozen=True, kw_only=True):
    # The layers, outermost first, disks last.
    stack: tuple[BlockDevice, ...]

    @property
    def device(self) -> BlockDevice:
        return self.stack[0]

    def under(self, device: BlockDevice) -> tuple[BlockDevice, ...]:
        """Return the layers directly below one of the stack."""
        return tuple(other for other in self.stack if other.name in device.below)


class DirectoryTarget(_OnBlockDevices, frozen=True, kw_only=True, tag="directory"):
    """A directory on a file system of block devices."""

    # Directory of the dumps below the root of `filesystem`; "" for that root itself.
    directory: str
    filesystem: Filesystem
    # Kernel names of the devices that carry the file system: one, or all of a btrfs.
    devices: tuple[str, ...]

    @property
    def carriers(self) -> tuple[BlockDevice, ...]:
        return tuple(device for device in self.stack if device.name in self.devices)


class DeviceTarget(_OnBlockDevices, frozen=True, kw_only=True, tag="device"):
    """A device that is written to as it is, without a file system."""


class ShareTarget(_Target, frozen=True, kw_only=True, tag="share"):
    """A directory that the hypervisor shares: virtiofs, or 9p over virtio."""

    # virtiofs, 9p.
    fs_type: str
    # What it is mounted by.
    tag: str
    directory: str
    # Of the device that offers it; see `Disk`.
    drivers: tuple[str, ...] = ()
    modaliases: tuple[str, ...] = ()


TargetFacts = DirectoryTarget | DeviceTarget | ShareTarget


def stack_of(target: TargetFacts) -> tuple[BlockDevice, ...]:
    """Return the layers that a target stands on; a share stands on none."""
    return () if isinstance(target, ShareTarget) else target.stack


def filesystem_of(target: TargetFacts) -> Filesystem | None:
    return target.filesystem if isinstance(target, DirectoryTarget) else None


def drivers_of(target: TargetFacts) -> tuple[str, ...]:
    """Return the modules of the drivers of a target's hardware."""
    if isinstance(target, ShareTarget):
        return target.drivers
    return tuple(driver for device in target.stack if isinstance(device, Disk) for driver in device.drivers)


# --- what hooks look for -----------------------------------------------------------------------------------------

# Hooks of one layer.
Layer = TypeVar("Layer", Disk, Partition, LogicalVolume, CryptDevice, MultipathDevice, MappedDevice, Array, LoopDevice)


class Layers(Struct, Generic[Layer], frozen=True):
    """The devices of one layer that some targets stand on."""

    # For each target that stands on any, these, the lowest first: the order in which they can be made.
    by_target: Mapping["OnBlockDevices", tuple[Layer, ...]]

    def __bool__(self) -> bool:
        return bool(self.by_target)

    @property
    def found(self) -> tuple[tuple["OnBlockDevices", Layer], ...]:
        """Each device once, with the first target that stands on it."""
        first: dict[Layer, OnBlockDevices] = {}
        for target, devices in self.by_target.items():
            for device in devices:
                first.setdefault(device, target)
        return tuple((target, device) for device, target in first.items())

    @property
    def devices(self) -> tuple[Layer, ...]:
        return tuple(device for _, device in self.found)

    @property
    def names(self) -> tuple[str, ...]:
        """Kernel names, each once: what a hook of this layer provides."""
        return tuple(dict.fromkeys(device.name for device in self.devices))


OnBlockDevices = DirectoryTarget | DeviceTarget


def layers(targets: Iterable[TargetFacts], layer: type[Layer]) -> Layers[Layer]:
    """Return the devices of a layer below all targets."""
    found = {
        target: tuple(device for device in reversed(target.stack) if isinstance(device, layer))
        for target in targets
        if not isinstance(target, ShareTarget)
    }
    return Layers({target: devices for target, devices in found.items() if devices})
