"""Hardware watchdogs that are active: after a crash nobody feeds them, and they reset the machine amid its dump."""

from kdump_initramfs.host import hardware
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import Watchdog

_CLASS = "/sys/class/watchdog"


def read(root: Root) -> tuple[Watchdog, ...]:
    """Return the active ones (Documentation/ABI/testing/sysfs-class-watchdog)."""
    found = []
    for name in root.list(_CLASS):
        directory = f"{_CLASS}/{name}"
        if root.read_word(f"{directory}/state") == "active":
            driven = hardware.read_drivers(root, f"{directory}/device")
            identity = root.read_word(f"{directory}/identity")
            found.append(Watchdog(identity=identity, drivers=driven.drivers, modaliases=driven.modaliases))
    return tuple(found)
