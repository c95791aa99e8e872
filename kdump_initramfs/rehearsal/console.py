"""What a guest says on its console: kept in a file, handed on line by line, bounded whatever the guest does."""

import re
from collections.abc import Callable, Iterable
from typing import IO

# A boot, a crash and a capture with every message on make less than 1 MiB; a guest that never stops talking must not
# fill the disk, and a line that never ends must not fill the memory (it is handed on in pieces).
_MAX_LOG_BYTES = 32 << 20
_MAX_LINE_BYTES = 4096

OnLine = Callable[[str], None]

# What templates/modprobe.sh says; a name may have commas and brackets.
_find_request = re.compile(r"kdump: .*the kernel asked for (?P<name>.+), which is not in this image").search


def missing_request(line: str) -> str:
    """Return what the capture kernel has asked for in vain, where a line says so; else ""."""
    match = _find_request(line)
    return match["name"] if match else ""


def named(requests: Iterable[str]) -> tuple[str, ...]:
    """Return for each of these a line for a person."""
    return tuple(f"the kernel asked for {name}, which is not in the image" for name in requests)


class Console:
    def __init__(self, log: IO[bytes], on_line: OnLine | None) -> None:
        self.received_bytes = 0
        self._log = log
        self._on_line = on_line
        self._rest = b""

    def feed(self, data: bytes) -> None:
        if self.received_bytes < _MAX_LOG_BYTES:
            self._log.write(data)
            self._log.flush()
        self.received_bytes += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._hand_on(line)
        if len(self._rest) > _MAX_LINE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand on a line that has no end yet, if there is one."""
        if self._rest:
            self._hand_on(self._rest)
        self._rest = b""

    def _hand_on(self, line: bytes) -> None:
        if self._on_line:
            self._on_line(line.decode(errors="replace").rstrip("\r"))
