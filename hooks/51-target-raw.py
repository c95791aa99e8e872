"""Drive targets that are a device without a file system: `dumps recover` makes a dump directory of what is there."""

from kdump_initramfs import devices
from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.formats import superblock
from kdump_initramfs.model import Contribution, HostFacts, TargetDriver, Text
from kdump_initramfs.storage import DeviceTarget


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    found = {target: number for number, target in enumerate(host.targets) if isinstance(target, DeviceTarget)}
    if not found:
        return None
    errors: list[KdumpError] = [_unknown(target) for target in found if devices.identities(target, target.device) < 2]
    raise_together(errors)
    return TargetDriver(
        entries=(
            *(devices.bare(f"target-{number}", target) for target, number in found.items()),
            Text(path="/etc/kdump/signatures", content=_signatures(), reason="what a raw target must not hold"),
        ),
        drives={target: {"KDUMP_DEVICE": f"target-{number}"} for target, number in found.items()},
    )


def _unknown(target: DeviceTarget) -> KdumpError:
    return HostError(
        f"{target.name}: {target.device.name} has too little that tells it from another after a crash",
        hint="a partition of a GPT, a logical volume, or a disk with a serial number has enough",
    )


def _signatures() -> str:
    """Return lines: offset, length and hexadecimal bytes, and what they tell of."""
    return "".join(
        f"{each.offset} {len(each.magic)} {each.magic.hex()} {each.type}\n" for each in superblock.SIGNATURES
    )
