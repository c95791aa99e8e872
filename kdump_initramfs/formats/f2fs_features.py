"""The superblock of f2fs: the devices that it was made on, and its features.

Sources, of the kernel: struct f2fs_super_block and struct f2fs_device of include/linux/f2fs_fs.h, F2FS_FEATURE_* of
fs/f2fs/f2fs.h; f2fs_scan_devices(), f2fs_setup_casefold() and f2fs_fill_super() of fs/f2fs/super.c. The kernel opens
the devices by the paths that mkfs.f2fs(8) was told: nothing else finds them, and no mount option names others.
"""

from kdump_initramfs.formats import kernel_crypto, superblock
from kdump_initramfs.formats.filesystem import External, Filesystem, Reader, feature_requests, little, named

_OFFSET = 1024
_BYTES = 3072
_MAGIC = b"\x10\x20\xf5\xf2"

_FEATURES = {
    0: "encrypt",
    1: "blkzoned",
    2: "atomic_write",
    3: "extra_attr",
    4: "project_quota",
    5: "inode_checksum",
    6: "flexible_inline_xattr",
    7: "quota",
    8: "inode_crtime",
    9: "lost_found",
    10: "verity",
    11: "sb_checksum",
    12: "casefold",
    13: "compression",
    14: "ro",
    15: "device_alias",
}
_FEATURE_OFFSET = 2180
_DEVICES_OFFSET = 2201
_MAX_DEVICES = 8
_PATH_BYTES = 64
_DEVICE_BYTES = _PATH_BYTES + 4


def parse(read: Reader) -> Filesystem | None:
    """Return what the superblock says; None where there is none."""
    head = read(_OFFSET, _BYTES)
    if len(head) < _BYTES or not head.startswith(_MAGIC):
        return None
    features, unknown = named(little(head, _FEATURE_OFFSET, 4), _FEATURES, "feature")
    paths = _paths(head)
    return Filesystem(
        type="f2fs",
        uuid=superblock.format_uuid(head[108:124]),
        requests=tuple(sorted({*kernel_crypto.requests("crc32"), *feature_requests(features)})),
        features=tuple(sorted(features)),
        unknown=unknown,
        # The first is the device that is mounted.
        external=tuple(External(role="member", path=path) for path in paths[1:]),
        devices=max(1, len(paths)),
    )


def _paths(head: bytes) -> list[str]:
    starts = range(_DEVICES_OFFSET, _DEVICES_OFFSET + _MAX_DEVICES * _DEVICE_BYTES, _DEVICE_BYTES)
    raw = (head[start : start + _PATH_BYTES].split(b"\0")[0] for start in starts)
    return [path.decode("utf-8", "surrogateescape") for path in raw if path]
