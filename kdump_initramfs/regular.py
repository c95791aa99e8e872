"""Files that are files: what is named like one and is a pipe or a device is not waited for.

To open a named pipe takes a writer, for which open(2) waits without end; what a device gives may have no end.
"""

import errno
import os
import stat

# A link to it masks a file (modprobe.d(5), systemd.unit(5)).
_NULL = os.makedev(1, 3)


def opener(path: str, flags: int) -> int:
    """Open as os.open does, for open(…, opener=opener); OSError for what is no file and no /dev/null."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    # Of a directory open() itself says that it is one.
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or status.st_rdev == _NULL:
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "Not a regular file", path)
