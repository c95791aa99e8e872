"""Activate the logical volumes that targets stand on: by UUID, without udev, with a configuration of our own."""

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError
from kdump_initramfs.model import BlockDevice, Contribution, HostFacts, OnFailure, Phase, TargetFacts, Text

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
    hints = "none"
}
global {
    locking_type = 1
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
}
backup {
    backup = 0
    archive = 0
}
"""

# Lengths of the parts of an LVM UUID as its tools print it (lib/uuid/uuid.c); dm/uuid has it without dashes.
_UUID_PARTS = (6, 4, 4, 4, 4, 4, 6)
_UUID_CHARACTERS = sum(_UUID_PARTS)


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    volumes = {position: _volumes(target) for position, target in enumerate(host.targets)}
    if not any(volumes.values()):
        return None
    if not host.tools.lvm:
        raise HostError("lvm: no such program, but the dump target is a logical volume", hint="install lvm2")
    return Contribution(
        binaries=(host.tools.lvm,),
        modules=("dm_mod",),
        entries=(Text(path="/etc/lvm/lvm.conf", content=_LVM_CONF),),
        target_settings={
            position: {
                "KDUMP_LVM": host.tools.lvm,
                "KDUMP_LVM_SELECT": " || ".join(_selection(volume) for volume in found),
                "KDUMP_LVM_DM_UUIDS": " ".join(volume.dm_uuid for volume in found),
            }
            for position, found in volumes.items()
            if found
        },
        provides=tuple(volume.name for found in volumes.values() for volume in found),
        phase=Phase.STORAGE,
        on_failure=OnFailure.STOP,
    )


def _volumes(target: TargetFacts) -> tuple[BlockDevice, ...]:
    """Return the logical volumes of a target that lie directly on physical volumes; their UUID has no suffix."""
    whole = len("LVM-") + 2 * _UUID_CHARACTERS
    return tuple(device for device in target.stack if device.kind == "lvm" and len(device.dm_uuid) == whole)


def _selection(volume: BlockDevice) -> str:
    """Return what lvm's --select needs for this volume alone (lvmreport(7))."""
    both = volume.dm_uuid.removeprefix("LVM-")
    group, logical = both[:_UUID_CHARACTERS], both[_UUID_CHARACTERS:]
    return f"(vg_uuid={_dashed(group)} && lv_uuid={_dashed(logical)})"


def _dashed(uuid: str) -> str:
    parts, start = [], 0
    for length in _UUID_PARTS:
        parts.append(uuid[start : start + length])
        start += length
    return "-".join(parts)
