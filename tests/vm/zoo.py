"""Block devices of every kind that a Debian guest can make, and what is right for a dump target on each.

scripts/zoo_guest.py makes one after the other, lets the tool judge it, and crashes on all that were accepted.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct

# refused: by build, probe and check alike, by name. saved: a crash left a whole dump there, read after the reboot.
Outcome = Literal["refused", "saved", "LOST", "not made"]
REFUSED = frozenset[Outcome]({"refused"})
SAVED = frozenset[Outcome]({"saved"})
# Whatever is not known may be refused; what is known may be saved to.
EITHER = REFUSED | SAVED
EXT4 = "mkfs.ext4 -q -F {node}"


class Exhibit(Struct, frozen=True, kw_only=True):
    """One device with a file system. Its scripts run behind scripts/zoo-lib.sh; $1, $2 ... are partitions."""

    # In words, for the table.
    how: str
    # Makes it and prints its node, at the end of what it prints.
    make: str
    parts: int = 0
    # What takes it away once it was refused.
    unmake: str = ""
    # What is needed after the crash before it can be mounted.
    reopen: str = ""
    # `{node}` is what `make` has printed; "" where `make` does it.
    mkfs: str = EXT4
    # Options of mount(8).
    options: str = ""
    # Modules of the kernel.
    needs: tuple[str, ...] = ()
    # What the refusal says of the kind, as a regular expression; the kernel's name of the device will do too.
    words: str = ""
    right: frozenset[Outcome] = REFUSED
    # Whether fstab has its file system, which is not mounted at first: a target there is refused until it is.
    late: bool = False
    # Takes the device away before the image is built, so that its UUID alone is known; for generic images.
    absent: str = ""


class Seen(Struct, frozen=True, kw_only=True):
    """What became of an exhibit."""

    outcome: Outcome
    # The refusal, or why it was lost or not made.
    said: str = ""
    # Kernel names of the device and of what it stands on.
    names: tuple[str, ...] = ()
    # Which of probe and check do not say what build says, and what they say instead.
    disagree: dict[str, str] = {}
    # Whether the refusal has a hint.
    has_remedy: bool = False
    # While it was not mounted: what build, probe and check said.
    early: dict[str, str] = {}


class Proved(Struct, frozen=True):
    """A kind that a guest of its own crashes on: the name that storage.crash() gets."""

    how: str
    case: str
    # Modules that it has proved.
    covers: tuple[str, ...] = ()


PROVED = {
    "virtio-blk": Proved("`virtio-blk-pci`", "f2fs", ("virtio_blk",)),
    "virtio-scsi": Proved("`virtio-scsi-pci`", "luks1-on-lvm-on-md-raid6-on-mbr-partitions", ("virtio_scsi",)),
    "nvme": Proved("`nvme`", "md-raid1-of-nvme-partitions-bind-mounted-behind-a-link", ("nvme", "nvme_core")),
    "ahci": Proved("`ahci`", "vfat-partition-on-sata", ("ahci",)),
    "usb-storage": Proved("`usb-storage`", "exfat-partition-on-usb", ("usb_storage",)),
    "LVM thin": Proved("`lvcreate --thin`", "lvm-thin", ("dm_thin_pool",)),
    "LVM raid1": Proved("`lvcreate --type raid1`", "lvm-raid1-under-hostile-settings", ("dm_raid",)),
    "LVM raid5": Proved("`lvcreate --type raid5`", "ext4-on-lvm-raid5-that-loses-a-leg"),
    "LVM striped": Proved("`lvcreate --stripes 2`", "lvm-striped-with-dashes-behind-links-to-a-deep-directory"),
    "LVM cache": Proved(
        "`lvcreate --type cache`",
        "lvm-cached-on-md-raid10-mounted-read-only-below-another-mount",
        ("dm_cache", "dm_cache_smq"),
    ),
    "md raid1": Proved("`mdadm --level 1`", "md-raid1-degraded", ("raid1",)),
    "md raid0, raid5": Proved(
        "`mdadm --level 0` of `5`", "md-raid0-of-raid5-one-degraded-and-dirty", ("raid0", "raid456")
    ),
    "md raid6": Proved("`mdadm --level 6`", "luks1-on-lvm-on-md-raid6-on-mbr-partitions"),
    "md raid10": Proved(
        "`mdadm --level 10`", "lvm-cached-on-md-raid10-mounted-read-only-below-another-mount", ("raid10",)
    ),
    "LUKS2": Proved("`cryptsetup luksFormat`", "luks-key-file", ("dm_crypt",)),
    "multipath": Proved("multipath-tools", "multipath-ext4", ("dm_multipath",)),
    "loop, partitions": Proved("`losetup --partscan`", "lvm-on-loop-on-xfs", ("loop",)),
    "btrfs raid1": Proved("`mkfs.btrfs -m raid1`", "btrfs-subvolume-on-raid1"),
    "raw partition": Proved("no file system", "raw-partition"),
    "9p": Proved("`virtio-9p-pci`", "share-9p"),
    "virtiofs": Proved("`vhost-user-fs-pci`", "share-virtiofs"),
}

# Drivers of block devices that no guest here has a device for, and why. Helpers of others make no device.
HELPER = "makes no device of its own"
NOT_MADE = {
    **dict.fromkeys(
        (
            *("dm_mod", "dm_bufio", "dm_bio_prison", "dm_persistent_data", "dm_log", "dm_region_hash"),
            *("dm_queue_length", "dm_round_robin", "dm_service_time", "md_mod"),
            *("nvme_auth", "nvme_keyring", "nvme_fabrics", "nvmet", "libnvdimm", "nd_virtio"),
        ),
        HELPER,
    ),
    "dm_log_userspace": "a log of dm-mirror in a cluster",
    "md_cluster": "a bitmap of md in a cluster",
    "dm_zero": "no file system can be on it",
    "dm_zoned": "Debian 12 has no dmzadm, which formats it",
    "dm_vdo": "Debian 12 has no vdoformat, which formats it",
    "rbd": "needs a Ceph cluster",
    "nvme_fc": "needs a Fibre Channel adapter",
    "nvmet_fc": "needs a Fibre Channel adapter",
    "nvme_fcloop": "makes no disk: a port for nvme_fc to itself",
    "nvme_rdma": "needs an RDMA adapter",
    "nvmet_rdma": "needs an RDMA adapter",
    "mtip32xx": "needs a Micron P320",
    "nd_btt": "what `ndctl` makes of pmem, which is tried as it is",
    "phram": "an MTD of memory, as mtdram",
    "slram": "an MTD of memory, as mtdram",
    **dict.fromkeys(("mtd_dataflash", "sst25l", "mchp23k256", "mchp48l640"), "needs a chip on SPI"),
    "xen_blkfront": "needs Xen",
    "xen_blkback": "needs Xen",
}


def rows(exhibits: Mapping[str, Exhibit], seen: Mapping[str, Seen]) -> list[str]:
    """Return the rows of the table, as Markdown."""
    return [f"| {name} | {exhibits[name].how} | {_in_words(found)} |" for name, found in seen.items()]


def _in_words(found: Seen) -> str:
    return f"{found.outcome}: {found.said}".replace("|", "\\|").replace("\n", " ") if found.said else found.outcome


def proved_rows() -> list[str]:
    return [f"| {kind} | {proved.how} | saved: `{proved.case}` |" for kind, proved in PROVED.items()]


def not_made_rows() -> list[str]:
    return [f"| {module} | | not made: {reason} |" for module, reason in NOT_MADE.items() if reason != HELPER]


def to_json(exhibits: Mapping[str, Exhibit]) -> str:
    return msgspec.json.encode(exhibits).decode()


def seen_from_json(data: bytes) -> dict[str, Seen]:
    return msgspec.json.decode(data, type=dict[str, Seen])
