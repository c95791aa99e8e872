"""The file systems whose superblocks are understood, by type."""

from collections.abc import Callable, Mapping

from kdump_initramfs.formats import btrfs_features, ext4_features, f2fs_features, xfs_features
from kdump_initramfs.formats.filesystem import Filesystem, Reader

_PARSERS: Mapping[str, Callable[[Reader], Filesystem | None]] = {
    "ext2": ext4_features.parse,
    "ext3": ext4_features.parse,
    "ext4": ext4_features.parse,
    "jbd": ext4_features.parse,
    "xfs": xfs_features.parse,
    "btrfs": btrfs_features.parse,
    "f2fs": f2fs_features.parse,
}
TYPES = frozenset(_PARSERS)


def parse(fs_type: str, read: Reader) -> Filesystem | None:
    """Return what the superblock of a device says; None where it is none of that type, or that is not in TYPES."""
    parser = _PARSERS.get(fs_type)
    return parser(read) if parser else None
