"""The superblock of ext2, ext3 and ext4: where its journal is, and which features ask something of the kernel.

Sources, of the kernel: struct ext4_super_block and the EXT4_FEATURE_* of fs/ext4/ext4.h; ext4_fill_super(),
ext4_get_journal_blkdev() and ext4_enable_quotas() of fs/ext4/super.c; utf8_load() of fs/unicode/utf8-core.c;
INIT_QUOTA_MODULE_NAMES of include/linux/quota.h. Names of features are those of ext4(5).
"""

from kdump_initramfs.formats import device_number, kernel_crypto, superblock
from kdump_initramfs.formats.filesystem import External, Filesystem, Reader, feature_requests, little, named

_OFFSET = 1024
_BYTES = 1024
_MAGIC = b"\x53\xef"

_COMPAT = {
    2: "has_journal",
    9: "sparse_super2",
    10: "fast_commit",
    11: "stable_inodes",
    12: "orphan_file",
}
_INCOMPAT = {
    0: "compression",
    1: "filetype",
    2: "needs_recovery",
    3: "journal_dev",
    4: "meta_bg",
    6: "extent",
    7: "64bit",
    8: "mmp",
    9: "flex_bg",
    10: "ea_inode",
    12: "dirdata",
    13: "metadata_csum_seed",
    14: "large_dir",
    15: "inline_data",
    16: "encrypt",
    17: "casefold",
}
_RO_COMPAT = {
    0: "sparse_super",
    1: "large_file",
    2: "btree_dir",
    3: "huge_file",
    4: "uninit_bg",
    5: "dir_nlink",
    6: "extra_isize",
    7: "has_snapshot",
    8: "quota",
    9: "bigalloc",
    10: "metadata_csum",
    11: "replica",
    12: "read-only",
    13: "project",
    14: "shared_blocks",
    15: "verity",
    16: "orphan_present",
}


def parse(read: Reader) -> Filesystem | None:
    """Return what the superblock says; None where there is none."""
    head = read(_OFFSET, _BYTES)
    if len(head) < _BYTES or head[0x38:0x3A] != _MAGIC:
        return None
    compat, _ = named(little(head, 0x5C, 4), _COMPAT, "compat")
    incompat, unknown = named(little(head, 0x60, 4), _INCOMPAT, "incompat")
    ro_compat, unknown_ro = named(little(head, 0x64, 4), _RO_COMPAT, "ro_compat")
    features = compat | incompat | ro_compat
    return Filesystem(
        type="ext4",
        uuid=superblock.format_uuid(head[0x68:0x78]),
        # ext4_fill_super() takes crc32c whether there are sums or not.
        requests=tuple(sorted({*kernel_crypto.requests("crc32c"), *feature_requests(features)})),
        features=tuple(sorted(features)),
        unknown=unknown + unknown_ro,
        external=_journal(head, features),
        is_mountable="journal_dev" not in incompat,
    )


def _journal(head: bytes, features: set[str]) -> tuple[External, ...]:
    """Return the device of the journal, if it is not inside."""
    inode = little(head, 0xE0, 4)
    if "has_journal" not in features or "journal_dev" in features or inode:
        return ()
    uuid, number = head[0xD0:0xE0], little(head, 0xE4, 4)
    return (
        External(
            role="journal",
            uuid=superblock.format_uuid(uuid) if any(uuid) else "",
            number=device_number.decode(number) if number else "",
            option="journal_path",
        ),
    )
