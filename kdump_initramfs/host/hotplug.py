"""The memory and the processors that can come and go: /sys/devices/system/{memory,cpu}.

The core header of a capture kernel lists those that were there when it was loaded.
Documentation/ABI/testing/sysfs-devices-memory and sysfs-devices-system-cpu.
"""

import re

from msgspec import Struct

from kdump_initramfs.host.root import Root

_BLOCK = re.compile(r"memory\d+")


class Present(Struct, frozen=True, kw_only=True):
    # Blocks of memory, each as large as block_size_bytes says; 0 where memory cannot be plugged.
    memory_blocks: int = 0
    # A list of ranges, as "0-3"; "" where the kernel does not tell.
    cpus: str = ""


def present(root: Root) -> Present:
    """Return what is plugged in now."""
    blocks = sum(1 for name in root.list("/sys/devices/system/memory") if _BLOCK.fullmatch(name))
    return Present(memory_blocks=blocks, cpus=root.read_word("/sys/devices/system/cpu/present"))
