"""What crosses the borders between modules: frozen values, each printable as JSON.

The one direction is HostFacts -> Contribution -> Plan -> Manifest. A frozen `msgspec.Struct` is like a frozen
dataclass, but defined in microseconds (start-up is paid on every kernel install), and with JSON in both directions.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from msgspec import Struct, field

from kdump_initramfs.config import Config
from kdump_initramfs.formats.proc_modules import LoadedModule

SCHEMA = 1


class OnFailure(StrEnum):
    """What /init does when a hook fails."""

    # Log it and go on.
    CONTINUE = "continue"
    # This target has failed: what comes before its opening ends there, what saves goes on, the next target is tried.
    STOP = "stop"


class Phase(StrEnum):
    """When the capture side of a hook runs."""

    # Once, before any target.
    BOOT = "boot"
    # For each target: make its storage or network available.
    STORAGE = "storage"
    # The driver of one kind of target: answers open, put, commit and close.
    TARGET = "target"
    # For each target that is open: save something.
    SAVE = "save"
    # Never: there is a build side alone.
    NONE = "none"


# --- entries of an image -----------------------------------------------------------------------------------------


class _Entry(Struct, frozen=True, kw_only=True, tag_field="type"):
    # Absolute path inside the image, normalised, without symbolic links in its parents.
    path: str
    # Why it is there, for `plan -v`; no part of the image.
    reason: str = ""


class Dir(_Entry, frozen=True, kw_only=True, tag="dir"):
    mode: int = 0o755


class File(_Entry, frozen=True, kw_only=True, tag="file"):
    """A copy of a file of the host."""

    # Path on the machine that builds, symbolic links resolved; of what a hook contributes, the path in the root.
    source: str
    mode: int = 0o644


class Module(_Entry, frozen=True, kw_only=True, tag="module"):
    """A kernel module, stored unpacked: insmod of every busybox can load that, and it compresses better."""

    # Path on the machine that builds: .ko, .ko.xz, .ko.zst or .ko.gz.
    source: str
    mode: int = 0o644


class Text(_Entry, frozen=True, kw_only=True, tag="text"):
    """A file whose content was made here."""

    content: str
    mode: int = 0o644


class Link(_Entry, frozen=True, kw_only=True, tag="link"):
    """A symbolic link; `target` is stored as it is."""

    target: str


class Node(_Entry, frozen=True, kw_only=True, tag="node"):
    """A device node (`c` or `b`)."""

    kind: Literal["c", "b"]
    major: int
    minor: int
    mode: int = 0o600


Entry = Dir | File | Module | Text | Link | Node


# A share (virtiofs, 9p) is no block device, but a device all the same.
BlockKind = Literal["disk", "partition", "lvm", "crypt", "multipath", "dm", "md", "loop", "share"]

# A volume key whose description crypttab does not tell is called so, with the UUID of the LUKS header behind. The name
# is that of kdump-utils (kdump-lib-initramfs.sh), so that a machine that was prepared for it needs no more.
VOLUME_KEY_PREFIX = "kdump-cryptsetup:vk-"

# --- facts -------------------------------------------------------------------------------------------------------


class Kernel(Struct, frozen=True, kw_only=True):
    # The version: the name of its directory below /lib/modules (`uname -r`).
    release: str
    image: str
    # As formats/kernel_image.py calls it; "" of one that it does not know.
    image_format: str = ""
    modules_dir: str
    # The initramfs compressions that it can unpack, of zstd, xz, gzip (CONFIG_RD_*); None if its config is unknown.
    initramfs_compressions: tuple[str, ...] | None
    # It hands volume keys of LUKS devices over to a capture kernel, and takes them as one (CONFIG_CRASH_DM_CRYPT).
    hands_over_volume_keys: bool = False
    # Why kexec gets a copy that is beside the capture image; "" where it gets the image itself.
    copied_because: Literal["", "packed", "unmounted"] = ""


class Filesystem(Struct, frozen=True, kw_only=True):
    type: str
    # As blkid(8) prints it; "" where it is known by its label alone, or has none.
    uuid: str
    # Mount options that the capture kernel needs as well (none that name a policy of the running system).
    options: tuple[str, ...] = ()
    # "" where the UUID is known, or there is none.
    label: str = ""
    # What a share is mounted by: its tag. "" on block devices.
    tag: str = ""


class LoopFile(Struct, frozen=True, kw_only=True):
    """The file behind a loop device; the devices that carry its file system are those below the loop device."""

    # From the root of that file system, without a slash at the beginning.
    path: str
    # Where in the file the device begins (losetup -o).
    offset_bytes: int
    filesystem: Filesystem


class BlockDevice(Struct, frozen=True, kw_only=True):
    """One layer of what a target stands on (/sys/dev/block)."""

    # Kernel name, for messages only: it may be another one after the crash.
    name: str
    kind: BlockKind
    # "major:minor" as of now.
    number: str
    size_bytes: int
    # Modules of the drivers from the disk up to its bus, the disk's own first (driver/module links of sysfs).
    drivers: tuple[str, ...] = ()
    # modalias of the same devices, where a driver is built in.
    modaliases: tuple[str, ...] = ()
    # What the disk says of itself: WWN or serial number, whichever sysfs has; "" if none.
    disk_id: str = ""
    # dm/name and dm/uuid, without which this is no device-mapper device.
    dm_name: str = ""
    dm_uuid: str = ""
    # md/level: raid0, raid1, raid4, raid5, raid6, raid10, linear; "" if this is no array.
    md_level: str = ""
    # What is behind a loop device.
    loop: LoopFile | None = None
    # Of a partition: its UUID in the partition table, in lower case (ID_PART_ENTRY_UUID of udev).
    part_uuid: str = ""
    # What lies on the device, as blkid(8) says it: ext4, LVM2_member, crypto_LUKS, linux_raid_member, …
    content_type: str = ""
    # Its UUID: of the file system, the physical volume, the LUKS header or the array.
    content_uuid: str = ""
    # Memory that opening a LUKS device on this one takes (Argon2); 0 if none, or if the header could not be read.
    luks_kdf_kib: int = 0
    # The devices below, by kernel name.
    below: tuple[str, ...] = ()


class TargetFacts(Struct, frozen=True, kw_only=True):
    """One configured target and what it stands on."""

    kind: str
    # As configured: the directory on the running system, or the device.
    name: str
    # Directory of the dumps below the root of `filesystem`; "" for that root itself.
    directory: str
    # None of a device that is written to as it is.
    filesystem: Filesystem | None
    # The layers, outermost (those that carry the file system) first, disks last.
    stack: tuple[BlockDevice, ...]
    # Kernel names of the devices that carry the file system: one, or all of a btrfs.
    devices: tuple[str, ...] = ()
    # The most time that it may take; 0 for its share of what is left.
    budget_s: int = 0

    @property
    def carriers(self) -> tuple[BlockDevice, ...]:
        return tuple(device for device in self.stack if device.name in self.devices) or self.stack[:1]

    @property
    def device(self) -> BlockDevice:
        return self.stack[0]

    def under(self, device: BlockDevice) -> tuple[BlockDevice, ...]:
        """Return the layers directly below one of the stack."""
        return tuple(other for other in self.stack if other.name in device.below)


class CryptEntry(Struct, frozen=True, kw_only=True):
    """One line of /etc/crypttab (crypttab(5))."""

    name: str
    source: str
    # "" if a passphrase is asked for.
    key_file: str = ""
    options: tuple[str, ...] = ()


class Watchdog(Struct, frozen=True, kw_only=True):
    """A hardware watchdog that is active (/sys/class/watchdog)."""

    # What its driver calls it.
    identity: str
    drivers: tuple[str, ...] = ()
    modaliases: tuple[str, ...] = ()


class Script(Struct, frozen=True, kw_only=True):
    """A program of the administrator that runs before or after the dump."""

    path: str
    # The program that its first line names; "" for a binary.
    interpreter: str = ""


class Tools(Struct, frozen=True, kw_only=True):
    """Programs of the host that the capture image may take along: path, or "" if there is none."""

    busybox: str = ""
    # Applets that this busybox was built with.
    busybox_applets: tuple[str, ...] = ()
    makedumpfile: str = ""
    # What this makedumpfile can compress with, of lzo, snappy, zlib, zstd.
    makedumpfile_compressions: tuple[str, ...] = ()
    vmcore_dmesg: str = ""
    zstd: str = ""
    age: str = ""
    dmsetup: str = ""
    lvm: str = ""
    mdadm: str = ""
    cryptsetup: str = ""
    # This cryptsetup opens a device by a volume key that is in a keyring (2.7).
    cryptsetup_takes_volume_keys: bool = False


class HostFacts(Struct, frozen=True, kw_only=True):
    schema: int = SCHEMA
    # /etc/hostname, or "localhost".
    hostname: str
    # As `uname -m` says it, from the ELF header of the root's shell.
    machine: str
    kernel: Kernel
    # Parameters of the running kernel (/proc/cmdline), quotes kept.
    cmdline: tuple[str, ...] = ()
    # Memory set aside for the capture kernel; 0 if none (/sys/kernel/kexec_crash_size).
    reserved_bytes: int = 0
    # APIC id of the boot processor, which a capture kernel with several CPUs must not start; None if unknown.
    boot_apicid: int | None = None
    tools: Tools = field(default_factory=Tools)
    crypttab: tuple[CryptEntry, ...] = ()
    watchdogs: tuple[Watchdog, ...] = ()
    # In the order in which they run.
    pre_scripts: tuple[Script, ...] = ()
    post_scripts: tuple[Script, ...] = ()
    # Descriptions of the volume keys that the kernel can hand over now: logon keys that begin with VOLUME_KEY_PREFIX.
    volume_keys: tuple[str, ...] = ()
    # Modules that are in use now; none where the image is generic, or for another kernel than the running one.
    loaded_modules: tuple[LoadedModule, ...] = ()
    targets: tuple[TargetFacts, ...] = ()


# --- what hooks say ----------------------------------------------------------------------------------------------


class DriverSet(Struct, frozen=True, kw_only=True):
    """Modules for devices that are not known yet: taken along, and loaded when a device asks for them."""

    # Directories of modules, as modules.dep spells them; of what is in them, what a device can ask for is taken.
    directories: tuple[str, ...]
    # Names of modules to leave out.
    without: tuple[str, ...] = ()
    # Directories: what needs a module of one of them is left out too.
    independent_of: tuple[str, ...] = ()


class Contribution(Struct, frozen=True, kw_only=True):
    """What one hook adds to the image. A hook with nothing to add contributes None."""

    # Names (looked up in the root's usual directories) or absolute paths; libraries follow by themselves.
    binaries: tuple[str, ...] = ()
    # Kernel modules in load order; what they depend on is put before them, built-in ones are left out.
    modules: tuple[str, ...] = ()
    # modalias strings whose modules are wanted, behind the others of this hook and before those of the next.
    modaliases: tuple[str, ...] = ()
    # Modules that are loaded by what devices ask for; 25-drivers.sh does that.
    drivers: DriverSet | None = None
    entries: tuple[Entry, ...] = ()
    # Settings for the scripts; names start with KDUMP_.
    settings: Mapping[str, str] = {}
    # Settings that hold for one target, by its position in HostFacts.targets.
    target_settings: Mapping[int, Mapping[str, str]] = {}
    # When the capture side runs.
    phase: Phase = Phase.NONE
    on_failure: OnFailure = OnFailure.CONTINUE
    # For phase SAVE: whether it takes as long as it takes, and not only what a hook may take (capture.hook_timeout_s).
    unlimited: bool = False
    # Layers (by kernel name) that exist in the capture kernel because of this hook; a target needs all of its own.
    provides: tuple[str, ...] = ()
    # For phase TARGET: the positions of the targets that this hook drives; each target needs exactly one driver.
    drives: tuple[int, ...] = ()
    # Descriptions of the logon keys that the running kernel hands over to the capture kernel; no key itself.
    volume_keys: tuple[str, ...] = ()
    # What the administrator should know: it works, but weaker than it could.
    warnings: tuple[str, ...] = ()


class HookRun(Struct, frozen=True, kw_only=True):
    """A hook that has something to say for this image."""

    name: str
    # Path of the script on the host, or "" if the hook has no capture side.
    script: str
    contribution: Contribution


# --- what is built -----------------------------------------------------------------------------------------------


class Input(Struct, frozen=True, kw_only=True):
    path: str
    sha256: str


class Basis(Struct, frozen=True, kw_only=True):
    """What was decided from, beside the files that went in: with the same of it, the same image would be built."""

    config: Config
    # Without targets, which the manifest has.
    host: HostFacts
    # Files that were read to decide: hooks, templates, the list of the modules.
    sources: tuple[Input, ...]


class Plan(Struct, frozen=True, kw_only=True):
    """Everything that the image will hold, sorted by path, parents before children."""

    kernel: Kernel
    entries: tuple[Entry, ...]
    hooks: tuple[str, ...]
    targets: tuple[TargetFacts, ...]
    # Descriptions of the logon keys that `load` has the kernel hand over.
    volume_keys: tuple[str, ...] = ()
    # Compression of the archive: zstd, xz, gzip or none.
    compression: str
    warnings: tuple[str, ...] = ()
    # None of a plan that was not made from a configuration.
    basis: Basis | None = None


class Manifest(Struct, frozen=True, kw_only=True):
    """What an image is made of; travels inside it as /etc/kdump/manifest.json."""

    schema: int = SCHEMA
    tool: str
    kernel: Kernel
    kernel_sha256: str
    hooks: tuple[str, ...]
    targets: tuple[TargetFacts, ...]
    volume_keys: tuple[str, ...] = ()
    # Every file of the host that went in, with its digest: what `status` compares.
    inputs: tuple[Input, ...]


class ImageRecord(Struct, frozen=True, kw_only=True):
    """The manifest beside the image: what is inside it, and the image itself."""

    # Name of the image file, in the same directory.
    image: str
    image_bytes: int
    image_sha256: str
    unpacked_bytes: int
    compression: str
    # sha256 of the manifest inside; a dump names the image that took it by this.
    digest: str
    manifest: Manifest
    # Name of the kernel's copy, in the same directory, and its digest; "" where kexec gets the kernel image itself.
    kernel_copy: str = ""
    kernel_copy_sha256: str = ""
    # None in a record of an older kdump-initramfs.
    basis: Basis | None = None
