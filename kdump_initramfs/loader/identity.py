"""Whether dump targets are still those that an image was built for, whatever their devices are called now."""

from collections.abc import Collection, Iterator, Sequence
from typing import assert_never

from msgspec.structs import replace

from kdump_initramfs.model import CryptEntry
from kdump_initramfs.storage import (
    BlockDevice,
    CryptDevice,
    DeviceTarget,
    DirectoryTarget,
    Disk,
    Partition,
    ShareTarget,
    TargetFacts,
    UnseenDevice,
    stack_of,
)

# What an image that is for any machine does not depend on.
_DRIVERS = ("drivers", "modaliases")
# What follows from other fields, and may be unknown to who is not root.
_DERIVED = ("target_types", "requests")


def reasons(before: Sequence[TargetFacts], now: Sequence[TargetFacts], *, generic: bool = False) -> Iterator[str]:
    """Yield what is different about each target; another number of targets is another configuration."""
    for old, new in zip(before, now, strict=False):
        if (difference := _difference(old, new, _DRIVERS if generic else ())) and old.name == new.name:
            yield f"target {old.name}: {difference}"


def _difference(old: TargetFacts, new: TargetFacts, ignored: Collection[str]) -> str:
    if old.kind != new.kind:
        return ""  # what the configuration says
    match old, new:
        case ShareTarget(), ShareTarget():
            return "" if replace(old, budget_s=new.budget_s) == new else _moved(old, new)
        case DirectoryTarget(), DirectoryTarget():
            return _difference_of_directories(old, new, ignored)
        case DeviceTarget(), DeviceTarget():
            return next(_differences_of_devices(_nameless(old), _nameless(new), ignored), "")
        case _:
            return _moved(old, new)


def _moved(old: TargetFacts, new: TargetFacts) -> str:
    return f"was on {_describe(old)}, is on {_describe(new)}"


def _difference_of_directories(old: DirectoryTarget, new: DirectoryTarget, ignored: Collection[str]) -> str:
    if old.directory != new.directory:
        return f"was /{old.directory} of its file system, is /{new.directory}"
    if _is_unseen(old):
        return "" if _may_be(old, new) else f"was to be on {_describe(old)}, is on {_describe(new)}"
    if _identity(old) != _identity(new):
        return _moved(old, new)
    return next(_differences_of_devices(_nameless(old), _nameless(new), ignored), "")


def _identity(target: DirectoryTarget) -> tuple[object, ...]:
    """Return what tells a file system from others, but for names of devices."""
    filesystem = target.filesystem
    return (
        filesystem.type,
        filesystem.uuid,
        filesystem.label,
        [(each.option, each.uuid) for each in filesystem.further],
    )


def _is_unseen(target: DirectoryTarget) -> bool:
    """Whether the image was built where the target was not there (host/unseen.py)."""
    return any(isinstance(device, UnseenDevice) for device in target.stack)


def _may_be(old: DirectoryTarget, new: DirectoryTarget) -> bool:
    """Whether a target is the one that was named by its UUID, its label or its partition."""
    named, found, partition = old.filesystem, new.filesystem, _part_uuid(old.device)
    if named.uuid or named.label:
        same = named.uuid == found.uuid if named.uuid else named.label == found.label or not found.label
    else:
        same = bool(partition) and partition in {_part_uuid(device) for device in new.carriers}
    return same and named.type == found.type


def _part_uuid(device: BlockDevice) -> str:
    return device.part_uuid if isinstance(device, Partition | UnseenDevice) else ""


def _describe(target: TargetFacts) -> str:
    match target:
        case ShareTarget():
            return f"{target.fs_type} {target.tag}"
        case DirectoryTarget(filesystem=filesystem):
            return f"{filesystem.type} {filesystem.uuid or filesystem.label or _part_uuid(target.device)}"
        case DeviceTarget(device=Disk(disk_id=disk_id)) if disk_id:
            return disk_id
        case DeviceTarget():
            return _part_uuid(target.device) or target.device.kind
        case _:
            assert_never(target)


def _nameless(target: DirectoryTarget | DeviceTarget) -> list[BlockDevice]:
    """Return the layers with what the kernel calls them left out, in an order that does not depend on it."""
    return sorted((replace(each, name="", number="", below=()) for each in target.stack), key=_key)


def _key(device: BlockDevice) -> tuple[str, ...]:
    own = (getattr(device, field, "") for field in ("dm_uuid", "part_uuid", "disk_id"))
    return (device.kind, device.content.type, device.content.uuid, *own)


def _differences_of_devices(
    before: list[BlockDevice], now: list[BlockDevice], ignored: Collection[str]
) -> Iterator[str]:
    if [each.kind for each in before] != [each.kind for each in now]:
        yield f"stood on {_kinds(before)}, stands on {_kinds(now)}"
        return
    for old, new in zip(before, now, strict=True):
        for field in old.__struct_fields__:
            was, is_now = getattr(old, field), getattr(new, field)
            if was != is_now and field not in (*ignored, *_DERIVED):
                yield f"{field} of a {old.kind} below it was {was or 'nothing'}, is {is_now or 'nothing'}"


def _kinds(devices: list[BlockDevice]) -> str:
    return ", ".join(each.kind for each in devices) or "nothing"


def crypttab_reasons(
    targets: Sequence[TargetFacts], before: Sequence[CryptEntry], now: Sequence[CryptEntry]
) -> Iterator[str]:
    """Yield the names of the encrypted devices below the targets that /etc/crypttab says something else of."""
    old, new = ({entry.name: entry for entry in entries} for entries in (before, now))
    names = {device.dm_name for target in targets for device in stack_of(target) if isinstance(device, CryptDevice)}
    for name in sorted(names):
        if old.get(name) != new.get(name):
            yield f"/etc/crypttab: says something else of {name} than when the image was built"
