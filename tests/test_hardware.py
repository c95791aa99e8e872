"""Which block devices are disks of this machine, and what the others are called, by what sysfs says of them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from kdump_initramfs import build, config
from kdump_initramfs.errors import KdumpError
from kdump_initramfs.host import block, layer, probe
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import recognition
from kdump_initramfs.storage import BlockDevice, Disk, Filesystem, LoopFile, UnknownDevice
from tests import command, trees
from tests.narrow import only

Files = Mapping[str, str | bytes | Path]
Make = Callable[[Files], Root]
PCI = "/sys/devices/pci0000:00/0000:00:05.0"


def driven(directory: str, bus: str, driver: str, module: str = "") -> dict[str, str | bytes | Path]:
    """Return a device with a driver, which is a module unless that is "-"."""
    place = f"/sys/bus/{bus}/drivers/{driver}"
    files: dict[str, str | bytes | Path] = {f"{directory}/driver": Path(place), f"{place}/": ""}
    if module != "-":
        name = module or driver.replace("-", "_")
        files |= {f"{place}/module": Path(f"/sys/module/{name}"), f"/sys/module/{name}/": ""}
    return files


def disk(device: str, name: str, bus: str = "") -> dict[str, str | bytes | Path]:
    """Return a disk below `device`, as sysfs has it of most drivers: the device is on `bus`."""
    place = f"{device}/block/{name}"
    files: dict[str, str | bytes | Path] = {f"{place}/dev": "8:0\n", f"{place}/size": "8\n"}
    files |= {f"{place}/device": Path(device), "/sys/dev/block/8:0": Path(place)}
    return files | ({f"{device}/subsystem": Path(f"/sys/bus/{bus}")} if bus else {})


def virtual(name: str, *more: str) -> dict[str, str | bytes | Path]:
    place = f"/sys/devices/virtual/block/{name}"
    files: dict[str, str | bytes | Path] = {f"{place}/dev": "8:0\n", "/sys/dev/block/8:0": Path(place)}
    return files | {f"{place}/{file}": "" for file in more}


def scsi(above: str, maker: str, number: int = 2, kind: str = "0") -> dict[str, str | bytes | Path]:
    """Return a SCSI disk below what is above its host, whose driver calls itself `maker`."""
    host = f"{above}/host{number}"
    unit = f"{host}/target{number}:0:0/{number}:0:0:0"
    return {
        **disk(unit, "sda", "scsi"),
        **driven(unit, "scsi", "sd", "sd_mod"),
        f"{unit}/type": f"{kind}\n",
        f"{host}/scsi_host/host{number}/proc_name": f"{maker}\n",
    }


def nvme(controller: str, transport: str) -> dict[str, str | bytes | Path]:
    return {f"{controller}/transport": f"{transport}\n", f"{controller}/subsystem": Path("/sys/class/nvme")}


def nvme_disk(controller: str, transport: str) -> dict[str, str | bytes | Path]:
    place = f"{controller}/nvme0n1"
    files: dict[str, str | bytes | Path] = {f"{place}/dev": "259:0\n", f"{place}/device": Path(controller)}
    return files | {"/sys/dev/block/8:0": Path(place)} | nvme(controller, transport)


def subsystem(*controllers: tuple[str, str]) -> dict[str, str | bytes | Path]:
    """Return the disk of a subsystem with these controllers (directory, transport): native multipathing."""
    place = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0"
    files: dict[str, str | bytes | Path] = {f"{place}/nvme0n1/dev": "259:0\n", f"{place}/nvme0n1/wwid": "eui.1\n"}
    files |= {f"{place}/nvme0n1/device": Path(place), "/sys/dev/block/8:0": Path(f"{place}/nvme0n1")}
    for number, (directory, transport) in enumerate(controllers):
        files |= {f"{place}/nvme{number}": Path(directory), **nvme(directory, transport)}
    return files


def read(make: Make, files: Files) -> BlockDevice:
    root = make(files)
    file = LoopFile(path="x", offset_bytes=0, filesystem=Filesystem(type="ext4", uuid="1"))
    return layer.read(root, block.directory_of(root, "8:0"), lambda *_: (file, ()))


ATA = f"{PCI}/ata1"
USB = f"{PCI}/usb1/1-1/1-1:1.0"
DISKS: Mapping[str, tuple[Files, tuple[str, ...]]] = {
    "virtio": (
        {
            **disk(f"{PCI}/virtio0", "vda", "virtio"),
            **driven(f"{PCI}/virtio0", "virtio", "virtio_blk"),
            **driven(PCI, "pci", "virtio-pci"),
        },
        ("virtio_blk", "virtio_pci"),
    ),
    "sata": ({**scsi(ATA, "ahci"), **driven(PCI, "pci", "ahci")}, ("sd_mod", "ahci")),
    "usb": (
        {**scsi(USB, "usb-storage"), **driven(USB, "usb", "usb-storage"), **driven(PCI, "pci", "xhci_hcd")},
        ("sd_mod", "usb_storage", "xhci_hcd"),
    ),
    "fibre channel": (
        {**scsi(PCI, "qla2xxx"), **driven(PCI, "pci", "qla2xxx"), f"{PCI}/class": "0x0c0400\n"},
        ("sd_mod", "qla2xxx"),
    ),
    "sas with zones": ({**scsi(PCI, "mpt3sas", kind="20"), **driven(PCI, "pci", "mpt3sas")}, ("sd_mod", "mpt3sas")),
    "hyper-v": (
        {**scsi("/sys/devices/LNXSYSTM:00/VMBUS:00/a-b", "storvsc_host"),
         **driven("/sys/devices/LNXSYSTM:00/VMBUS:00/a-b", "vmbus", "hv_storvsc")},
        ("sd_mod", "hv_storvsc"),
    ),
    "nvme": ({**nvme_disk(f"{PCI}/nvme/nvme0", "pcie"), **driven(PCI, "pci", "nvme")}, ("nvme",)),
    "nvme over two controllers": (
        {
            **subsystem((f"{PCI}/nvme/nvme0", "pcie"), ("/sys/devices/pci0001:00/0001:00:01.0/nvme/nvme1", "pcie")),
            **driven(PCI, "pci", "nvme"),
            **driven("/sys/devices/pci0001:00", "pci", "vmd"),
        },
        ("nvme", "vmd"),
    ),
    "nvme with one of two paths here": (
        {**subsystem((f"{PCI}/nvme/nvme0", "pcie"), ("/sys/devices/virtual/nvme-fabrics/ctl/nvme1", "tcp")),
         **driven(PCI, "pci", "nvme")},
        ("nvme",),
    ),
    "mmc": (
        {**disk(f"{PCI}/mmc_host/mmc0/mmc0:0001", "mmcblk0", "mmc"),
         **driven(f"{PCI}/mmc_host/mmc0/mmc0:0001", "mmc", "mmcblk", "mmc_block"), **driven(PCI, "pci", "sdhci-pci")},
        ("mmc_block", "sdhci_pci"),
    ),
    "xen": (
        {**disk("/sys/devices/vbd-51712", "xvda", "xen"),
         **driven("/sys/devices/vbd-51712", "xen", "vbd", "xen_blkfront")},
        ("xen_blkfront",),
    ),
    "persistent memory": (
        {**disk("/sys/devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0012:00/ndbus0/region0/namespace0.0", "pmem0", "nd"),
         **driven("/sys/devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0012:00/ndbus0/region0/namespace0.0", "nd", "nd_pmem")},
        ("nd_pmem",),
    ),
    "on pci itself": ({**disk(PCI, "rssda", "pci"), **driven(PCI, "pci", "mtip32xx")}, ("mtip32xx",)),
}  # fmt: skip


@pytest.mark.parametrize(("files", "drivers"), DISKS.values(), ids=DISKS.keys())
def test_disk_has_all_drivers_up_to_its_bus(files: Files, drivers: tuple[str, ...], sysroot: Make) -> None:
    assert only(Disk, read(sysroot, files)).drivers == drivers


def test_disk_whose_drivers_are_built_in_is_known_by_what_they_answer_to(sysroot: Make) -> None:
    files = {**scsi(ATA, "ahci"), **driven(PCI, "pci", "ahci", "-"), f"{PCI}/modalias": "pci:v8086\n"}
    assert only(Disk, read(sysroot, files)).modaliases == ("pci:v8086",)


def test_card_is_known_by_the_event_of_its_bus(sysroot: Make) -> None:
    card = f"{PCI}/mmc_host/mmc0/mmc0:0001"
    files = {**disk(card, "mmcblk0", "mmc"), **driven(card, "mmc", "mmcblk", "-"), **driven(PCI, "pci", "sdhci-pci")}
    files[f"{card}/uevent"] = "DRIVER=mmcblk\nMMC_TYPE=SD\nMODALIAS=mmc:block\n"
    found = only(Disk, read(sysroot, files))
    assert (found.drivers, found.modaliases) == (("sdhci_pci",), ("mmc:block",))


def test_disk_that_tells_no_wwn_is_known_by_its_serial_number(sysroot: Make) -> None:
    files = {**scsi(f"{PCI}/virtio0", "virtio_scsi"), **driven(f"{PCI}/virtio0", "virtio", "virtio_scsi")}
    unit = f"{PCI}/virtio0/host2/target2:0:0/2:0:0:0"
    files[f"{unit}/vpd_pg80"] = b"\0\x80\0\x0bfar scsi 1 \0"
    assert only(Disk, read(sysroot, files)).disk_id == "far scsi 1"


FABRIC = "/sys/devices/virtual/nvme-fabrics/ctl/nvme0"
SESSION = "/sys/devices/platform/host3/session1"
OTHERS: Mapping[str, tuple[Files, str]] = {
    "iscsi": (
        {**scsi(SESSION, "iscsi_tcp"), "/sys/devices/platform/host3/scsi_host/host3/proc_name": "iscsi_tcp\n"},
        "an iSCSI disk",
    ),
    "iscsi offloaded": ({**scsi(f"{PCI}/host3/session1", "bnx2i"), **driven(PCI, "pci", "bnx2i")}, "an iSCSI disk"),
    "srp": ({**scsi(PCI, "ib_srp"), **driven(PCI, "pci", "mlx5_core")}, "an SRP disk (RDMA)"),
    "fcoe": ({**scsi(f"{PCI}/net/eth0/ctlr_0", "fcoe"), **driven(PCI, "pci", "ixgbe")}, "an FCoE disk"),
    "some other network": (
        {**scsi(PCI, "newrdma"), **driven(PCI, "pci", "newnic"), f"{PCI}/class": "0x020000\n"},
        "a SCSI disk behind a network card (newrdma)",
    ),
    "scsi_debug": ({**scsi("/sys/devices/pseudo_0/adapter0", "scsi_debug")}, "scsi_debug"),
    "tcm_loop": (
        {**scsi("/sys/devices/tcm_loop_0/tcm_loop_adapter_0", "tcm_loopback")},
        "a LUN of this machine's own target (tcm_loop)",
    ),
    "host without a driver": (scsi("/sys/devices/odd", "odd"), "a SCSI disk whose host (odd) has no driver on a bus"),
    "no host": ({**disk("/sys/devices/odd/0:0:0:0", "sda", "scsi")}, "a SCSI disk without a host"),
    "cd": ({**scsi(ATA, "ahci", kind="5"), **driven(PCI, "pci", "ahci")}, "a CD or DVD drive"),
    "nvme over tcp": (nvme_disk(FABRIC, "tcp"), "an NVMe disk over tcp"),
    "nvme over fibre channel": (nvme_disk(FABRIC, "fc"), "an NVMe disk over fc"),
    "nvme over loop": (nvme_disk(FABRIC, "loop"), "an NVMe disk over loop"),
    "nvme on a bus of apple": (nvme_disk("/sys/devices/platform/a.nvme/nvme/nvme0", "apple-nvme"), "over apple-nvme"),
    "nvme multipath over rdma": (subsystem((FABRIC, "rdma")), "an NVMe disk over rdma"),
    "nvme multipath without paths": (subsystem(), "an NVMe disk over no controller"),
    "zram": (virtual("zram0"), "zram"),
    "brd": (virtual("ram0"), "a RAM disk (brd)"),
    "null_blk": (virtual("nullb0"), "null_blk"),
    "nbd": (virtual("nbd0"), "a network block device (nbd)"),
    "drbd": (virtual("drbd0"), "DRBD"),
    "bcache": (virtual("bcache0", "slaves/vda", "bcache/state"), "bcache"),
    "ublk": (virtual("ublkb0"), "a ublk device"),
    "zvol": (virtual("zd16"), "a volume of ZFS"),
    "aoe": (virtual("etherd!e0.0"), "ATA over Ethernet (aoe)"),
    "loop without a file": (virtual("loop3"), "a loop device without a file"),
    "something new": (virtual("newblk0"), "a virtual device"),
    "rbd": ({**disk("/sys/devices/rbd/0", "rbd0", "rbd")}, "a Ceph RADOS block device (rbd)"),
    "dasd": ({**disk("/sys/devices/css0/0.0.0/0.0.1", "dasda", "ccw")}, "a device on ccw"),
    "mtdblock": ({**disk("/sys/devices/platform/x/mtd/mtd0", "mtdblock0", "mtd")}, "flash memory (mtdblock)"),
    "floppy": ({**disk("/sys/devices/platform/floppy.0", "fd0", "platform")}, "a device on platform"),
    "memory called persistent": (
        {**disk("/sys/devices/platform/e820_pmem/ndbus0/region0/namespace0.0", "pmem0", "nd"),
         **driven("/sys/devices/platform/e820_pmem/ndbus0/region0/namespace0.0", "nd", "nd_pmem")},
        "memory that memmap= or the firmware calls persistent",
    ),
    "no driver at all": ({**disk(f"{PCI}/virtio0", "vda", "virtio")}, "a disk without a driver"),
    "virtio with slaves": (
        {**disk(f"{PCI}/virtio0", "vda", "virtio"), **driven(f"{PCI}/virtio0", "virtio", "virtio_blk"),
         f"{PCI}/virtio0/block/vda/slaves/vdb": ""},
        "a device on vdb",
    ),
    "imsm": (
        {**virtual("md126", "md/level"), "/sys/devices/virtual/block/md126/md/metadata_version": "external:/md127/0\n"},
        "an array with external metadata (IMSM or DDF",
    ),
    "ddf": (
        {**virtual("md126", "md/level"), "/sys/devices/virtual/block/md126/md/metadata_version": "external:ddf\n"},
        "an array with external metadata (IMSM or DDF",
    ),
    "md faulty": (
        {**virtual("md1", "md/x"), "/sys/devices/virtual/block/md1/md/metadata_version": "1.2\n",
         "/sys/devices/virtual/block/md1/md/level": "faulty\n"},
        "an array of level faulty",
    ),
    "array without metadata": (
        {**virtual("md1", "md/level"), "/sys/devices/virtual/block/md1/md/metadata_version": "none\n"},
        "an array with metadata=none",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "seems"), OTHERS.values(), ids=OTHERS.keys())
def test_what_is_no_disk_is_called_by_what_it_seems_to_be(files: Files, seems: str, sysroot: Make) -> None:
    found = only(UnknownDevice, read(sysroot, files))
    assert seems in found.seems
    assert found.remedy


# --- refused by all alike ----------------------------------------------------------------------------------------


@pytest.fixture
def over_fabric(host_root: Callable[[str], Root]) -> Root:
    """Return a machine whose only disk is NVMe over TCP."""
    root = host_root("nvme-partition-ext4")
    trees.make(
        "file /sys/devices/pci0000:00/0000:00:1d.0/0000:02:00.0/nvme/nvme0/transport tcp\n", Path(root.directory)
    )
    return root


REFUSED = "/var/crash: stands on nvme0n1, an NVMe disk over tcp"


@pytest.mark.parametrize("verb", ["build", "plan", "probe", "check"])
def test_unknown_layer_is_refused_by_name(verb: str, over_fabric: Root) -> None:
    result = command.run(verb, "--root", over_fabric.directory)
    assert result.returncode == (4 if verb == "check" else 1)
    assert REFUSED in result.stdout + result.stderr
    assert "what is reached over a network is not there after a crash" in result.stdout + result.stderr


def test_probe_prints_what_it_refuses(over_fabric: Root) -> None:
    result = command.run("probe", "--root", over_fabric.directory)
    assert "nvme0n1 (unknown: an NVMe disk over tcp)" in result.stdout


def test_device_that_device_mapper_alone_knows_is_named_with_its_name(host_root: Callable[[str], Root]) -> None:
    root = host_root("debian-lvm-ext4")
    trees.make("file /sys/devices/virtual/block/dm-1/dm/uuid CLONE-x\n", Path(root.directory))
    configuration = config.load(root=root.directory)
    with pytest.raises(KdumpError, match=r"stands on dm-1 \(.*\), a device of device-mapper that neither LVM,"):
        build.plan(root, configuration)
    host = probe.read(root, configuration)
    assert [str(error).partition(",")[0] for error in recognition.refusals(root, configuration, host)]


@pytest.mark.parametrize("kind", ["path", "disk", "raw"])
def test_device_that_takes_no_writes_is_refused(kind: str, host_root: Callable[[str], Root]) -> None:
    root = host_root("raw-partition" if kind == "raw" else "two-targets")
    device = "vda1" if kind == "path" else "vda2"
    trees.make(f"file /sys/class/block/{device}/ro 1\n", Path(root.directory))
    result = command.run("plan", "--root", root.directory)
    assert result.returncode == 1
    assert f": {device} is read-only" in result.stderr


def test_volume_on_what_is_no_physical_volume_is_refused(host_root: Callable[[str], Root]) -> None:
    root = host_root("debian-lvm-ext4")
    trees.make("remove /run/udev\ndevice /dev/vda2 ext4 99887766-5544-3322-1100-ffeeddccbbaa\n", Path(root.directory))
    result = command.run("plan", "--root", root.directory)
    assert "calls itself a logical volume, but vda2 below it is no physical volume" in result.stderr
