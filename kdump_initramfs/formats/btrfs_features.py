"""The superblock of btrfs: its checksum, its features, and how many devices it is on.

Sources, of the kernel: struct btrfs_super_block and BTRFS_FEATURE_* of include/uapi/linux/btrfs_tree.h and btrfs.h;
btrfs_csums[] of fs/btrfs/ctree.c, btrfs_init_csum_hash() of fs/btrfs/disk-io.c. Names are those of btrfs(5).
"""

from kdump_initramfs.formats import kernel_crypto, superblock
from kdump_initramfs.formats.filesystem import External, Filesystem, Reader, little, named

_OFFSET = 0x10000
_BYTES = 4096
_MAGIC = b"_BHRfS_M"

# By csum_type, the name by which crypto_alloc_shash() is called.
_SUMS = {0: "crc32c", 1: "xxhash64", 2: "sha256", 3: "blake2b-256"}
_INCOMPAT = {
    0: "mixed-backref",
    1: "default-subvol",
    2: "mixed-bg",
    3: "compress-lzo",
    4: "compress-zstd",
    5: "big-metadata",
    6: "extref",
    7: "raid56",
    8: "skinny-metadata",
    9: "no-holes",
    10: "metadata-uuid",
    11: "raid1c34",
    12: "zoned",
    13: "extent-tree-v2",
    14: "raid-stripe-tree",
    16: "squota",
}
_RO_COMPAT = {0: "free-space-tree", 1: "free-space-tree-valid", 2: "verity", 3: "block-group-tree"}
_SEEDING = 32
_METADATA_DUMP = (33, 34)


def parse(read: Reader) -> Filesystem | None:
    """Return what the superblock says; None where there is none."""
    head = read(_OFFSET, _BYTES)
    if len(head) < _BYTES or head[0x40:0x48] != _MAGIC:
        return None
    incompat, unknown = named(little(head, 0xBC, 8), _INCOMPAT, "incompat")
    ro_compat, unknown_ro = named(little(head, 0xB4, 8), _RO_COMPAT, "ro_compat")
    sum_type = little(head, 0xC4, 2)
    if sum_type not in _SUMS:
        unknown += (f"checksum type {sum_type}",)
    devices = little(head, 0x88, 8)
    return Filesystem(
        type="btrfs",
        uuid=superblock.format_uuid(head[0x20:0x30]),
        # libcrc32c, below btrfs.ko, takes crc32c in any case.
        requests=kernel_crypto.requests("crc32c", _SUMS.get(sum_type, "")),
        features=tuple(sorted(incompat | ro_compat | _flags(head))),
        unknown=unknown + unknown_ro,
        external=(External(role="member", option="device"),) if devices > 1 else (),
        devices=devices,
    )


def _flags(head: bytes) -> set[str]:
    flags = little(head, 0x38, 8)
    found = {"seeding"} if flags >> _SEEDING & 1 else set()
    return found | ({"metadump"} if any(flags >> bit & 1 for bit in _METADATA_DUMP) else set())
