"""Assemble the arrays of Linux software RAID that targets stand on: by UUID, degraded if need be."""

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError
from kdump_initramfs.model import BlockDevice, Contribution, HostFacts, OnFailure, Phase, TargetFacts

# Module of the personality for md/level (Documentation/admin-guide/md.rst).
_MODULES = {"raid4": "raid456", "raid5": "raid456", "raid6": "raid456"}
_FIRST = 64


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    arrays = {position: _arrays(target) for position, target in enumerate(host.targets)}
    every = {array.name: array for found in arrays.values() for array in found}
    if not every:
        return None
    if not host.tools.mdadm:
        raise HostError("mdadm: no such program, but the dump target is on software RAID", hint="install mdadm")
    return Contribution(
        binaries=(host.tools.mdadm,),
        modules=("md_mod", *dict.fromkeys(_MODULES.get(array.md_level, array.md_level) for array in every.values())),
        target_settings={
            position: {
                "KDUMP_MDADM": host.tools.mdadm,
                # For each: the name that it gets, the same for all targets, and its UUID.
                "KDUMP_MD_ARRAYS": " ".join(
                    f"md{_FIRST + list(every).index(array.name)} {_uuid(host.targets[position], array)}"
                    for array in found
                ),
            }
            for position, found in arrays.items()
            if found
        },
        provides=tuple(every),
        phase=Phase.STORAGE,
        on_failure=OnFailure.STOP,
    )


def _arrays(target: TargetFacts) -> tuple[BlockDevice, ...]:
    """Return the arrays, the lowest first: one that is started degraded is there for the one above it."""
    return tuple(device for device in reversed(target.stack) if device.kind == "md")


def _uuid(target: TargetFacts, array: BlockDevice) -> str:
    """Return the UUID of an array, which its members carry, in the form of mdadm(8): four words of eight digits."""
    members = (member for member in target.under(array) if member.content_type == "linux_raid_member")
    uuid = next((member.content_uuid for member in members), "").replace("-", "")
    if len(uuid) != 32:
        raise HostError(
            f"{array.name}: the UUID of this array is not to be found",
            hint="build as root, who may read it from the array's members, or start udev, which records it",
        )
    return ":".join(uuid[start : start + 8] for start in range(0, 32, 8))
