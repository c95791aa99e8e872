"""The types of content that libblkid tells apart, and what each means for somebody who would write to the device.

Source: `blkid -k` of util-linux 2.38 to 2.41 (libblkid/src/superblocks). A signature tells what a device is part of,
and not that this part can be put together here.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from msgspec import Struct

from kdump_initramfs.formats import superblock

# A file system; a part of something that other drivers assemble; a layer that opens into one device; swap and what
# else is in use without being either; data that belongs to a file system or layer elsewhere.
Kind = Literal["filesystem", "member", "layer", "swap", "companion"]


class ContentType(Struct, frozen=True, kw_only=True):
    kind: Kind
    # As an administrator knows it.
    description: str


def _all(kind: Kind, described: Mapping[str, str]) -> dict[str, ContentType]:
    return {name: ContentType(kind=kind, description=text) for name, text in described.items()}


TYPES: Mapping[str, ContentType] = {
    **_all(
        "member",
        {
            "linux_raid_member": "a member of Linux software RAID",
            "ddf_raid_member": "a member of a firmware RAID (SNIA DDF)",
            "isw_raid_member": "a member of a firmware RAID (Intel Rapid Storage, IMSM)",
            "lsi_mega_raid_member": "a member of a firmware RAID (LSI MegaRAID)",
            "via_raid_member": "a member of a firmware RAID (VIA)",
            "silicon_medley_raid_member": "a member of a firmware RAID (Silicon Image Medley)",
            "nvidia_raid_member": "a member of a firmware RAID (NVIDIA)",
            "promise_fasttrack_raid_member": "a member of a firmware RAID (Promise FastTrak)",
            "hpt45x_raid_member": "a member of a firmware RAID (HighPoint 45x)",
            "hpt37x_raid_member": "a member of a firmware RAID (HighPoint 37x)",
            "adaptec_raid_member": "a member of a firmware RAID (Adaptec)",
            "jmicron_raid_member": "a member of a firmware RAID (JMicron)",
            "LVM2_member": "a physical volume of LVM",
            "LVM1_member": "a physical volume of LVM 1, which no current kernel reads",
            "zfs_member": "a member of a ZFS pool",
            "stratis": "a member of a Stratis pool",
            "ceph_bluestore": "the store of a Ceph OSD",
            "VMFS_volume_member": "a member of a VMware VMFS volume",
            "oracleasm": "a disk of Oracle ASM",
            "drbdmanage_control_volume": "the control volume of DRBD Manage",
            "mpool": "a member of an mpool",
            "ubi": "an UBI device",
        },
    ),
    **_all(
        "layer",
        {
            "bcache": "a device of bcache",
            "drbd": "the backing device of a DRBD resource",
            "vdo": "the backing device of a VDO volume",
            "crypto_LUKS": "a LUKS volume",
            "BitLocker": "a BitLocker volume",
            "cs_fvault2": "a FileVault volume (Core Storage)",
            "DM_integrity": "a device of dm-integrity",
        },
    ),
    **_all(
        "companion",
        {
            "DM_snapshot_cow": "the store of a snapshot",
            "DM_verity_hash": "the hash tree of a dm-verity device",
            "drbdproxy_datalog": "the data log of DRBD Proxy",
            "xfs_external_log": "an external log of XFS",
            "jbd": "an external journal of ext4",
            "scoutfs_meta": "the metadata of a ScoutFS",
            "scoutfs_data": "the data of a ScoutFS",
        },
    ),
    **_all("swap", {"swap": "swap space", "swsuspend": "the image of a hibernated system"}),
    **_all(
        "filesystem",
        {
            name: f"a file system ({name})"
            for name in (
                *(
                    "apfs",
                    "bcachefs",
                    "befs",
                    "bfs",
                    "btrfs",
                    "cramfs",
                    "erofs",
                    "exfat",
                    "exfs",
                    "ext2",
                    "ext3",
                    "ext4",
                ),
                *(
                    "ext4dev",
                    "f2fs",
                    "gfs",
                    "gfs2",
                    "hfs",
                    "hfsplus",
                    "hpfs",
                    "iso9660",
                    "jfs",
                    "minix",
                    "nilfs2",
                    "nss",
                ),
                *(
                    "ntfs",
                    "ocfs",
                    "ocfs2",
                    "ReFS",
                    "reiser4",
                    "reiserfs",
                    "romfs",
                    "squashfs",
                    "squashfs3",
                    "sysv",
                    "ubifs",
                ),
                *("udf", "ufs", "vfat", "VMFS", "vxfs", "xenix", "xfs", "zonefs"),
            )
        },
    ),
}


def describe(name: str) -> str:
    """Return what a type is, for a message; its own name where it is not known here."""
    known = TYPES.get(name)
    return known.description if known else f"what libblkid calls {name}"


def is_filesystem(name: str) -> bool:
    """Whether something of this type can be mounted; what is not known here may be."""
    known = TYPES.get(name)
    return known is None or known.kind == "filesystem"


# By type, place and bytes (below 0: from the end), besides those of superblock.SIGNATURES. Where libblkid wants more
# than these bytes, such as a checksum, the type is not here.
_OTHERS: tuple[tuple[str, int, bytes], ...] = (
    ("ceph_bluestore", 0, b"bluestore block device"),
    ("vdo", 0, b"dmvdo001"),
    ("DM_verity_hash", 0, b"verity\0\0"),
    ("LVM1_member", 0, b"HM\1\0"),
    ("LVM1_member", 0, b"HM\2\0"),
    ("cramfs", 0, b"\x45\x3d\xcd\x28"),
    ("romfs", 0, b"-rom1fs-"),
    ("ubi", 0, b"UBI#"),
    ("zonefs", 0, b"SFOZ"),
    ("oracleasm", 32, b"ORCLDISK"),
    *(("ocfs2", offset, b"OCFSV2") for offset in (1024, 2048, 4096)),
    *(("swsuspend", 4086, magic) for magic in (b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001")),
    ("nss", 4096, b"SPB5"),
    ("ufs", 9564, b"\x19\x54\x01\x19"),
    ("reiser4", 65536, b"ReIsEr4"),
    ("VMFS_volume_member", 0x100000, b"\x0d\xd0\x01\xc0"),
    ("VMFS", 0x200000, b"\x5e\xf1\xab\x2f"),
    ("isw_raid_member", -1024, b"Intel Raid ISM Cfg Sig. "),
    ("ddf_raid_member", -512, b"\xde\x11\xde\x11"),
)


def identify(read: Callable[[int, int], bytes], size_bytes: int) -> str:
    """Return what a device of that size seems to hold, by the name of libblkid; "" if nothing that is known here.

    Members of arrays come first: what is on the array may begin on its first member.
    """
    found = [name for name, offset, magic in _OTHERS if _has(read, size_bytes, offset, magic)]
    if (known := superblock.signature(read, size_bytes)) and known != "partition table":
        found.append(known)
    return min(found, key=lambda name: TYPES[name].kind != "member", default="")


def _has(read: Callable[[int, int], bytes], size_bytes: int, offset: int, magic: bytes) -> bool:
    start = offset if offset >= 0 else size_bytes + offset
    return start >= 0 and read(start, len(magic)) == magic
