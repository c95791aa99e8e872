"""What crosses the borders between modules: frozen values, each printable as JSON.

The one direction is HostFacts -> Contribution -> Plan -> Manifest. A frozen `msgspec.Struct` is like a frozen
dataclass, but defined in microseconds (start-up is paid on every kernel install), and with JSON in both directions.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct, field

from kdump_initramfs.config import Config
from kdump_initramfs.formats.modprobe_conf import ModuleSettings
from kdump_initramfs.formats.proc_modules import LoadedModule
from kdump_initramfs.storage import OnBlockDevices, TargetFacts

# Of what is printed as JSON, and of facts with what holds them: `probe --json`, manifests.
SCHEMA = 1
FACTS_SCHEMA = 2


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
    # It can load modules (CONFIG_MODULES); one that cannot has everything built in.
    modular: bool = True
    # Why kexec gets a copy that is beside the capture image; "" where it gets the image itself.
    copied_because: Literal["", "packed", "unmounted"] = ""


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
    makedumpfile_blind_from: str = ""  # the first kernel ("6.10") of which it loses pages (formats/makedumpfile.py)
    vmcore_dmesg: str = ""
    zstd: str = ""
    age: str = ""
    dmsetup: str = ""
    lvm: str = ""
    mdadm: str = ""
    cryptsetup: str = ""
    cryptsetup_takes_volume_keys: bool = False  # it opens a device by a volume key that is in a keyring (2.7)


class HostFacts(Struct, frozen=True, kw_only=True):
    schema: int = FACTS_SCHEMA
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
    module_settings: ModuleSettings = field(default_factory=ModuleSettings)
    # In the order in which they run.
    pre_scripts: tuple[Script, ...] = ()
    post_scripts: tuple[Script, ...] = ()
    # Descriptions of the volume keys that the kernel can hand over now: logon keys that begin with VOLUME_KEY_PREFIX.
    volume_keys: tuple[str, ...] = ()
    # Modules that are in use now; none where the image is generic, or for another kernel than the running one.
    loaded_modules: tuple[LoadedModule, ...] = ()
    targets: tuple[TargetFacts, ...] = ()


# --- what hooks say ----------------------------------------------------------------------------------------------


Settings = Mapping[str, str]


class DriverSet(Struct, frozen=True, kw_only=True):
    """Modules for devices that are not known yet: taken along, and loaded when a device asks for them."""

    # Directories of modules, as modules.dep spells them; of what is in them, what a device can ask for is taken.
    directories: tuple[str, ...]
    # Names of modules to leave out.
    without: tuple[str, ...] = ()
    # Directories: what needs a module of one of them is left out too.
    independent_of: tuple[str, ...] = ()
    # What tells of a module from outside of the kernel's tree that it belongs here: functions that it calls, devices.
    calls: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()


class BuildOnly(Struct, frozen=True, kw_only=True):
    """What a hook adds to the image that has no capture side; the other contributions add the same, and more."""

    # Names (looked up in the root's usual directories) or absolute paths; libraries follow by themselves.
    binaries: tuple[str, ...] = ()
    # Kernel modules in load order; what they depend on is put before them, built-in ones are left out.
    modules: tuple[str, ...] = ()
    # modalias strings and other aliases whose modules are wanted, behind the others of this hook and before those of
    # the next; one that no module answers to is passed over.
    modaliases: tuple[str, ...] = ()
    # Modules that are loaded by what devices ask for; 25-drivers.sh does that.
    drivers: DriverSet | None = None
    entries: tuple[Entry, ...] = ()
    # Settings for the scripts; names start with KDUMP_.
    settings: Settings = {}
    # What the administrator should know: it works, but weaker than it could.
    warnings: tuple[str, ...] = ()


class BootStep(BuildOnly, frozen=True, kw_only=True):
    """Its capture side runs once, before any target."""


class StorageLayer(BuildOnly, frozen=True, kw_only=True):
    """Makes layers that targets stand on. It may lack a capture side: a disk is there once its drivers are loaded."""

    # Kernel names of the layers that exist in the capture kernel because of this hook; a target needs all of its own.
    provides: tuple[str, ...]
    # Settings that hold for one target.
    target_settings: Mapping[OnBlockDevices, Settings] = {}
    # Descriptions of the logon keys that the running kernel hands over to the capture kernel; no key itself.
    volume_keys: tuple[str, ...] = ()


class TargetDriver(BuildOnly, frozen=True, kw_only=True):
    """Drives one kind of target: its capture side answers open, put, drop, commit, digest and close."""

    # The targets that it drives, each with its own settings; each target needs exactly one driver.
    drives: Mapping[TargetFacts, Settings]


class Saver(BuildOnly, frozen=True, kw_only=True):
    """Its capture side runs for each target that is open, and saves something."""

    # Whether a target has failed when this has.
    required: bool = False
    # Whether it takes as long as it takes, and not only what a hook may take (capture.hook_timeout_s).
    unlimited: bool = False
    # Settings that hold for one target.
    target_settings: Mapping[TargetFacts, Settings] = {}


# What one hook adds to the image, by the phase in which its capture side runs; a hook with nothing to add contributes
# None.
Contribution = BuildOnly | BootStep | StorageLayer | TargetDriver | Saver


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

    schema: int = FACTS_SCHEMA
    tool: str
    kernel: Kernel
    # sha256 of the kernel image that the capture image is meant for.
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
