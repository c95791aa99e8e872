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
# What tells a driver of storage that is no part of the kernel's tree: it registers a disk, a host of disks, or a bus.
# block/genhd.c, drivers/scsi/hosts.c, drivers/ata/libata-core.c and libata-sff.c, drivers/nvme/host/core.c,
# drivers/mmc/core/host.c, drivers/ufs/core/ufshcd.c, drivers/scsi/libsas/sas_init.c, drivers/nvdimm/bus.c,
# drivers/usb/storage/usb.c, drivers/usb/core/hcd.c, drivers/virtio/virtio.c, drivers/pci/probe.c
_CALLS = (
    *("add_disk", "add_disk_fwnode", "device_add_disk", "scsi_add_host", "scsi_add_host_with_dma"),
    *("ata_host_activate", "ata_host_register", "ata_pci_bmdma_init_one", "ata_pci_sff_init_one"),
    *("ahci_host_activate", "ahci_platform_init_host", "nvme_add_ctrl", "nvme_init_ctrl", "mmc_add_host"),
    *("__sdhci_add_host", "sdhci_add_host", "sdhci_pltfm_register", "ufshcd_init", "ufshcd_pltfrm_init"),
    *("sas_register_ha", "nvdimm_bus_register", "usb_stor_probe1", "usb_add_hcd", "usb_hcd_pci_probe"),
    *("register_virtio_device", "pci_host_probe", "pci_scan_root_bus_bridge"),
)
# Class 01 of PCI is mass storage (include/linux/pci_ids.h), 08 of USB too (include/uapi/linux/usb/ch9.h).
_DEVICES = ("pci:*bc01sc*", "usb:*ic08isc*", "scsi:t-0x00*", "nvme:*", "mmc:block*")


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
            calls=_CALLS,
            devices=_DEVICES,
        ),
        entries=(Link(path="/bin/find", target=host.tools.busybox, reason="busybox applet"),),
    )
