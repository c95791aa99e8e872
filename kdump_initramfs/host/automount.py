"""Idle automounts: autofs (autofs(5), systemd.automount(5)) mounts its file system on the first access.

stat(2) of the mount point itself does not do that (AT_NO_AUTOMOUNT is its default), a path that goes on does.
"""

import os
import signal
import time

from kdump_initramfs.errors import HostError
from kdump_initramfs.host import mounts
from kdump_initramfs.host.root import Root

# An idle disk spins up; a server that is away, or a device that systemd still waits for, is not waited for.
WAKE_S = 20
# Of the kernel and of systemd, never of a dump target: /proc/sys/fs/binfmt_misc is idle on nearly every machine.
_PASSED_OVER = ("/proc/", "/sys/", "/dev/")


def awake(root: Root, mounted: tuple[mounts.Mount, ...], path: str, wait_s: float = WAKE_S) -> tuple[mounts.Mount, ...]:
    """Return the mounts once all automounts on the way to `path` have mounted what they should.

    Of a root that is not that of this process there is nothing to open; what is idle there is told by directory.py.
    """
    if root.directory != "/" or not any(_is_idle(mounted, mount) for mount in mounted):
        return mounted
    if not _opens(f"{path}/.", wait_s):
        raise HostError(
            f"{path}: an automount on the way to it has mounted nothing within {wait_s:g} s",
            hint="mount its file system by hand (its unit or map may say what is wrong), or name another target",
        )
    return mounts.read(root)


def _is_idle(mounted: tuple[mounts.Mount, ...], mount: mounts.Mount) -> bool:
    """Whether nothing is mounted on this autofs; one of an indirect map has its mounts below."""
    if mount.fs_type != "autofs" or mount.mount_point.startswith(_PASSED_OVER):
        return False
    return not any(other.parent == mount.id and other.mount_point == mount.mount_point for other in mounted)


def _opens(path: str, wait_s: float) -> bool:
    """Walk to `path` in a child, which may hang; return whether it came back in time, whatever it has found."""
    child = os.fork()
    if child == 0:
        try:
            os.stat(path)
        finally:
            os._exit(0)
    until = time.monotonic() + wait_s
    while not _has_ended(child):
        if time.monotonic() >= until:
            # Waiting for autofs and for NFS is killable; whoever hangs deeper is left to process 1.
            os.kill(child, signal.SIGKILL)
            time.sleep(0.1)
            _has_ended(child)
            return False
        time.sleep(0.002)
    return True


def _has_ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG)[0] == child
