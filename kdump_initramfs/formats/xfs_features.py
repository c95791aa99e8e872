"""The superblock of XFS: whether its log and its realtime part are on devices of their own.

Sources, of the kernel: struct xfs_dsb and XFS_SB_* of fs/xfs/libxfs/xfs_format.h; xfs_open_devices() of
fs/xfs/xfs_super.c. No superblock names those devices: the mount options logdev= and rtdev= do (xfs(5)).
"""

from kdump_initramfs.formats import kernel_crypto, superblock
from kdump_initramfs.formats.filesystem import External, Filesystem, Reader, big, named

_BYTES = 512
_MAGIC = b"XFSB"

# sb_features_incompat.
_INCOMPAT = {
    0: "ftype",
    1: "sparse",
    2: "meta_uuid",
    3: "bigtime",
    4: "needsrepair",
    5: "nrext64",
    6: "exchange",
    7: "parent",
    8: "metadir",
    9: "zoned",
    10: "zone_gaps",
}
_RO_COMPAT = {0: "finobt", 1: "rmapbt", 2: "reflink", 3: "inobtcount"}
_ZONED = "zoned"


def parse(read: Reader) -> Filesystem | None:
    """Return what the superblock says; None where there is none."""
    head = read(0, _BYTES)
    if len(head) < _BYTES or not head.startswith(_MAGIC):
        return None
    features, unknown = _features(head)
    external = _external(head, features)
    return Filesystem(
        type="xfs",
        uuid=superblock.format_uuid(head[32:48]),
        # libcrc32c, below xfs.ko, asks for it whatever the version (lib/libcrc32c.c).
        requests=kernel_crypto.requests("crc32c"),
        features=tuple(sorted(features)),
        unknown=unknown,
        external=external,
        devices=1 + len(external),
    )


def _features(head: bytes) -> tuple[set[str], tuple[str, ...]]:
    version = big(head, 100, 2)
    bits = {"ascii-ci"} if version & 0x4000 else set()
    if version & 0xF != 5:
        return bits | {f"v{version & 0xF}"}, ()
    incompat, unknown = named(big(head, 216, 4), _INCOMPAT, "incompat")
    ro_compat, unknown_ro = named(big(head, 212, 4), _RO_COMPAT, "ro_compat")
    return bits | {"v5", "crc"} | incompat | ro_compat, unknown + unknown_ro


def _external(head: bytes, features: set[str]) -> tuple[External, ...]:
    # sb_logstart: the first block of the log that is inside; sb_rblocks: blocks of the realtime part.
    found = []
    if not big(head, 48, 8):
        found.append(External(role="log", option="logdev"))
    # sb_rtstart: where it is inside, of the zoned ones.
    inside = _ZONED in features and big(head, 288, 8)
    if big(head, 16, 8) and not inside:
        found.append(External(role="realtime", option="rtdev"))
    return tuple(found)
