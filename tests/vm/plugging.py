"""Banks of memory that a guest gets while it runs, and where they are in its dump; see scripts/plugging.sh."""

import struct
from pathlib import Path
from typing import Any

from tests.vm.debian import Report
from tests.vm.storage import SCRIPTS, tell_monitor

# For the kernel's command line, and among the files of the script.
APPEND = "memhp_default_state=online"
FILES = {"plugging.sh": (SCRIPTS / "plugging.sh").read_text()}
# A file of the report: the first 4096 bytes of the vmcore.
HEAD = "head"
BANK_BYTES = 256 << 20

_BANKS = 2
_PAGE_BYTES = 4096
# What is plugged in gets its place above all that QEMU has below 4 GiB.
_FIRST_PLUGGED_PAGE = (4 << 30) // _PAGE_BYTES
# max_mapnr of struct disk_dump_header, makedumpfile's diskdump_mod.h, on 64-bit machines.
_MAX_MAPNR_AT = 440


class Slots:
    """Slots of a machine, for Hardware; a bank comes into one when the guest asks for it on its console."""

    def __init__(self, directory: Path) -> None:
        self._monitor = str(directory / "monitor")
        self.words = ("-m", f"slots={_BANKS},maxmem=4G", "-qmp", f"unix:{self._monitor},server=on,wait=off")

    def hear(self, line: str) -> None:
        asked, _, number = line.strip().partition("hotplug: plug ")
        # What the shell shows of its own commands is none.
        if asked == "" and number.isdecimal():
            backend: dict[str, Any] = {"qom-type": "memory-backend-ram", "id": f"memory{number}", "size": BANK_BYTES}
            tell_monitor(self._monitor, "object-add", **backend)
            tell_monitor(self._monitor, "device_add", driver="pc-dimm", id=f"dimm{number}", memdev=f"memory{number}")


def bytes_in_dump(report: Report) -> int:
    """Return how far the dump goes beyond the place of the first bank."""
    (max_mapnr,) = struct.unpack_from("<I", report.files[HEAD], _MAX_MAPNR_AT)
    return int(max_mapnr - _FIRST_PLUGGED_PAGE) * _PAGE_BYTES
