"""Where file systems keep their UUID: what tells one device from another after a crash, by content and not by name.

Sources, of the kernel: ext4 Documentation/filesystems/ext4/super.rst (superblock at 1024, s_magic at 0x38, s_uuid at
0x68); XFS fs/xfs/libxfs/xfs_format.h (sb_magicnum at 0, sb_uuid at 32); btrfs fs/btrfs/accessors.h and disk-io.h
(superblock at 64 KiB, fsid at 0x20, magic at 0x40); f2fs include/linux/f2fs_fs.h (superblock at 1024, uuid at 0x6c);
FAT include/uapi/linux/msdos_fs.h (vol_id at 0x43 of FAT32, 0x27 of FAT12 and FAT16); exFAT fs/exfat/exfat_raw.h
(fs_name at 3, vol_serial at 0x64).
"""

from msgspec import Struct


class Superblock(Struct, frozen=True, kw_only=True):
    # Name of the file system, for the families that share a layout; as blkid(8) says it.
    type: str
    magic_offset: int
    magic: bytes
    uuid_offset: int
    # 16 for a real UUID; 4 for a serial number, stored with its lowest byte first.
    uuid_bytes: int = 16


_LAYOUTS = (
    Superblock(type="ext4", magic_offset=0x438, magic=b"\x53\xef", uuid_offset=0x468),
    Superblock(type="xfs", magic_offset=0, magic=b"XFSB", uuid_offset=32),
    Superblock(type="btrfs", magic_offset=0x10040, magic=b"_BHRfS_M", uuid_offset=0x10020),
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
