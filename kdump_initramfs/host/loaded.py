"""Modules that the running kernel has loaded and uses, for an image of that kernel."""

from kdump_initramfs.formats import proc_modules
from kdump_initramfs.formats.proc_modules import LoadedModule
from kdump_initramfs.host.root import Root

_OSRELEASE = "/proc/sys/kernel/osrelease"


def read(root: Root, release: str) -> tuple[LoadedModule, ...]:
    """Return the modules in use; none where another kernel runs than the one of that release."""
    if root.read_word(_OSRELEASE) != release:
        return ()
    return proc_modules.parse(root.read_text("/proc/modules") or "", root.read_text("/proc/crypto") or "")
