"""Activate the logical volumes that targets stand on: by UUID, without udev, with a configuration of our own."""

import re
from collections.abc import Iterable, Iterator

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.model import Contribution, HostFacts, StorageLayer, Text
from kdump_initramfs.storage import BlockDevice, Layers, LogicalVolume, OnBlockDevices, layers

# The host's lvm.conf, its filters and its devices file describe a running system: after a crash names differ and the
# devices file may be empty. lvm.conf(5); reserved_memory would otherwise be locked in memory that we do not have.
_LVM_CONF = """\
devices {
    dir = "/dev"
    scan = [ "/dev" ]
    use_devicesfile = 0
    obtain_device_list_from_udev = 0
    external_device_info_source = "none"
    filter = [ "a|.*|" ]
    global_filter = [ "a|.*|" ]
    md_component_detection = 1
    multipath_component_detection = 1
    hints = "none"
}
global {
    locking_type = 1
    thin_check_executable = ""
    cache_check_executable = ""
    thin_repair_executable = ""
    cache_repair_executable = ""
    use_lvmpolld = 0
    use_lvmlockd = 0
    event_activation = 0
}
activation {
    udev_sync = 0
    udev_rules = 0
    monitoring = 0
    reserved_memory = 1024
    reserved_stack = 64
    activation_mode = "complete"
    thin_pool_autoextend_threshold = 80
    thin_pool_autoextend_percent = 20
}
backup {
    backup = 0
    archive = 0
}
"""

# Lengths of the parts of an LVM UUID as its tools print it (lib/uuid/uuid.c); dm/uuid has it without dashes.
_UUID_PARTS = (6, 4, 4, 4, 4, 4, 6)
_UUID_CHARACTERS = sum(_UUID_PARTS)

# Target types of device-mapper that LVM's volumes are made of, but for those that are refused: vdo takes several
# hundred MiB for its index (lvmvdo(7)), the others are made by nobody.
_TARGET_TYPES = frozenset(
    (
        *("linear", "striped", "error", "zero", "mirror", "raid", "integrity", "snapshot", "snapshot-origin"),
        *("snapshot-merge", "thin", "thin-pool", "cache", "writecache"),
    )
)
# Where tables could not be read: modules beside dm_mod, by what the names of a volume's inner devices tell of its type
# (lib/activate/dev_manager.c and lib/metadata/lv_manip.c of LVM2: layers and sub-volumes).
_MODULES = {
    "_rimage_": ("dm_raid", "raid0", "raid1", "raid10", "raid456"),
    "_mimage_": ("dm_mirror",),
    "-tpool": ("dm_thin_pool",),
    "_tdata": ("dm_thin_pool",),
    "_cdata": ("dm_cache", "dm_cache_smq"),
    "_cvol": ("dm_cache", "dm_cache_smq", "dm_writecache"),
    "_wcorig": ("dm_writecache",),
    "-cow": ("dm_snapshot",),
    "-real": ("dm_snapshot",),
    "_imeta": ("dm_integrity",),
    "_iorig": ("dm_integrity",),
}

# What LVM puts in the place of a physical volume that is missing, by its dm/uuid (_add_error_or_zero_device() there).
_MISSING = re.compile(r"-missing_[0-9]+_[0-9]+\Z")
# The images of a RAID volume, one on each of its physical volumes, and their metadata.
_IMAGE = re.compile(r"_rimage_[0-9]+\Z")
_IMAGE_OR_METADATA = re.compile(r"_r(image|meta)_[0-9]+\Z")


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    inside = layers(host.targets, LogicalVolume)
    if not inside:
        return None
    if not host.tools.lvm:
        raise HostError("lvm: no such program, but the dump target is a logical volume", hint="install lvm2")
    raise_together([problem for found in inside.found for problem in (*_problems(*found), *_nested(*found))])
    warnings = _missing(inside)
    return StorageLayer(
        binaries=(host.tools.lvm,),
        modules=("dm_mod", *_modules(inside.devices)),
        modaliases=_requests(inside.devices),
        entries=(Text(path="/etc/lvm/lvm.conf", content=_LVM_CONF + _system_ids(inside.devices)),),
        target_settings={
            target: _settings(host.tools.lvm, target, found) for target, found in inside.by_target.items()
        },
        provides=inside.names,
        warnings=warnings,
    )


def _system_ids(devices: tuple[LogicalVolume, ...]) -> str:
    """Return what makes LVM take the groups for those of its own host (lvmsystemid(7))."""
    first, *others = dict.fromkeys(device.system_id for device in devices if device.system_id) or [""]
    if not first:
        return ""
    extra = ", ".join(f'"{each}"' for each in others)
    return (
        f'global {{\n    system_id_source = "lvmlocal"\n}}\n'
        f'local {{\n    system_id = "{first}"\n    extra_system_ids = [ {extra} ]\n}}\n'
    )


def _settings(lvm: str, target: OnBlockDevices, inside: tuple[LogicalVolume, ...]) -> dict[str, str]:
    volumes = _volumes(inside)
    pools = dict.fromkeys(_pool(device) for device in inside if device.dm_uuid.endswith("-tpool"))
    return {
        "KDUMP_LVM": lvm,
        "KDUMP_LVM_SELECT": " || ".join(_selection(volume) for volume in volumes),
        "KDUMP_LVM_DM_UUIDS": " ".join(volume.dm_uuid for volume in volumes),
        # Thin pools, as group/pool.
        "KDUMP_LVM_POOLS": " ".join(pools),
        # "yes" if there is anything that can be activated without some of its physical volumes.
        "KDUMP_LVM_DEGRADED": "yes" if _can_lose_one(target, inside) else "",
    }


def _problems(target: OnBlockDevices, device: LogicalVolume) -> Iterator[KdumpError]:
    """Yield why a volume, or what is inside of one, cannot be activated after a crash, or not be relied on."""
    where = f"{target.name}: {device.name} ({device.dm_name})"
    for below in target.under(device):
        if not isinstance(below, LogicalVolume) and _is_no_physical_volume(below):
            yield HostError(
                f"{where} calls itself a logical volume, but {below.name} below it is no physical volume",
                hint="name a target on a volume that LVM has made",
            )
    if device.lock_type:
        yield HostError(
            f"{where} is of a group that hosts share by {device.lock_type}, which does not run after a crash",
            hint="name a target on a volume group of this machine alone",
        )
    if _is_snapshot(target, device):
        yield HostError(
            f"{where} is a snapshot, or is being merged with one: it may run full, and is gone then",
            hint="name a target on another volume, or wait for the end of the merge",
        )
    odd = sorted(set(device.target_types) - _TARGET_TYPES)
    if odd or "_vdata" in device.dm_name:
        group, name = _group_and_volume(device.dm_name)
        yield HostError(
            f"{target.name}: logical volume {name} of group {group} is of type {', '.join(odd) or 'vdo'}, which the "
            "capture environment does not activate",
            hint="name a target on a linear, striped, RAID, thin or cached volume",
        )


def _is_snapshot(target: OnBlockDevices, device: LogicalVolume) -> bool:
    """Whether a volume keeps what changes in the space of a snapshot; its origin (-real) does not."""
    has_space = any(each.dm_uuid.endswith("-cow") for each in _volumes_of(target.under(device)))
    return has_space and not device.dm_uuid.endswith("-real")


def _is_no_physical_volume(device: BlockDevice) -> bool:
    return bool(device.content.type or device.content.was_read) and device.content.type != "LVM2_member"


def _nested(target: OnBlockDevices, device: LogicalVolume) -> Iterator[KdumpError]:
    """Refuse a group whose physical volume is a logical volume: LVM looks for none there, unless it is told to."""
    group, _ = _group_and_volume(device.dm_name)
    for below in _volumes_of(target.under(device)):
        if _group_uuid(below) != _group_uuid(device):
            yield HostError(
                f"{target.name}: volume group {group} has {below.dm_name}, a logical volume, for a physical one, where "
                "LVM does not look after a crash",
                hint="name a target on a volume group of disks or partitions",
            )


def _group_uuid(volume: LogicalVolume) -> str:
    return volume.dm_uuid.removeprefix("LVM-")[:_UUID_CHARACTERS]


def _volumes(inside: tuple[LogicalVolume, ...]) -> tuple[LogicalVolume, ...]:
    """Return the logical volumes that something else stands on: activating them brings their insides."""
    inner = {name for device in inside for name in device.below}
    return tuple(device for device in reversed(inside) if device.name not in inner)


def _requests(devices: tuple[LogicalVolume, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for device in devices for name in device.requests))


def _modules(devices: tuple[LogicalVolume, ...]) -> tuple[str, ...]:
    wanted = (
        module
        for device in devices
        if not device.target_types
        for part, modules in _MODULES.items()
        if part in device.dm_name
        for module in modules
    )
    return tuple(dict.fromkeys(wanted))


def _pool(device: LogicalVolume) -> str:
    """Return group/pool of a pool's device."""
    group, pool = _group_and_volume(device.dm_name.removesuffix("-tpool"))
    return f"{group}/{pool}"


def _group_and_volume(dm_name: str) -> tuple[str, str]:
    """Return both names; dm/name joins them by one dash, and doubles those inside of them."""
    group, _, volume = dm_name.replace("--", "\0").partition("-")
    return group.replace("\0", "-"), volume.replace("\0", "-")


def _selection(volume: LogicalVolume) -> str:
    """Return what lvm's --select needs for this volume alone (lvmreport(7))."""
    both = volume.dm_uuid.removeprefix("LVM-")
    group, logical = both[:_UUID_CHARACTERS], both[_UUID_CHARACTERS : 2 * _UUID_CHARACTERS]
    return f"(vg_uuid={_dashed(group)} && lv_uuid={_dashed(logical)})"


def _dashed(uuid: str) -> str:
    parts, start = [], 0
    for length in _UUID_PARTS:
        parts.append(uuid[start : start + length])
        start += length
    return "-".join(parts)


# --- physical volumes that are not there -------------------------------------------------------------------------


def _missing(inside: Layers[LogicalVolume]) -> tuple[str, ...]:
    """Return a warning for each volume that works without one of its physical volumes; raise for those that do not."""
    warnings: dict[str, None] = {}
    errors: dict[str, KdumpError] = {}
    for target, devices in inside.by_target.items():
        for volume in _damaged(target, devices):
            group, name = _group_and_volume(volume.dm_name)
            what = f"{target.name}: logical volume {name} of group {group}"
            if _holds(_whole_images(target, volume), volume):
                warnings[f"{what} is degraded: a physical volume is missing"] = None
            else:
                errors[what] = HostError(
                    f"{what} lacks a physical volume, so that part of it cannot be written",
                    hint=f"bring it back and run vgextend --restoremissing {group} DEVICE, or name another target",
                )
    raise_together(list(errors.values()))
    return tuple(warnings)


def _damaged(target: OnBlockDevices, devices: tuple[LogicalVolume, ...]) -> tuple[LogicalVolume, ...]:
    """Return the volumes that a physical volume is missing of: of an image, the volume that it is an image of."""
    found: dict[str, LogicalVolume] = {}
    for stand_in in devices:
        if _MISSING.search(stand_in.dm_uuid):
            for volume in _above(target, stand_in):
                is_part = _IMAGE_OR_METADATA.search(volume.dm_name)
                found |= {each.name: each for each in (_above(target, volume) if is_part else (volume,))}
    return tuple(found.values())


def _above(target: OnBlockDevices, device: BlockDevice) -> tuple[LogicalVolume, ...]:
    return tuple(_volumes_of(other for other in target.stack if device.name in other.below))


def _volumes_of(devices: Iterable[BlockDevice]) -> Iterator[LogicalVolume]:
    return (device for device in devices if isinstance(device, LogicalVolume))


def _images(target: OnBlockDevices, volume: LogicalVolume) -> list[LogicalVolume]:
    return [device for device in _volumes_of(target.under(volume)) if _IMAGE.search(device.dm_name)]


def _whole_images(target: OnBlockDevices, volume: LogicalVolume) -> list[LogicalVolume]:
    return [
        image
        for image in _images(target, volume)
        if not any(_MISSING.search(device.dm_uuid) for device in _volumes_of(target.under(image)))
    ]


def _holds(images: list[LogicalVolume], volume: LogicalVolume) -> bool:
    """Whether these images are enough. LVM calls a raid0 without one of them degraded too, and activates it."""
    return bool(images) and sum(image.size_bytes for image in images) >= volume.size_bytes


def _can_lose_one(target: OnBlockDevices, inside: tuple[LogicalVolume, ...]) -> bool:
    """Whether there are RAID volumes, and each of them is complete without one of its images."""
    raids = [(volume, images) for volume in inside if (images := _images(target, volume))]
    return bool(raids) and all(_holds(images[1:], volume) for volume, images in raids)
