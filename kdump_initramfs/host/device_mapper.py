"""Tables of device-mapper, as the running kernel has them (dmsetup(8) table, without dmsetup)."""

import fcntl
import os
import stat
import struct

from kdump_initramfs.formats import dm_table
from kdump_initramfs.host.root import Root

_CONTROL = "/dev/mapper/control"
# _IOWR(DM_IOCTL, DM_TABLE_STATUS_CMD, struct dm_ioctl) of include/uapi/linux/dm-ioctl.h.
_TABLE_STATUS = 3 << 30 | dm_table.HEAD_BYTES << 16 | 0xFD << 8 | 12
_INTERFACE = (4, 0, 0)
_FIRST_BYTES = 16 << 10
_MOST_BYTES = 16 << 20


def table(root: Root, number: str) -> tuple[dm_table.Target, ...]:
    """Return the table of the device "major:minor"; nothing where it may not be read, or the root is not running."""
    path = root.host(_CONTROL)
    try:
        if not stat.S_ISCHR(os.stat(path).st_mode):
            return ()
        with open(path, "r+b", buffering=0) as control:
            return _ask(control.fileno(), number)
    except OSError:
        return ()


def _ask(control: int, number: str) -> tuple[dm_table.Target, ...]:
    size = _FIRST_BYTES
    while size <= _MOST_BYTES:
        buffer = bytearray(_request(number, size))
        fcntl.ioctl(control, _TABLE_STATUS, buffer)
        if (found := dm_table.parse_ioctl(bytes(buffer))) is not None:
            return found.targets
        size *= 4
    return ()


def _request(number: str, size: int) -> bytes:
    """Return a struct dm_ioctl that asks for the table of a device, in a buffer of `size` bytes."""
    major, minor = (int(part) for part in number.split(":"))
    # huge_encode_dev() of include/linux/kdev_t.h.
    device = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
    head = struct.pack("<3IIIIiIIIQ", *_INTERFACE, size, dm_table.HEAD_BYTES, 0, 0, dm_table.STATUS_TABLE, 0, 0, device)
    return head.ljust(size, b"\0")
