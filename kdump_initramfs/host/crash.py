"""What the running kernel tells of its capture kernel: /sys/kernel/kexec_crash_*, since Linux 6.19 /sys/kernel/kexec/*.

Documentation/ABI/testing/sysfs-kernel-kexec-kdump and obsolete/sysfs-kernel-kexec-kdump, and for hot plugging
Documentation/ABI/testing/sysfs-devices-system-cpu and sysfs-devices-memory.
"""

from kdump_initramfs.host.root import Root

_KINDS = ("cpu", "memory")


def reserved_bytes(root: Root) -> int:
    """Return how much memory is set aside for the capture kernel."""
    return _number(root, "crash_size")


def elfcorehdr_bytes(root: Root) -> int:
    """Return how much of it the description of the crashed kernel's memory takes; 0 where the kernel does not tell.

    A kernel that follows hot plugging tells (CONFIG_CRASH_HOTPLUG): it keeps room for memory that may come.
    """
    return _number(root, "crash_elfcorehdr_size")


def is_loaded(root: Root) -> bool:
    return _read(root, "crash_loaded") == "1"


def followed_hotplug(root: Root) -> tuple[str, ...]:
    """Return of which hot plugging, of cpu and memory, the kernel tells the capture kernel by itself.

    It answers for what is loaded now. Without it what is loaded does not know new memory, and must be loaded again.
    """
    return tuple(kind for kind in _KINDS if root.read_word(f"/sys/devices/system/{kind}/crash_hotplug") == "1")


def _number(root: Root, name: str) -> int:
    text = _read(root, name)
    return int(text) if text.isdecimal() else 0


def _read(root: Root, name: str) -> str:
    # The size of the description alone has no "kexec_" in its first place.
    first = name if name == "crash_elfcorehdr_size" else f"kexec_{name}"
    return root.read_word(f"/sys/kernel/{first}") or root.read_word(f"/sys/kernel/kexec/{name}")
