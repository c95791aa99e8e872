"""Where a member of a Linux software RAID says to which array it belongs.

Sources, of the kernel: struct mdp_superblock_1 in include/uapi/linux/raid/md_p.h (magic at 0, major_version at 4,
set_uuid at 16, super_offset at 144), and super_1_load() in drivers/md/md.c for the places of versions 1.0 to 1.2. What
0.90 writes has no place of its own in it: the last partition of a disk could be taken for the disk.
"""

import struct
from collections.abc import Callable

from kdump_initramfs.formats import superblock

_MAGIC = 0xA92B4EFC
_HEAD = struct.Struct("<II8x16s112xQ")
_SECTOR_BYTES = 512


def array_uuid(read: Callable[[int, int], bytes], size_bytes: int) -> str:
    """Return the UUID of the array to which a device of that size belongs, as blkid(8) prints it; "" if to none.

    `read` takes offset and length, and returns less where there is not so much.
    """
    for offset in (4096, 0, size_bytes // 4096 * 4096 - 8192):
        head = read(offset, _HEAD.size) if offset >= 0 else b""
        if len(head) == _HEAD.size:
            magic, version, uuid, own_sector = _HEAD.unpack(head)
            if (magic, version, own_sector) == (_MAGIC, 1, offset // _SECTOR_BYTES):
                return superblock.format_uuid(uuid)
    return ""
