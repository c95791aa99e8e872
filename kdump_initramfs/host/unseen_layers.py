"""Layers that a root which is not running tells of: a file system that is named by its UUID may be inside one of them.

Fedora's fstab has UUID=… for what is on /dev/mapper/luks-…; nothing in fstab tells it from what is on a partition. So a
layer that nothing else uses might hold the file system, and only where there is none can it be taken for a plain one.
"""

import re
from collections.abc import Iterator

from msgspec import Struct

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import lvm_text
from kdump_initramfs.formats.lvm_text import Section
from kdump_initramfs.host import crypttab, fstab, unseen_lvm
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import CryptEntry

_MAPPER = "/dev/mapper/"
_BY_NAME = "/dev/disk/by-id/dm-name-"
REMEDY = (
    "write PARTUUID=… instead where it is on a plain partition, build on the machine itself, or give its --facts "
    "(from `probe --json` on it)"
)


class Layer(Struct, frozen=True):
    """A device that is made of others."""

    # For messages: what it is, and what tells of it.
    what: str
    # Paths of its node.
    nodes: tuple[str, ...]


def check_plain(root: Root, name: str, spec: str, fs_type: str) -> None:
    """Refuse a file system that is known by UUID or label, and may be on a layer that is not in its name."""
    if spec.partition("=")[0] not in ("UUID", "LABEL"):
        return  # the UUID of a partition names the partition itself
    used = _used(root, fs_type)
    unknown = next((layer for layer in _layers(root) if not used.intersection(layer.nodes)), None)
    if unknown is not None:
        raise HostError(
            f"{name}: on {spec} ({fs_type}), which may be inside {unknown.what}; that cannot be seen here", hint=REMEDY
        )


def encrypted(root: Root, spec: str) -> str:
    """Return what tells that the device `spec` is an encrypted one; "" where nothing does."""
    return next((layer.what for layer in _encrypted(root) if spec in layer.nodes), "")


def _used(root: Root, fs_type: str) -> set[str]:
    """Return the nodes that are known to hold something else than the file system in question.

    A btrfs is mounted several times, and not always by the same name.
    """
    entries = fstab.specs(root)
    mounted = {spec for spec, kind in entries if not (kind == "btrfs" and fs_type == "btrfs")}
    sources = {entry.source for entry in _crypttab(root)}
    physical = {device for _, group in _groups(root) for device in _physical(group)}
    return (mounted | sources | physical) - {""}


def _layers(root: Root) -> Iterator[Layer]:
    yield from _encrypted(root)
    yield from _volumes(root)
    yield from _arrays(root)


# --- encryption --------------------------------------------------------------------------------------------------

# Tables in the format of crypttab(5): the second is mkinitcpio's, for what the root is on.
_TABLES = ("/etc/crypttab", "/etc/crypttab.initramfs")
# Swap and /tmp that are made anew at each boot hold no file system that fstab could name.
_VOLATILE = frozenset({"swap", "tmp"})
_RANDOM = ("/dev/urandom", "/dev/random", "/dev/hw_random")
# Where the words of a kernel's command line are kept; comments begin with #.
_LINES = (
    *("/etc/kernel/cmdline", "/usr/lib/kernel/cmdline", "/etc/default/grub", "/etc/dracut.conf", "/etc/cmdline"),
    *("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"),
)
_DIRECTORIES = (
    *("/etc/default/grub.d", "/etc/kernel/cmdline.d", "/etc/cmdline.d", "/etc/dracut.conf.d"),
    *("/boot/loader/entries", "/efi/loader/entries", "/boot/efi/loader/entries"),
)
# dracut.cmdline(7), systemd-cryptsetup-generator(8): rd.luks.name=UUID=NAME, rd.luks.uuid=UUID, called luks-UUID then.
_LUKS_NAME = r"(?<![\w.])(?:rd\.)?luks\.name=[0-9A-Fa-f-]+=([^\s\"']+)"
_LUKS_UUID = r"(?<![\w.])(?:rd\.)?luks\.uuid=(?:luks-)?([0-9A-Fa-f-]+)"
# mkinitcpio's encrypt hook: cryptdevice=DEVICE:NAME[:OPTIONS].
_CRYPTDEVICE = r"(?<![\w.])cryptdevice=[^\s\"':]+:([^\s\"':]+)"
# Alpine's mkinitfs, Debian's initramfs-tools.
_OTHER = r"(?<![\w.])(?:cryptdm|cryptopts=(?:[^\s\"']*,)?target)=([^\s\"',]+)"
# OpenRC's dmcrypt; its swap is made anew.
_DMCRYPT = "/etc/conf.d/dmcrypt"
_TARGET = r"(?m)^\s*target=['\"]?([^\s\"']+)"
_CRYPT_ROOT = r"(?<![\w.])(?:cryptroot|crypt_root)="


def _crypttab(root: Root) -> tuple[CryptEntry, ...]:
    return tuple(
        entry
        for table in _TABLES
        for entry in crypttab.parse(root.read_text(table) or "")
        if not _VOLATILE & set(entry.options) and entry.key_file not in _RANDOM
    )


def _encrypted(root: Root) -> Iterator[Layer]:
    entries = _crypttab(root)
    for entry in entries:
        yield _mapped(f"{entry.name}, which crypttab opens", entry.name)
    known = {entry.name for entry in entries} | {entry.source.removeprefix("UUID=").lower() for entry in entries}
    for name, where in _opened_by_words(root):
        if name not in known and name.removeprefix("luks-").lower() not in known:
            yield _mapped(f"{name}, an encrypted device of {where}", name)
    for key in crypttab.key_files(root):
        if key.name not in known:
            yield _mapped(f"{key.name}, which is opened with {key.key_file}", key.name)


def _mapped(what: str, name: str) -> Layer:
    return Layer(what, (f"{_MAPPER}{name}", f"{_BY_NAME}{name}"))


def _opened_by_words(root: Root) -> Iterator[tuple[str, str]]:
    """Yield what the command lines of kernels say is encrypted, and where that is written."""
    yield from ((name, _DMCRYPT) for name in re.findall(_TARGET, root.read_text(_DMCRYPT) or ""))
    for path, text in _texts(root):
        named = re.findall(_LUKS_NAME, text) + re.findall(_CRYPTDEVICE, text) + re.findall(_OTHER, text)
        yield from ((name, path) for name in named)
        if not re.search(_LUKS_NAME, text):
            yield from ((f"luks-{number}", path) for number in re.findall(_LUKS_UUID, text))
        if not named and re.search(_CRYPT_ROOT, text):
            yield "root", path


def _texts(root: Root) -> Iterator[tuple[str, str]]:
    inside = [f"{directory}/{name}" for directory in _DIRECTORIES for name in root.list(directory)]
    for path in (*_LINES, *inside):
        if root.is_file(path):
            lines = (root.read_text(path) or "").splitlines()
            yield path, "\n".join(line for line in lines if not line.lstrip().startswith("#"))


# --- volumes and arrays ------------------------------------------------------------------------------------------

_LVM_BACKUP = "/etc/lvm/backup"
# Segment types that hold no file system themselves.
_POOLS = ("thin-pool", "cache-pool", "vdo-pool")
_MDADM = ("/etc/mdadm.conf", "/etc/mdadm/mdadm.conf")


def _groups(root: Root) -> Iterator[tuple[str, Section]]:
    for group in root.list(_LVM_BACKUP):
        if root.is_file(f"{_LVM_BACKUP}/{group}"):
            yield group, unseen_lvm.read(root, group)


def _physical(group: Section) -> Iterator[str]:
    physical = lvm_text.section(group, "physical_volumes")
    return (lvm_text.text(lvm_text.section(physical, each), "device") for each in physical)


def _volumes(root: Root) -> Iterator[Layer]:
    for group, described in _groups(root):
        logical = lvm_text.section(described, "logical_volumes")
        for volume in logical:
            about = lvm_text.section(logical, volume)
            if "VISIBLE" in lvm_text.strings(about, "status") and not _is_pool(about):
                joined = "-".join(part.replace("-", "--") for part in (group, volume))
                ids = "".join(lvm_text.text(each, "id").replace("-", "") for each in (described, about))
                nodes = (f"/dev/{group}/{volume}", f"{_MAPPER}{joined}", f"{_BY_NAME}{joined}")
                yield Layer(
                    f"{group}/{volume}, a logical volume of {_LVM_BACKUP}",
                    (*nodes, f"/dev/disk/by-id/dm-uuid-LVM-{ids}"),
                )


def _is_pool(volume: Section) -> bool:
    segments = (each for each in volume.values() if isinstance(each, dict))
    return any(lvm_text.text(segment, "type") in _POOLS for segment in segments)


def _arrays(root: Root) -> Iterator[Layer]:
    """Yield the arrays of mdadm.conf(5); the node of one that has none is not known."""
    for path in _MDADM:
        for line in (root.read_text(path) or "").splitlines():
            words = line.split()
            if len(words) > 1 and words[0].upper() == "ARRAY" and words[1] != "<ignore>":
                node = words[1] if "=" not in words[1] else ""
                uuid = next((word for word in words if word.upper().startswith("UUID=")), "")
                # /dev/md0 and /dev/md/0 are one.
                nodes = (
                    node,
                    re.sub(r"^/dev/md/?(?=[0-9])", "/dev/md", node),
                    re.sub(r"^/dev/md(?=[0-9])", "/dev/md/", node),
                )
                yield Layer(f"{node or uuid}, an array of {path}", nodes)
