"""Assemble the arrays of Linux software RAID that targets stand on: by UUID, degraded if need be."""

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError
from kdump_initramfs.model import Contribution, HostFacts, StorageLayer
from kdump_initramfs.storage import Array, OnBlockDevices, layers

# Module of the personality for md/level (Documentation/admin-guide/md.rst).
_MODULES = {"raid4": "raid456", "raid5": "raid456", "raid6": "raid456"}
_FIRST = 64


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    arrays = layers(host.targets, Array)
    if not arrays:
        return None
    if not host.tools.mdadm:
        raise HostError("mdadm: no such program, but the dump target is on software RAID", hint="install mdadm")
    # The name that each gets, the same for all targets.
    names = {name: f"md{_FIRST + number}" for number, name in enumerate(arrays.names)}
    return StorageLayer(
        binaries=(host.tools.mdadm,),
        modules=("md_mod", *dict.fromkeys(_MODULES.get(array.level, array.level) for array in arrays.devices)),
        target_settings={
            target: {
                "KDUMP_MDADM": host.tools.mdadm,
                # For each: its name, and its UUID.
                "KDUMP_MD_ARRAYS": " ".join(f"{names[array.name]} {_uuid(target, array)}" for array in found),
            }
            for target, found in arrays.by_target.items()
        },
        provides=arrays.names,
    )


def _uuid(target: OnBlockDevices, array: Array) -> str:
    """Return the UUID of an array, which its members carry, in the form of mdadm(8): four words of eight digits."""
    members = (member for member in target.under(array) if member.content.type == "linux_raid_member")
    uuid = next((member.content.uuid for member in members), "").replace("-", "")
    if len(uuid) != 32:
        raise HostError(
            f"{array.name}: the UUID of this array cannot be found",
            hint="build as root, who may read it from the array's members, or start udev, which records it",
        )
    return ":".join(uuid[start : start + 8] for start in range(0, 32, 8))
