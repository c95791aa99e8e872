"""Logical volumes whose devices are not there: what /etc/lvm/backup says of them (vgcfgbackup(8)).

LVM writes it whenever it changes a volume group, so it is there wherever an installer has made one.
"""

import re
from collections.abc import Iterator
from typing import TypedDict

from msgspec.structs import replace

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import lvm_segments, lvm_text
from kdump_initramfs.formats.lvm_text import Section
from kdump_initramfs.host import lvm_backup
from kdump_initramfs.host.root import Root
from kdump_initramfs.storage import BlockDevice, LogicalVolume, UnseenDevice

_MAPPER = "/dev/mapper/"
# Of device-mapper's names: one dash is between group and volume, two are one of a name.
_BETWEEN = re.compile(r"(?<!-)-(?!-)")
_SECTOR_BYTES = 512
# Keys of a segment that name volumes within (lib/format_text/import_vsn1.c and the segment types of LVM2).
_INNER = ("pool", "metadata", "origin", "cache_pool", "cache_vol", "data", "writecache")
_INNER_LISTS = ("raids", "mirrors", "stripes")
# Hints of devices on which more would have to be known than is written there.
_NOT_SEEN = re.compile(r"/dev/(mapper/|dm-|md)")


def stack(root: Root, name: str, spec: str) -> tuple[BlockDevice, ...]:
    """Return the logical volume that fstab names as /dev/mapper/GROUP-VOLUME or /dev/GROUP/VOLUME, and its insides.

    Nothing where that is no volume of a group in /etc/lvm/backup; HostError, which begins with `name`, where the group
    stands on what cannot be seen.
    """
    for group, volume in _candidates(spec):
        described = read(root, group)
        if volume in lvm_text.section(described, "logical_volumes"):
            _check_carriers(name, group, described)
            return tuple(_devices(group, described, volume))
    return ()


def _candidates(spec: str) -> Iterator[tuple[str, str]]:
    """Yield the groups and volumes that a path may mean."""
    if spec.startswith(_MAPPER):
        parts = [part.replace("--", "-") for part in _BETWEEN.split(spec.removeprefix(_MAPPER))]
        if len(parts) == 2:
            yield parts[0], parts[1]
    else:
        group, _, volume = spec.removeprefix("/dev/").partition("/")
        if spec.startswith("/dev/") and volume and "/" not in volume:
            yield group, volume


def read(root: Root, group: str) -> Section:
    """Return what is written of a group; nothing where there is no such group."""
    try:
        return lvm_text.section(lvm_text.parse(lvm_backup.text(root, group)), group)
    except lvm_text.LvmTextError as error:
        raise HostError(f"{lvm_backup.path(group)}: {error}", hint=f"write it anew: vgcfgbackup {group}") from None


def _check_carriers(name: str, group: str, described: Section) -> None:
    physical = lvm_text.section(described, "physical_volumes")
    for each in physical:
        device = lvm_text.text(lvm_text.section(physical, each), "device")
        if _NOT_SEEN.match(device):
            raise HostError(
                f"{name}: volume group {group} is on {device}; what that is cannot be seen here",
                hint="build on the machine itself, or give its --facts (from `probe --json` on it)",
            )


def _devices(group: str, described: Section, volume: str) -> Iterator[BlockDevice]:
    """Yield a volume and all within it, each before what it stands on; the physical volumes are one device, unseen."""
    logical = lvm_text.section(described, "logical_volumes")
    needs = lvm_segments.needs(described, volume)
    carrier = f"physical volumes of {group}"
    waiting, seen = [volume], set[str]()
    while waiting:
        current = waiting.pop(0)
        if current in seen or current not in logical:
            continue
        seen.add(current)
        inner = [each for each in _inner(lvm_text.section(logical, current)) if each in logical]
        waiting += inner
        below = tuple(_dm_name(group, logical, each) for each in inner) or (carrier,)
        yield replace(_device(group, described, current, below), **_table(needs))
    yield UnseenDevice(name=carrier, number="", size_bytes=0)


class _Table(TypedDict):
    target_types: tuple[str, ...]
    requests: tuple[str, ...]


def _table(needs: lvm_segments.Needs | None) -> _Table:
    """Return the fields that a table of device-mapper would fill: those of all within a volume."""
    if needs is None:
        return _Table(target_types=(), requests=())
    return _Table(target_types=(*needs.targets, *needs.unknown), requests=needs.requests)


def _device(group: str, described: Section, volume: str, below: tuple[str, ...]) -> LogicalVolume:
    logical = lvm_text.section(described, "logical_volumes")
    about = lvm_text.section(logical, volume)
    name = _dm_name(group, logical, volume)
    ids = "".join(lvm_text.text(each, "id").replace("-", "") for each in (described, about))
    extents = sum(lvm_text.number(segment, "extent_count") for segment in _segments(about))
    return LogicalVolume(
        name=name,
        number="",
        size_bytes=extents * lvm_text.number(described, "extent_size") * _SECTOR_BYTES,
        dm_name=name,
        dm_uuid=f"LVM-{ids}{_layer(about)}",
        below=below,
        system_id=lvm_text.text(described, "system_id"),
        lock_type=lvm_text.text(described, "lock_type").removesuffix("none"),
    )


def _segments(volume: Section) -> Iterator[Section]:
    return (each for each in volume.values() if isinstance(each, dict))


def _inner(volume: Section) -> Iterator[str]:
    for segment in _segments(volume):
        # A thin volume names its pool, a pool what it keeps its data in: by the same word where it is not the type.
        keys = ("thin_pool",) if lvm_text.text(segment, "type") == "thin" else _INNER
        yield from (lvm_text.text(segment, key) for key in keys if lvm_text.text(segment, key))
        for key in _INNER_LISTS:
            yield from lvm_text.strings(segment, key)


def _layer(volume: Section) -> str:
    """Return what LVM adds to name and UUID of the device of a thin pool that volumes stand on."""
    return "-tpool" if any(lvm_text.text(segment, "type") == "thin-pool" for segment in _segments(volume)) else ""


def _dm_name(group: str, logical: Section, volume: str) -> str:
    joined = "-".join(part.replace("-", "--") for part in (group, volume))
    return joined + _layer(lvm_text.section(logical, volume))
