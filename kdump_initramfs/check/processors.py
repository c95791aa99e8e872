"""Whether the other processors can be turned off at a panic: on arm64 this is up to the firmware."""

from collections.abc import Iterator

from kdump_initramfs.check.finding import Finding, State, attempt
from kdump_initramfs.host.root import Root

_CPUS = "/proc/device-tree/cpus"
# The ways to start a processor that can turn it off, too (cpu_die of arch/arm64/kernel/cpu_ops.c).
_CAN_TURN_OFF = ("psci",)
# ACPI has PSCI by a flag of the FADT (6.5, 5.2.9: ARM_BOOT_ARCH), and otherwise the parking protocol.
_FADT = "/sys/firmware/acpi/tables/FACP"
_ARM_BOOT_ARCH, _PSCI_COMPLIANT = 129, 1

_NAME = "other processors"
_WHY = (
    "a processor that the firmware cannot turn off keeps running in the memory of the crashed kernel while it is "
    'saved, and does not run in the capture kernel (arch/arm64: "Some CPUs may be stale, kdump will be unreliable")'
)


def findings(root: Root, machine: str) -> Iterator[Finding]:
    if not machine.startswith("aarch64"):
        return
    methods, hidden = attempt(_NAME, _WHY, lambda: _by_device_tree(root) or _by_acpi(root))
    yield from hidden
    if not methods:
        return
    stuck = [method for method in methods if method not in _CAN_TURN_OFF]
    yield Finding(
        name=_NAME,
        state=State.WEAK if stuck else State.OK,
        seen=f"started by {', '.join(dict.fromkeys(stuck or methods))}",
        why=_WHY,
        remedy="take firmware that has PSCI (Trusted Firmware-A), or boot with nr_cpus=1; prove the dump with: "
        "kdump-initramfs rehearse --live"
        if stuck
        else "",
    )


def _by_device_tree(root: Root) -> list[str]:
    """Return how each processor is started; a single one has nobody to start it, and may tell nothing."""
    places = [f"{_CPUS}/{name}/enable-method" for name in root.list(_CPUS) if name.startswith("cpu@")]
    told = [(root.read_text(place) or "").partition("\0")[0].strip() for place in places]
    return [method for method in told if method] if len(places) > 1 else []


def _by_acpi(root: Root) -> list[str]:
    flags = (root.read_bytes(_FADT) or b"")[_ARM_BOOT_ARCH : _ARM_BOOT_ARCH + 2]
    if len(flags) < 2:
        return []
    return ["psci" if flags[0] & _PSCI_COMPLIANT else "the parking protocol of ACPI"]
