"""Dump targets whose devices are not there: what the configuration and /etc/fstab say, for generic images."""

from kdump_initramfs.config import DiskTarget, PathTarget, RawTarget
from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import superblock
from kdump_initramfs.host import expected, fstab, mounts, unseen_layers, unseen_lvm
from kdump_initramfs.host.root import Root
from kdump_initramfs.storage import BlockDevice, Content, DirectoryTarget, Filesystem, TargetFacts, UnseenDevice

# A directory that is bound to one that is bound to …: more of them is a mistake.
_MAX_BINDS = 8
_BY_UUID = 'device = "UUID=…" and fs_type in a [[target]] with kind = "disk"'
# What tells a device of another machine: names of devices do not.
_KEYS = ("UUID", "LABEL", "PARTUUID")
_ELSEWHERE = "build on the machine itself, or give its --facts (from `probe --json` on it)"
# Nodes of devices that stand on others: the UUID of what is on them would hide that.
_MADE_OF_OTHERS = ("/dev/mapper/", "/dev/dm-", "/dev/md", "/dev/bcache", "/dev/disk/by-id/dm-")
_NAMED_BY = "a name tells nothing of another machine"


def disk(root: Root, target: DiskTarget) -> TargetFacts:
    """Return the facts of a file system that is named by its UUID, label, partition or volume, and cannot be seen."""
    if target.fs_type and (volume := unseen_lvm.stack(root, target.device, target.device)):
        return _on(volume, "disk", target.device, target.path.strip("/"), target.fs_type)
    if target.device.partition("=")[0] not in _KEYS:
        raise HostError(
            f"{target.device}: no such block device, and {_NAMED_BY}", hint=f"name the file system by {_BY_UUID}"
        )
    if not target.fs_type:
        raise HostError(
            f"{target.device}: no such file system on this machine, so its type is unknown",
            hint='tell it by fs_type = "ext4" (or xfs, btrfs, …) in the [[target]]',
        )
    # What a machine that runs has in its tables is no other machine's.
    if not mounts.are_known(root):
        unseen_layers.check_plain(root, target.device, target.device, target.fs_type)
    return _facts("disk", target.device, target.path.strip("/"), target.device, target.fs_type)


def raw(target: RawTarget) -> TargetFacts:
    """Refuse a raw device that cannot be looked at: nothing on it would tell it from another."""
    raise HostError(
        f"{target.device}: no such block device on this machine, and one thing alone does not tell it from another",
        hint=_ELSEWHERE,
    )


def path(root: Root, target: PathTarget) -> TargetFacts:
    """Return the facts of a directory that /etc/fstab says the file system of; it need not be there yet."""
    entries = fstab.read(root)
    place = root.resolve(target.path)
    for _ in range(_MAX_BINDS):
        entry = fstab.holder(entries, place)
        if entry is None:
            raise HostError(
                f"{target.path}: on no file system of {root.directory.rstrip('/')}/etc/fstab",
                hint=f"add its file system there, or name it by {_BY_UUID}",
            )
        expected.check_units(root, target.path, place, entry.mount_point)
        below = place[len(entry.mount_point) :]
        if not {"bind", "rbind"} & set(entry.options):
            return _of_entry(root, target, entry, below)
        place = root.resolve(entry.spec + below)
    raise HostError(f"{target.path}: more than {_MAX_BINDS} bind mounts in /etc/fstab", hint="mend /etc/fstab")


def _of_entry(root: Root, target: PathTarget, entry: fstab.Entry, below: str) -> TargetFacts:
    spec = _spec(entry.spec)
    directory = f"{_subvolume(entry)}{below}".strip("/")
    if superblock.layouts(entry.fs_type):
        if spec:
            unseen_layers.check_plain(root, target.path, spec, entry.fs_type)
            return _facts("path", target.path, directory, spec, entry.fs_type)
        if volume := unseen_lvm.stack(root, target.path, entry.spec):
            return _on(volume, "path", target.path, directory, entry.fs_type)
    if layer := unseen_layers.encrypted(root, entry.spec):
        raise HostError(
            f"{target.path}: on {layer}: how to open it after a crash cannot be seen here",
            hint=_ELSEWHERE,
        )
    raise HostError(
        f"{target.path}: on {entry.spec} ({entry.fs_type}) in /etc/fstab; what that is cannot be seen here",
        hint=_ELSEWHERE
        if entry.spec.startswith(_MADE_OF_OTHERS)
        else f"write UUID=… and the type there, name the target by {_BY_UUID}, or give --facts",
    )


# Links of udev that say what UUID= and the like say.
_LINKS = {
    "/dev/disk/by-uuid/": "UUID=",
    "/dev/disk/by-label/": "LABEL=",
    "/dev/disk/by-partuuid/": "PARTUUID=",
}


def _spec(spec: str) -> str:
    """Return what fstab names a device by, as KEY=VALUE; "" if it is a name that tells nothing."""
    for link, key in _LINKS.items():
        if spec.startswith(link):
            return key + spec.removeprefix(link)
    return spec if spec.partition("=")[0] in _KEYS else ""


def _subvolume(entry: fstab.Entry) -> str:
    """Return the directory that is mounted of a btrfs, from the top of the whole (btrfs(5), subvol=)."""
    return next((option.partition("=")[2] for option in entry.options if option.startswith("subvol=")), "")


def _facts(kind: str, name: str, directory: str, spec: str, fs_type: str) -> TargetFacts:
    key, _, value = spec.partition("=")
    if key == "UUID":
        _check_uuid(name, value, fs_type)
    if key == "LABEL" and not any(superblock.stored_label(layout, value) for layout in superblock.layouts(fs_type)):
        raise HostError(
            f"{name}: the label {value} of {fs_type} cannot be looked for after a crash",
            hint="name the file system by its UUID",
        )
    filesystem = Filesystem(type=fs_type, uuid=value if key == "UUID" else "", label=value if key == "LABEL" else "")
    device = UnseenDevice(
        name=spec,
        number="",
        size_bytes=0,
        part_uuid=value.lower() if key == "PARTUUID" else "",
        content=Content(type=fs_type, uuid=filesystem.uuid),
    )
    return DirectoryTarget(
        kind=kind, name=name, directory=directory, filesystem=filesystem, stack=(device,), devices=(device.name,)
    )


def _on(volume: tuple[BlockDevice, ...], kind: str, name: str, directory: str, fs_type: str) -> TargetFacts:
    """Return the facts of a file system on a logical volume, which dm/uuid tells from all others."""
    return DirectoryTarget(
        kind=kind,
        name=name,
        directory=directory,
        filesystem=Filesystem(type=fs_type, uuid=""),
        stack=volume,
        devices=(volume[0].name,),
    )


def _check_uuid(name: str, uuid: str, fs_type: str) -> None:
    lengths = {2 * layout.uuid_bytes for layout in superblock.layouts(fs_type)}
    if lengths and len(uuid.replace("-", "")) not in lengths:
        raise HostError(f"{name}: {uuid} is no UUID of {fs_type}", hint="copy it from `blkid` on that machine")
