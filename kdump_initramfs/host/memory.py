"""What the machine says of its memory: /proc/meminfo, format in proc(5)."""

import re
from collections.abc import Mapping

from kdump_initramfs.host.root import Root

_LINE = re.compile(r"^(\S+):\s+(\d+) kB$", re.MULTILINE)


def read(root: Root) -> Mapping[str, int]:
    """Return the sizes of /proc/meminfo in bytes, by their names; none where the machine is not running."""
    text = root.read_text("/proc/meminfo") or ""
    return {name: int(kib) << 10 for name, kib in _LINE.findall(text)}
