"""Where file systems keep their UUID: what tells one device from another after a crash, by content and not by name.

Sources: ext4 Documentation/filesystems/ext4/super.rst (superblock at 1024, s_magic at 0x38, s_uuid at 0x68);
XFS fs/xfs/libxfs/xfs_format.h (sb_magicnum at 0, sb_uuid at 32).
"""

from msgspec import Struct


class Superblock(Struct, frozen=True, kw_only=True):
    magic_offset: int
    magic: bytes
    uuid_offset: int
    uuid_bytes: int = 16


_EXT = Superblock(magic_offset=0x438, magic=b"\x53\xef", uuid_offset=0x468)

KNOWN = {
    "ext2": _EXT,
    "ext3": _EXT,
    "ext4": _EXT,
    "xfs": Superblock(magic_offset=0, magic=b"XFSB", uuid_offset=32),
}

# As much of a device as must be read to know any of them.
HEAD_BYTES = 4096


def identify(head: bytes) -> tuple[str, str] | None:
    """Return file system family ("ext4" for all of ext) and UUID found in the first bytes of a device."""
    for family in ("ext4", "xfs"):
        layout = KNOWN[family]
        uuid = head[layout.uuid_offset : layout.uuid_offset + layout.uuid_bytes]
        magic = head[layout.magic_offset : layout.magic_offset + len(layout.magic)]
        if magic == layout.magic and len(uuid) == layout.uuid_bytes:
            return family, format_uuid(uuid)
    return None


def format_uuid(raw: bytes) -> str:
    """Return 16 bytes in the usual form 8-4-4-4-12."""
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
