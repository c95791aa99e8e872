"""Whether dump targets are still those that an image was built for, whatever their devices are called now."""

from collections.abc import Collection, Iterator, Sequence

from msgspec.structs import replace

from kdump_initramfs.model import BlockDevice, CryptEntry, Filesystem, TargetFacts

# What an image that is for any machine does not depend on.
_DRIVERS = ("drivers", "modaliases")


def reasons(before: Sequence[TargetFacts], now: Sequence[TargetFacts], *, generic: bool = False) -> Iterator[str]:
    """Yield what is different about each target; another number of targets is another configuration."""
    for old, new in zip(before, now, strict=False):
        if (difference := _difference(old, new, _DRIVERS if generic else ())) and old.name == new.name:
            yield f"target {old.name}: {difference}"


def _difference(old: TargetFacts, new: TargetFacts, ignored: Collection[str]) -> str:
    if old.kind != new.kind:
        return ""  # what the configuration says
    if old.directory != new.directory:
        return f"was /{old.directory} of its file system, is /{new.directory}"
    if _is_unseen(old):
        return "" if _may_be(old, new) else f"was to be on {_describe(old)}, is on {_describe(new)}"
    if old.filesystem != new.filesystem:
        return f"was on {_describe(old)}, is on {_describe(new)}"
    return next(_differences_of_devices(_nameless(old), _nameless(new), ignored), "")


def _is_unseen(target: TargetFacts) -> bool:
    """Whether the image was built where the target was not there (host/unseen.py)."""
    return all(not device.number and device.kind != "share" for device in target.stack)


def _may_be(old: TargetFacts, new: TargetFacts) -> bool:
    """Whether a target is the one that was named by its UUID, its label or its partition."""
    named, found = old.filesystem or Filesystem(type="", uuid=""), new.filesystem or Filesystem(type="", uuid="")
    partition = old.device.part_uuid
    if named.uuid or named.label:
        same = named.uuid == found.uuid if named.uuid else named.label == found.label or not found.label
    else:
        same = bool(partition) and partition in {device.part_uuid for device in new.carriers}
    return same and named.type == found.type


def _describe(target: TargetFacts) -> str:
    filesystem = target.filesystem
    if filesystem is None:
        return target.device.part_uuid or target.device.disk_id or target.device.kind
    name = filesystem.uuid or filesystem.label or filesystem.tag or target.device.part_uuid
    return f"{filesystem.type} {name}"


def _nameless(target: TargetFacts) -> list[BlockDevice]:
    """Return the layers with what the kernel calls them left out, in an order that does not depend on it."""
    return sorted((replace(each, name="", number="", below=()) for each in target.stack), key=_key)


def _key(device: BlockDevice) -> tuple[str, ...]:
    return (
        device.kind,
        device.content_type,
        device.content_uuid,
        device.dm_uuid,
        device.part_uuid,
        device.disk_id,
    )


def _differences_of_devices(
    before: list[BlockDevice], now: list[BlockDevice], ignored: Collection[str]
) -> Iterator[str]:
    if [each.kind for each in before] != [each.kind for each in now]:
        yield f"stood on {_kinds(before)}, stands on {_kinds(now)}"
        return
    for old, new in zip(before, now, strict=True):
        for field in old.__struct_fields__:
            was, is_now = getattr(old, field), getattr(new, field)
            if was != is_now and field not in ignored:
                yield f"{field} of a {old.kind} below it was {was or 'nothing'}, is {is_now or 'nothing'}"


def _kinds(devices: list[BlockDevice]) -> str:
    return ", ".join(each.kind for each in devices) or "nothing"


def crypttab_reasons(
    targets: Sequence[TargetFacts], before: Sequence[CryptEntry], now: Sequence[CryptEntry]
) -> Iterator[str]:
    """Yield the names of the encrypted devices below the targets that /etc/crypttab says something else of."""
    old, new = ({entry.name: entry for entry in entries} for entries in (before, now))
    names = {device.dm_name for target in targets for device in target.stack if device.kind == "crypt"}
    for name in sorted(names):
        if old.get(name) != new.get(name):
            yield f"/etc/crypttab: says something else of {name} than when the image was built"
