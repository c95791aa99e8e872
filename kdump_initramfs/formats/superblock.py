"""Where file systems keep UUID and label: what tells one device from another after a crash, by content and not by name.

Sources, of the kernel: ext4 Documentation/filesystems/ext4/super.rst (superblock at 1024, s_magic at 0x38, s_uuid at
0x68, s_volume_name at 0x78); XFS fs/xfs/libxfs/xfs_format.h (sb_magicnum at 0, sb_uuid at 32, sb_fname at 108); btrfs
fs/btrfs/accessors.h and disk-io.h (superblock at 64 KiB, fsid at 0x20, magic at 0x40, label at 0x12b); f2fs
include/linux/f2fs_fs.h (superblock at 1024, uuid at 0x6c); FAT include/uapi/linux/msdos_fs.h (vol_id at 0x43 of FAT32,
0x27 of FAT12 and FAT16); exFAT fs/exfat/exfat_raw.h (fs_name at 3, vol_serial at 0x64).
"""

from collections.abc import Callable

from msgspec import Struct


class Superblock(Struct, frozen=True, kw_only=True):
    # Name of the file system, for the families that share a layout; as blkid(8) says it.
    type: str
    magic_offset: int
    magic: bytes
    uuid_offset: int
    # 16 for a real UUID; 4 for a serial number, stored with its lowest byte first.
    uuid_bytes: int = 16
    # Of a label that ends in NUL, or fills its place; 0 where it is stored in another way.
    label_offset: int = 0
    label_bytes: int = 0


_LAYOUTS = (
    Superblock(
        type="ext4", magic_offset=0x438, magic=b"\x53\xef", uuid_offset=0x468, label_offset=0x478, label_bytes=16
    ),
    Superblock(type="xfs", magic_offset=0, magic=b"XFSB", uuid_offset=32, label_offset=108, label_bytes=12),
    Superblock(
        type="btrfs",
        magic_offset=0x10040,
        magic=b"_BHRfS_M",
        uuid_offset=0x10020,
        label_offset=0x1012B,
        label_bytes=256,
    ),
    Superblock(type="f2fs", magic_offset=0x400, magic=b"\x10\x20\xf5\xf2", uuid_offset=0x46C),
    Superblock(type="exfat", magic_offset=3, magic=b"EXFAT   ", uuid_offset=0x64, uuid_bytes=4),
    Superblock(type="vfat", magic_offset=0x52, magic=b"FAT32   ", uuid_offset=0x43, uuid_bytes=4),
    Superblock(type="vfat", magic_offset=0x36, magic=b"FAT", uuid_offset=0x27, uuid_bytes=4),
)
_FAMILY = {"ext2": "ext4", "ext3": "ext4"}

# As much of a device as must be read to know any of them.
HEAD_BYTES = 0x10048


def layouts(fs_type: str) -> tuple[Superblock, ...]:
    """Return the layouts that a file system of this type may have; none if it is unknown."""
    return tuple(layout for layout in _LAYOUTS if layout.type == _FAMILY.get(fs_type, fs_type))


def identify(head: bytes) -> tuple[str, str] | None:
    """Return type ("ext4" for all of ext) and UUID of the file system that begins with these bytes."""
    for layout in _LAYOUTS:
        uuid = head[layout.uuid_offset : layout.uuid_offset + layout.uuid_bytes]
        magic = head[layout.magic_offset : layout.magic_offset + len(layout.magic)]
        if magic == layout.magic and len(uuid) == layout.uuid_bytes:
            return layout.type, format_uuid(uuid)
    return None


def format_uuid(raw: bytes) -> str:
    """Return 16 bytes in the form 8-4-4-4-12, or 4 in the form XXXX-XXXX, as blkid(8) prints them."""
    if len(raw) == 4:
        text = raw[::-1].hex().upper()
        return f"{text[:4]}-{text[4:]}"
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def stored(layout: Superblock, uuid: str) -> str:
    """Return a UUID as blkid(8) prints it, as the hexadecimal bytes that the device holds."""
    raw = bytes.fromhex(uuid.replace("-", ""))
    return (raw[::-1] if layout.uuid_bytes == 4 else raw).hex()


def stored_label(layout: Superblock, label: str) -> str:
    """Return a label as the hexadecimal bytes that the device holds; "" where this layout does not hold it so."""
    raw = label.encode("utf-8", "surrogateescape")
    if not 0 < len(raw) <= layout.label_bytes:
        return ""
    return (raw if len(raw) == layout.label_bytes else raw + b"\0").hex()


class Signature(Struct, frozen=True, kw_only=True):
    """What tells that a device is in use for something, whatever it says of itself besides."""

    type: str
    # Below 0: from the end of the device, which there is rounded down to 4 KiB.
    offset: int
    magic: bytes


# As libblkid of util-linux knows them (libblkid/src/superblocks and partitions).
SIGNATURES = (
    *(Signature(type=layout.type, offset=layout.magic_offset, magic=layout.magic) for layout in _LAYOUTS),
    *(Signature(type="LVM2_member", offset=sector * 512, magic=b"LABELONE") for sector in range(4)),
    Signature(type="crypto_LUKS", offset=0, magic=b"LUKS\xba\xbe"),
    *(
        Signature(type="linux_raid_member", offset=offset, magic=b"\xfc\x4e\x2b\xa9")
        for offset in (0, 4096, -8192, -65536)
    ),
    *(Signature(type="swap", offset=page - 10, magic=b"SWAPSPACE2") for page in (4096, 16384, 65536)),
    Signature(type="partition table", offset=510, magic=b"\x55\xaa"),
    Signature(type="partition table", offset=512, magic=b"EFI PART"),
    Signature(type="partition table", offset=4096, magic=b"EFI PART"),
    Signature(type="ntfs", offset=3, magic=b"NTFS    "),
    Signature(type="squashfs", offset=0, magic=b"hsqs"),
    Signature(type="erofs", offset=1024, magic=b"\xe2\xe1\xf5\xe0"),
    Signature(type="iso9660", offset=32769, magic=b"CD001"),
    Signature(type="jfs", offset=32768, magic=b"JFS1"),
    Signature(type="reiserfs", offset=65588, magic=b"ReIsEr"),
    Signature(type="nilfs2", offset=1030, magic=b"\x34\x34"),
    Signature(type="bcache", offset=4120, magic=bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")),
    Signature(type="bcachefs", offset=4120, magic=bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")),
    *(
        Signature(type="zfs_member", offset=offset, magic=bytes.fromhex(magic))
        for offset in (131072, 135168)
        for magic in ("0cb1ba0000000000", "0000000000bab10c")
    ),
    Signature(type="DM_snapshot_cow", offset=0, magic=b"SnAp"),
    Signature(type="DM_integrity", offset=0, magic=b"integrt\0"),
)


def signature(read: Callable[[int, int], bytes], size_bytes: int) -> str:
    """Return the type of the first signature on a device of that size, read by offset and length; "" if none."""
    for each in SIGNATURES:
        offset = each.offset if each.offset >= 0 else size_bytes // 4096 * 4096 + each.offset
        if offset >= 0 and read(offset, len(each.magic)) == each.magic:
            return each.type
    return ""
