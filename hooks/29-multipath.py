"""Make the multipath devices that targets stand on, and their partitions: of all disks with the id of their paths.

multipathd and udev stay behind; device-mapper alone goes on to another path when one fails. The number is lower than
that of the disks: the kernel attaches the handler of a storage array to a disk when it finds it, and loads none that is
not there by then (scsi_dh_add_device(), drivers/scsi/scsi_dh.c).
"""

import re

from kdump_initramfs import devices
from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.model import Contribution, HostFacts, StorageLayer
from kdump_initramfs.storage import Disk, MultipathDevice, OnBlockDevices, layers

# dm-mpath comes with one path selector in every kernel (drivers/md/Makefile).
_MODULES = ("dm_mod", "dm_multipath", "dm_round_robin")
# drivers/scsi/device_handler; as aliases, since a kernel may lack some.
_HANDLERS = ("scsi_dh_alua", "scsi_dh_rdac", "scsi_dh_emc", "scsi_dh_hp_sw")
# dm/uuid of what kpartx(8) makes on such a device: its number, and dm/uuid of the device.
_find_partition = re.compile(r"part(?P<number>[0-9]+)-(?P<whole>mpath-.*)").fullmatch


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    mapped = layers(host.targets, MultipathDevice)
    if not mapped:
        return None
    if not host.tools.dmsetup:
        raise HostError(
            "dmsetup: no such program, but the dump target is on a multipath device",
            hint="install it: Debian dmsetup, Fedora device-mapper, Gentoo lvm2",
        )
    raise_together([problem for found in mapped.found if (problem := _problem(*found)) is not None])
    every = dict.fromkeys(device.dm_uuid for device in mapped.devices)
    # The names are ours, the same for all targets.
    names = {dm_uuid: f"kdump-mpath{number}" for number, dm_uuid in enumerate(every)}
    return StorageLayer(
        binaries=(host.tools.dmsetup,),
        modules=_MODULES,
        modaliases=_HANDLERS,
        target_settings={
            target: _settings(host.tools.dmsetup, target, found, names) for target, found in mapped.by_target.items()
        },
        provides=mapped.names,
    )


def _settings(
    dmsetup: str, target: OnBlockDevices, found: tuple[MultipathDevice, ...], names: dict[str, str]
) -> dict[str, str]:
    partitions = [(device, match) for device in found if (match := _find_partition(device.dm_uuid))]
    wholes = [device for device in found if not _find_partition(device.dm_uuid)]
    return {
        "KDUMP_DMSETUP": dmsetup,
        # For each: name, dm UUID, id of the disks that are its paths, how many there were.
        "KDUMP_MULTIPATH": " ".join(
            f"{names[device.dm_uuid]} {device.dm_uuid} {devices.id_word(paths[0].disk_id)} {len(paths)}"
            for device in wholes
            for paths in [_paths(target, device)]
            if paths
        ),
        # For each: name, dm UUID, dm UUID of the whole, number.
        "KDUMP_MULTIPATH_PARTITIONS": " ".join(
            f"{names[device.dm_uuid]} {device.dm_uuid} {match['whole']} {match['number']}"
            for device, match in partitions
        ),
    }


def _paths(target: OnBlockDevices, device: MultipathDevice) -> list[Disk]:
    return [path for path in target.under(device) if isinstance(path, Disk)]


def _problem(target: OnBlockDevices, device: MultipathDevice) -> KdumpError | None:
    paths = _paths(target, device)
    if _find_partition(device.dm_uuid) or len(paths) < len(target.under(device)):
        # What is wrong with it is wrong with the whole; and what is no disk is named as what no hook provides.
        return None
    where = f"{target.name}: {device.name} ({device.dm_name})"
    if not re.fullmatch(r"[A-Za-z0-9.,+=:@/_-]+", device.dm_uuid):
        return HostError(
            f"{where}: its dm UUID, {device.dm_uuid!r}, has characters that cannot be handed on",
            hint="set uid_attribute in /etc/multipath.conf to a property without white space, or name another target",
        )
    if not paths:
        return HostError(f"{where}: no path leads to it", hint="mend its paths (multipath -ll), or name another target")
    mute = [path.name for path in paths if not devices.id_word(path.disk_id)]
    if mute:
        return HostError(
            f"{where}: {', '.join(mute)} says no WWN or serial number in sysfs, by which its paths could be known",
            hint="give the disk one where it is made (in the array or the hypervisor), or name another target",
        )
    ids = sorted({devices.id_word(path.disk_id) for path in paths})
    if len(ids) > 1:
        return HostError(
            f"{where}: its paths disagree on which disk they lead to: {', '.join(ids)}",
            hint="compare them in `multipath -ll` and /etc/multipath.conf, or name another target",
        )
    return None
