"""What a logical volume needs of device-mapper, and all that it stands on: from LVM's metadata, where nothing runs.

Sources, of LVM2: lib/format_text/import_vsn1.c and the segment types (text_import and add_target_line of lib/striped,
lib/mirror, lib/raid, lib/thin, lib/cache_segtype, lib/writecache, lib/snapshot, lib/integrity, lib/vdo, lib/error,
lib/zero), lib/activate/dev_manager.c for the layers that it puts on a volume with a snapshot.
"""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from kdump_initramfs.formats import dm_targets, kernel_crypto, lvm_text
from kdump_initramfs.formats.lvm_text import Section

# Types of segments that become one target, by that target; pools of LVM's own become what is made of them.
_TARGETS: Mapping[str, tuple[str, ...]] = {
    "linear": ("linear",),
    "striped": ("striped",),
    "mirror": ("mirror",),
    "thin": ("thin",),
    "thin-pool": ("thin-pool",),
    "cache": ("cache",),
    "cache-pool": (),
    "writecache": ("writecache",),
    "snapshot": ("snapshot", "snapshot-origin"),
    "integrity": ("integrity",),
    "vdo": ("linear",),
    "vdo-pool": ("vdo",),
    "error": ("error",),
    "zero": ("zero",),
}
# Keys of a segment that name a logical volume; and those that list areas, with the number of an extent after each.
_NAMES = (
    *("pool", "metadata", "data", "origin", "external_origin", "thin_pool", "cache_pool", "cache_vol", "writecache"),
    *("mirror_log", "meta_dev", "vdo_pool", "cow_store", "merging_store"),
)
_LISTS = ("stripes", "mirrors", "raids", "raid0_lvs")


class Needs(Struct, frozen=True, kw_only=True):
    # Types of targets, sorted: "linear", "snapshot-origin", "thin-pool".
    targets: tuple[str, ...]
    # What the kernel asks modprobe for to load them, sorted.
    requests: tuple[str, ...]
    # The volume itself and all that are activated with it.
    volumes: tuple[str, ...]
    # Of these, the segment types that are not known here, sorted.
    unknown: tuple[str, ...] = ()
    # Physical volumes, by the names that the metadata gives them: "pv0".
    physical: tuple[str, ...] = ()


def needs(group: Section, volume: str) -> Needs | None:
    """Return what a logical volume of a group needs; None where the group has none of that name."""
    logical = lvm_text.section(group, "logical_volumes")
    if not lvm_text.section(logical, volume):
        return None
    snapshots = [*_snapshots(logical)]
    physical = lvm_text.section(group, "physical_volumes")
    below = _closure(logical, volume, snapshots, physical)
    found = [(segment, _kind(segment)) for name in below for segment in _segments(lvm_text.section(logical, name))]
    # A snapshot is a volume of its own, which nothing else names.
    found += [(each, "snapshot") for each in snapshots if not below.keys().isdisjoint(_volumes(each))]
    targets = {target for segment, kind in found for target in _targets_of(segment, kind) or ()}
    asked = {request for target in targets for request in dm_targets.requests(target)}
    asked |= {request for segment, kind in found for request in _requests_of(segment, kind)}
    return Needs(
        targets=tuple(sorted(targets)),
        requests=tuple(sorted(asked)),
        volumes=tuple(below),
        unknown=tuple(sorted({kind for segment, kind in found if _targets_of(segment, kind) is None})),
        physical=tuple(dict.fromkeys(area for segment, _ in found for area in _areas(segment) if area in physical)),
    )


def _closure(logical: Section, volume: str, snapshots: list[Section], physical: Section) -> dict[str, None]:
    """Return a volume and what is activated with it, each once, in the order in which they are met."""
    waiting, seen = [volume], dict[str, None]()
    while waiting:
        current = waiting.pop(0)
        if current in seen or not lvm_text.section(logical, current):
            continue
        seen[current] = None
        for segment in _segments(lvm_text.section(logical, current)):
            waiting += _volumes(segment)
            waiting += (area for area in _areas(segment) if area not in physical)
        # The origin takes its snapshots along, for what it overwrites must go there; and they stand on it.
        waiting += (name for each in snapshots if current in _volumes(each) for name in _volumes(each))
    return seen


def _segments(volume: Section) -> Iterator[Section]:
    return (each for each in volume.values() if isinstance(each, dict) and lvm_text.text(each, "type"))


def _snapshots(logical: Section) -> Iterator[Section]:
    volumes = (lvm_text.section(logical, name) for name in logical)
    return (segment for volume in volumes for segment in _segments(volume) if _kind(segment) == "snapshot")


def _kind(segment: Section) -> str:
    """Return the type of a segment without the flags that newer versions add to it: cache+METADATA_FORMAT."""
    return lvm_text.text(segment, "type").partition("+")[0]


def _volumes(segment: Section) -> Iterator[str]:
    # The origin of a thin volume is only what it was cloned from.
    skipped = "origin" if _kind(segment) == "thin" else ""
    return (name for key in _NAMES if key != skipped and (name := lvm_text.text(segment, key)))


def _areas(segment: Section) -> Iterator[str]:
    """Yield physical volumes, or logical ones where the group has no physical one of that name."""
    return (name for key in _LISTS for name in lvm_text.strings(segment, key))


def _targets_of(segment: Section, kind: str) -> tuple[str, ...] | None:
    if kind == "striped" and lvm_text.number(segment, "stripe_count") <= 1:
        return ("linear",)
    if kind == "snapshot" and lvm_text.text(segment, "merging_store"):
        return ("snapshot-merge", *_TARGETS[kind])
    return ("raid",) if dm_targets.raid_level(kind) else _TARGETS.get(kind)


def _requests_of(segment: Section, kind: str) -> Iterator[str]:
    """Yield what is asked for besides the targets: levels, policies, logs, algorithms."""
    yield from dm_targets.raid_level(kind)
    if kind in {"cache", "cache-pool"}:
        yield f"dm-cache-{lvm_text.text(segment, 'policy') or 'default'}"
    elif kind == "mirror":
        yield "dm-log"
    elif kind == "integrity":
        yield from kernel_crypto.requests(lvm_text.text(segment, "internal_hash"))
