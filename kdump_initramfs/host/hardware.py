"""Disks of the machine's own hardware: recognised by what the kernel says drives them, with all that they need.

A block device is a disk only if all between it and its bus is of a kind that comes with its drivers alone. Whatever
needs a network, a program or a configuration of its own, or is memory, is named and is none (class and bus of a device:
Documentation/admin-guide/sysfs-rules.rst).
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct

from kdump_initramfs.errors import HostError
from kdump_initramfs.host.root import Root


class Hardware(Struct, frozen=True, kw_only=True):
    """What drives a disk."""

    # Modules of the drivers, the disk's own first.
    drivers: tuple[str, ...] = ()
    # modalias of the devices whose drivers are built in.
    modaliases: tuple[str, ...] = ()


class NotOurs(Struct, frozen=True, kw_only=True):
    """Why a block device is no disk of this machine's own hardware."""

    # "an iSCSI disk", "zram".
    seems: str
    remedy: str


_ANOTHER = "name a target on a disk of this machine"
_NETWORK = f"{_ANOTHER}: what is reached over a network is not there after a crash"
_MEMORY = f"{_ANOTHER}: what is in memory is gone after a crash"

# Block devices of /sys/devices/virtual/block and the like, by the beginning of their names (drivers/block,
# drivers/md/bcache, drivers/mtd, and others that say so).
_VIRTUAL = (
    ("zram", "zram", _MEMORY),
    ("ram", "a RAM disk (brd)", _MEMORY),
    ("nullb", "null_blk", _MEMORY),
    ("nbd", "a network block device (nbd)", _NETWORK),
    ("drbd", "DRBD", f"{_NETWORK}; its backing device may be one"),
    ("bcache", "bcache", f"{_ANOTHER}: a cached device is not assembled after a crash"),
    ("ublkb", "a ublk device, which a program serves", f"{_ANOTHER}: no such program runs after a crash"),
    ("zd", "a volume of ZFS", f"{_ANOTHER}: ZFS is not assembled after a crash"),
    ("rbd", "a Ceph RADOS block device (rbd)", _NETWORK),
    ("rnbd", "an RDMA network block device (rnbd)", _NETWORK),
    ("etherd/", "ATA over Ethernet (aoe)", _NETWORK),
    ("loop", "a loop device without a file", "set it up anew with losetup"),
    ("md", "an array that is not running", "start it: mdadm --assemble"),
    ("mtdblock", "flash memory (mtdblock)", f"{_ANOTHER}, or on UBI: flash needs more than a block device"),
    ("ubiblock", "a volume of UBI (read-only)", _ANOTHER),
    ("vdo", "VDO", f"{_ANOTHER}: VDO is not assembled after a crash"),
    ("scini", "PowerFlex", _NETWORK),
)

# Persistent memory that no NFIT describes (arch/x86/kernel/pmem.c): kexec does not hand it on to the capture kernel.
_LEGACY_PMEM = "/sys/devices/platform/e820_pmem/"

# Who has made a SCSI host: what its driver calls itself (scsi_host/hostN/proc_name), of those that need more than their
# driver. A session or a login is set up by a program; the others are no disks that outlive the kernel.
_SCSI_HOSTS = {
    "iscsi_tcp": ("an iSCSI disk", _NETWORK),
    "iscsi_iser": ("an iSCSI disk (iSER)", _NETWORK),
    "ib_srp": ("an SRP disk (RDMA)", _NETWORK),
    "scsi_debug": ("scsi_debug", _MEMORY),
    "tcm_loopback": (
        "a LUN of this machine's own target (tcm_loop)",
        f"{_ANOTHER}: no program exports it after a crash",
    ),
    "tcm_loop": ("a LUN of this machine's own target (tcm_loop)", f"{_ANOTHER}: no program exports it after a crash"),
    "zfcp": ("a disk behind zfcp", f"{_ANOTHER}: its adapter and port must be set online"),
    "fcoe": ("an FCoE disk", _NETWORK),
    "bnx2fc": ("an FCoE disk", _NETWORK),
    "qedf": ("an FCoE disk", _NETWORK),
}
# By bus and driver, host controllers and transports without hardware: what is on them, somebody has attached with
# usbip(8), configfs or vdpa(8) (drivers/usb/usbip/vhci_hcd.c, drivers/usb/gadget/udc/dummy_hcd.c,
# drivers/virtio/virtio_vdpa.c).
_IMITATIONS = {
    "platform/vhci_hcd": NotOurs(seems="a USB disk over a network (usbip)", remedy=_NETWORK),
    "platform/dummy_hcd": NotOurs(
        seems="a USB disk that this machine itself plays (dummy_hcd)",
        remedy=f"{_ANOTHER}: no program sets it up after a crash",
    ),
    "vdpa/virtio_vdpa": NotOurs(
        seems="a vDPA device", remedy=f"{_ANOTHER}: a vDPA device is not attached after a crash"
    ),
}
# Peripheral device types of SCSI that are disks (include/scsi/scsi_proto.h): direct access, optical memory, reduced
# block commands, host-managed zones.
_SCSI_DISKS = {"0", "7", "14", "20"}
_SCSI_OTHERS = {"1": "a tape", "5": "a CD or DVD drive"}

_find_session = re.compile(r"/session[0-9]+/").search
_find_fcoe = re.compile(r"/ctlr_[0-9]+/").search
_find_scsi_host = re.compile(r"^(?P<above>.*)/(?P<host>host[0-9]+)/").search
_is_nvme_controller = re.compile(r"nvme[0-9]+").fullmatch


def read(root: Root, directory: str) -> Hardware | NotOurs:
    """Return what drives the whole disk at a directory of sysfs, or why it is none."""
    if directory.startswith("/sys/devices/virtual/nvme-subsystem/"):
        return _nvme(root, list(_controllers(root, os.path.dirname(directory))))
    if (known := _virtual(os.path.basename(directory).replace("!", "/"))) is not None:
        return known
    if directory.startswith(_LEGACY_PMEM):
        return NotOurs(seems="memory that memmap= or the firmware calls persistent (e820 type 12)", remedy=_MEMORY)
    if not root.exists(f"{directory}/device"):
        return NotOurs(seems="a virtual device", remedy=_ANOTHER)
    device = root.resolve(f"{directory}/device")
    bus = _subsystem(root, device)
    if bus not in _BUSES:
        return NotOurs(seems=f"a device on {bus or 'an unknown bus'}", remedy=_ANOTHER)
    return _BUSES[bus](root, device)


def _virtual(name: str) -> NotOurs | None:
    """Return what a device is that no hardware stands behind, by the name that its driver gives it and its number."""
    for start, seems, remedy in _VIRTUAL:
        following = name.removeprefix(start)
        if following != name and (start.endswith("/") or following[:1].isalnum()):
            return NotOurs(seems=seems, remedy=remedy)
    return None


def _subsystem(root: Root, device: str) -> str:
    """Return the name of the bus or class that a device belongs to."""
    link = f"{device}/subsystem"
    found = root.resolve(link)
    return os.path.basename(found) if found != link else ""


def _driven(root: Root, devices: list[str]) -> Hardware | NotOurs:
    """Return all drivers of some devices; they must have at least one, and none that a program has set up."""
    for device in devices:
        if (made := _made_by_program(root, device)) is not None:
            return made
    found = [read_drivers(root, device) for device in devices]
    drivers = tuple(dict.fromkeys(driver for each in found for driver in each.drivers))
    modaliases = tuple(dict.fromkeys(alias for each in found for alias in each.modaliases))
    if not drivers and not modaliases:
        return NotOurs(seems="a disk without a driver", remedy=_ANOTHER)
    return Hardware(drivers=drivers, modaliases=modaliases)


def _made_by_program(root: Root, link: str) -> NotOurs | None:
    """Return what a disk is that is on a bus which only looks like hardware."""
    node = root.resolve(link)
    while node.startswith("/sys/devices/"):
        driver = root.resolve(f"{node}/driver")
        if (known := _IMITATIONS.get(driver.removeprefix("/sys/bus/").replace("/drivers/", "/"))) is not None:
            return known
        node = os.path.dirname(node)
    return None


# --- SCSI, and SATA and USB through it -----------------------------------------------------------------------------


def _scsi(root: Root, device: str) -> Hardware | NotOurs:
    return _made_by_program(root, device) or next(_why_no_local_disk(root, device), None) or _driven(root, [device])


def _why_no_local_disk(root: Root, device: str) -> Iterator[NotOurs]:
    kind = root.read_word(f"{device}/type")
    if kind and kind not in _SCSI_DISKS:
        yield NotOurs(seems=_SCSI_OTHERS.get(kind, f"a SCSI device of type {kind}"), remedy=_ANOTHER)
    if _find_session(f"{device}/"):
        yield NotOurs(seems="an iSCSI disk", remedy=_NETWORK)
    if _find_fcoe(f"{device}/"):
        yield NotOurs(seems="an FCoE disk", remedy=_NETWORK)
    host = _find_scsi_host(device)
    if host is None:
        yield NotOurs(seems="a SCSI disk without a host", remedy=_ANOTHER)
        return
    above, number = host["above"], host["host"]
    maker = root.read_word(f"{above}/{number}/scsi_host/{number}/proc_name")
    if maker in _SCSI_HOSTS:
        seems, remedy = _SCSI_HOSTS[maker]
        yield NotOurs(seems=seems, remedy=remedy)
    if isinstance(_driven(root, [above]), NotOurs):
        yield NotOurs(seems=f"a SCSI disk whose host ({maker or number}) has no driver on a bus", remedy=_ANOTHER)
    if _is_on_network_card(root, above):
        yield NotOurs(seems=f"a SCSI disk behind a network card ({maker or number})", remedy=_NETWORK)


def _is_on_network_card(root: Root, node: str) -> bool:
    """Whether the nearest device that has a driver is a network controller (class 02, include/linux/pci_ids.h)."""
    while node.startswith("/sys/devices/") and not root.exists(f"{node}/driver"):
        node = os.path.dirname(node)
    return root.read_word(f"{node}/class").startswith("0x02")


# --- NVMe --------------------------------------------------------------------------------------------------------


def _controllers(root: Root, subsystem: str) -> Iterator[str]:
    """Yield the controllers of a subsystem, over all of which the kernel's own multipathing may reach its disks."""
    for name in root.list(subsystem):
        if _is_nvme_controller(name) and root.exists(f"{subsystem}/{name}/transport"):
            yield root.resolve(f"{subsystem}/{name}")


def _nvme(root: Root, controllers: list[str]) -> Hardware | NotOurs:
    """Return the drivers of NVMe controllers on PCI; others reach their disks over a fabric (nvme/host/fabrics.c)."""
    transports = [root.read_word(f"{controller}/transport") for controller in controllers]
    local = [controller for controller, transport in zip(controllers, transports, strict=True) if transport == "pcie"]
    if not local:
        over = ", ".join(sorted({transport or "an unknown transport" for transport in transports})) or "no controller"
        return NotOurs(seems=f"an NVMe disk over {over}", remedy=_NETWORK)
    return _driven(root, local)


# What a driver of block devices finds its disk on: bus or class of the device (/sys/block/DISK/device/subsystem).
_BUSES: Mapping[str, Callable[[Root, str], Hardware | NotOurs]] = {
    "scsi": _scsi,
    "nvme": lambda root, device: _nvme(root, [device]),
    **dict.fromkeys(
        ("ide", "memstick", "mmc", "nd", "pci", "vio", "virtio", "xen"), lambda root, device: _driven(root, [device])
    ),
}

# --- drivers -----------------------------------------------------------------------------------------------------


def read_drivers(root: Root, link: str) -> Hardware:
    """Return the modules of the drivers from a device up to its bus, and the modaliases of those without a module.

    `link` is where sysfs has the device, such as /sys/block/sda/device.

    A driver that is built into the running kernel has no driver/module link; in another kernel it may be a module,
    hence the modalias.
    """
    modules: list[str] = []
    modaliases: list[str] = []
    node = root.resolve(link)
    while node.startswith("/sys/devices/") and root.exists(link):
        if root.exists(f"{node}/driver"):
            module = root.resolve(f"{node}/driver/module")
            if root.exists(f"{node}/driver/module"):
                modules.append(os.path.basename(module))
            elif alias := root.read_word(f"{node}/modalias") or _alias_of_event(root, node):
                modaliases.append(alias)
        node = os.path.dirname(node)
    return Hardware(drivers=tuple(modules), modaliases=tuple(modaliases))


def _alias_of_event(root: Root, node: str) -> str:
    """Return MODALIAS of the event by which udev would load a driver: on the bus of MMC there are no modalias files."""
    lines = (root.read_text(f"{node}/uevent") or "").splitlines()
    return next((line.removeprefix("MODALIAS=") for line in lines if line.startswith("MODALIAS=")), "")


# Where a disk tells its WWN or serial number: NVMe, SCSI and SATA, virtio, MMC.
_DISK_IDS = ("wwid", "device/wwid", "serial", "device/serial", "device/cid")
# The unit serial number of SCSI (SPC, vital product data page 80h), as the disk has sent it: a head of four bytes, then
# text. Disks of hypervisors often tell nothing else.
_SERIAL_PAGE = "device/vpd_pg80"
_SERIAL_PAGE_HEAD_BYTES = 4


def disk_id(root: Root, directory: str) -> str:
    """Return the WWN or serial number of the disk at a directory of sysfs; "" if it tells none."""
    found = next((word for path in _DISK_IDS if (word := _read_id(root, f"{directory}/{path}"))), "")
    return found or _read_serial_page(root, directory)


def _read_serial_page(root: Root, directory: str) -> str:
    try:
        page = root.read_bytes(f"{directory}/{_SERIAL_PAGE}") or b""
    except HostError:
        return ""
    return page[_SERIAL_PAGE_HEAD_BYTES:].replace(b"\0", b"").decode("utf-8", "surrogateescape").strip()


def _read_id(root: Root, path: str) -> str:
    """Return what sysfs says; a SCSI disk has the file and yet refuses to read it (EINVAL) where it knows no WWN."""
    try:
        return root.read_word(path)
    except HostError:
        return ""
