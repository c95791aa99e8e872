"""Generic images: take along the drivers of all storage that a machine may have, each loaded when a device asks for it.

What Debian's initramfs-tools takes for MODULES=most (hook-functions, auto_add_modules) and dracut without hostonly
(modules.d/90kernel-modules), without what only serves the network, the screen and the keyboard.
"""

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError
from kdump_initramfs.model import BootStep, Contribution, DriverSet, HostFacts, Link

# Buses and their controllers, and the disks on them.
_DIRECTORIES = (
    *("acpi/nfit", "ata", "block", "firewire", "hv", "message/fusion", "misc/cardreader", "mmc", "nvdimm", "nvme"),
    *("pci/controller", "s390/block", "s390/cio", "s390/scsi", "scsi", "ufs", "usb/host", "usb/storage", "virtio"),
)
# Tapes, changers, enclosures, floppies and CDs hold no dump; the others are no storage, or take memory away.
_WITHOUT = (
    *("ch", "floppy", "firewire_net", "hv_balloon", "hv_utils", "nosy", "sdio_uart", "ses", "sr_mod", "st"),
    *("virtio_balloon", "virtio_input", "virtio_mem", "xen_blkback"),
)
_INDEPENDENT_OF = ("kernel/drivers/infiniband", "kernel/drivers/net", "kernel/drivers/pcmcia", "kernel/net")


def contribute(config: Config, host: HostFacts) -> Contribution | None:
    if config.image.mode != "generic":
        return None
    if "find" not in host.tools.busybox_applets:
        raise HostError(
            f"{host.tools.busybox}: was built without find, by which a generic image finds devices",
            hint="install a busybox with all applets, such as Debian's busybox-static, or set image.mode to host",
        )
    return BootStep(
        drivers=DriverSet(
            directories=tuple(f"kernel/drivers/{directory}" for directory in _DIRECTORIES),
            without=_WITHOUT,
            independent_of=_INDEPENDENT_OF,
        ),
        entries=(Link(path="/bin/find", target=host.tools.busybox, reason="busybox applet"),),
    )
