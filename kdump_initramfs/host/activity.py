"""Who would miss this machine if it went down now: people at terminals, and programs that write."""

import os
from collections.abc import Iterator, Mapping

from msgspec import Struct

from kdump_initramfs.errors import HostError
from kdump_initramfs.host.root import Root

# What waits on a terminal for somebody to come.
_GETTIES = frozenset({"agetty", "getty", "mingetty", "mgetty", "login"})
_PTS_MAJORS = range(136, 144)  # UNIX98_PTY_SLAVE_MAJOR, include/uapi/linux/major.h


class Process(Struct, frozen=True, kw_only=True):
    pid: int
    name: str
    parent: int
    # Device number of the controlling terminal; 0: none.
    terminal: int
    # What it has had written to disks since it began.
    written_bytes: int


def processes(root: Root) -> Mapping[int, Process]:
    """Return what runs now, by its number: /proc/PID/stat and /proc/PID/io, proc(5)."""
    found = (_process(root, int(name)) for name in root.list("/proc") if name.isdecimal())
    return {each.pid: each for each in found if each is not None}


def _process(root: Root, pid: int) -> Process | None:
    try:
        stat = root.read_text(f"/proc/{pid}/stat")
        counters = root.read_text(f"/proc/{pid}/io") or ""
    except HostError:  # it has ended in between
        return None
    if not stat:
        return None
    # The name may hold spaces and parentheses.
    name, _, rest = stat.partition("(")[2].rpartition(") ")
    fields = rest.split()
    written = dict(line.split(": ", 1) for line in counters.splitlines() if ": " in line).get("write_bytes", "0")
    return Process(pid=pid, name=name, parent=int(fields[1]), terminal=int(fields[4]), written_bytes=int(written))


def at_terminals(running: Mapping[int, Process], own: int) -> Iterator[str]:
    """Yield each terminal with the program on it, but for those on which the process `own` was started."""
    ours = {each.terminal for each in _ancestry(running, own)}
    others: dict[int, str] = {}
    for each in running.values():
        if each.terminal and each.terminal not in ours and each.name not in _GETTIES:
            others.setdefault(each.terminal, each.name)
    for terminal, name in others.items():
        yield f"{_terminal_name(terminal)}: {name}"


def _ancestry(running: Mapping[int, Process], pid: int) -> Iterator[Process]:
    seen: set[int] = set()
    while pid in running and pid not in seen:
        seen.add(pid)
        yield running[pid]
        pid = running[pid].parent


def _terminal_name(number: int) -> str:
    # As the kernel packs them for userspace: new_encode_dev(), include/linux/kdev_t.h.
    major, minor = os.major(number), os.minor(number)
    if major in _PTS_MAJORS:
        return f"pts/{minor + 256 * (major - _PTS_MAJORS.start)}"
    return f"tty{minor}" if major == 4 else f"terminal {major}:{minor}"


def writers(before: Mapping[int, Process], after: Mapping[int, Process], least_bytes: int) -> Iterator[str]:
    """Yield each process that had at least so many bytes written between the two, and how many."""
    for pid, now in after.items():
        was = before[pid].written_bytes if pid in before else 0
        if now.written_bytes - was >= least_bytes:
            yield f"{now.name} ({pid}): {(now.written_bytes - was) >> 10} KiB"
