"""Whether the dump will have a place: drivers, room, inodes, a mount that can be written to, and a sane retention."""

import os
from collections.abc import Collection, Iterator, Mapping
from typing import assert_never

from msgspec import Struct

from kdump_initramfs.check.finding import Finding, State
from kdump_initramfs.config import RetentionSection, size_bytes
from kdump_initramfs.errors import HostError
from kdump_initramfs.host import mounts
from kdump_initramfs.host.root import Root
from kdump_initramfs.storage import DeviceTarget, DirectoryTarget, ShareTarget, TargetFacts, drivers_of

_MIB = 1 << 20
# What a dump leaves free (docs/CONFIGURATION.md, Room).
_RESERVE_BYTES = 64 * _MIB
# A dump is a directory and some files.
_INODES = 16
# Less than this is no room for any vmcore.
_LEAST_BYTES = 16 * _MIB
# makedumpfile(8), -d: what a bit of the dump level leaves out, by the names of /proc/meminfo.
_LEFT_OUT = {2: "Cached", 8: "AnonPages", 16: "MemFree"}


class Room(Struct, frozen=True, kw_only=True):
    total_bytes: int
    free_bytes: int
    # 0 where the file system makes inodes as it needs them.
    total_inodes: int
    free_inodes: int
    is_read_only: bool


def dump_bytes(memory: Mapping[str, int], dump_level: int, collector: str) -> int:
    """Return how large a vmcore may become now, uncompressed; 0 where the machine does not tell its memory."""
    total = memory.get("MemTotal", 0)
    if collector == "copy":
        return total
    left_out = sum(memory.get(name, 0) for bit, name in _LEFT_OUT.items() if dump_level & bit)
    return max(total - left_out, total // 20)


def room(root: Root, path: str) -> Room:
    """Return what the file system of a directory has; OSError where it does not tell."""
    found = os.statvfs(root.host(path))
    holder = mounts.holder(mounts.read(root), root.resolve(path)) if mounts.are_known(root) else None
    return Room(
        total_bytes=found.f_blocks * found.f_frsize,
        free_bytes=found.f_bavail * found.f_frsize,
        total_inodes=found.f_files,
        free_inodes=found.f_favail,
        is_read_only="ro" in holder.options if holder else False,
    )


def drivers(facts: TargetFacts, known: Collection[str]) -> Iterator[Finding]:
    """Yield whether the kernel to capture with has the drivers of the stack, as modules or built in."""
    wanted = dict.fromkeys(driver.replace("-", "_") for driver in drivers_of(facts))
    wanted |= dict.fromkeys(_modules_of(facts))
    missing = [driver for driver in wanted if driver not in known]
    yield Finding(
        name=f"drivers of {facts.name}",
        state=State.BROKEN if missing else State.OK,
        seen=f"the kernel has no {', '.join(missing)}" if missing else ", ".join(wanted) or "none",
        why="the capture kernel reaches its target by them",
        remedy="capture with the kernel that runs now, or install the modules of this one" if missing else "",
    )


def _modules_of(facts: TargetFacts) -> tuple[str, ...]:
    """Return the module of a file system: ext2 and ext3 are mounted by ext4 nearly everywhere."""
    match facts:
        case DirectoryTarget():
            fs_type = facts.filesystem.type
            return ("ext4" if fs_type in ("ext2", "ext3") else fs_type,)
        case ShareTarget():
            return (facts.fs_type,)
        case DeviceTarget():
            return ()
        case _:
            assert_never(facts)


def space(name: str, found: Room, expected_bytes: int) -> Iterator[Finding]:
    """Yield what is to be said of the room of a target, for a vmcore of `expected_bytes`."""
    usable = max(found.free_bytes - max(_RESERVE_BYTES, found.total_bytes // 100), 0)
    large_enough = usable >= max(expected_bytes, _LEAST_BYTES)
    yield Finding(
        name=f"room on {name}",
        state=State.OK if large_enough else State.WEAK if usable >= _LEAST_BYTES else State.BROKEN,
        seen=f"{usable // _MIB} MiB may be used; a vmcore may take {expected_bytes // _MIB} MiB uncompressed",
        why="what does not fit is tried once more with all left out that can be, and then only the log is saved",
        remedy="" if large_enough else f"free space on {name}, or name a larger target; see retention.min_free",
    )
    few = bool(found.total_inodes) and found.free_inodes < _INODES
    yield Finding(
        name=f"inodes on {name}",
        state=State.BROKEN if few else State.OK,
        seen=str(found.free_inodes) if found.total_inodes else "as many as needed",
        why="a dump is a directory with some files",
        remedy=f"remove files on {name}" if few else "",
    )
    yield Finding(
        name=f"mount of {name}",
        state=State.WEAK if found.is_read_only else State.OK,
        seen="read-only" if found.is_read_only else "read-write",
        why="the capture kernel mounts it for writing; that it is read-only now may be the answer to an error on it",
        remedy="look into the kernel's log, and mount it read-write" if found.is_read_only else "",
    )


def no_room(name: str, error: OSError | HostError) -> Finding:
    return Finding(
        name=f"room on {name}", state=State.UNKNOWN, seen=str(error), why="a dump needs room", remedy="run as root"
    )


def not_mounted(name: str) -> Finding:
    """Return what is to be said of a device that need not be mounted: its room shows after the crash."""
    return Finding(
        name=f"room on {name}", state=State.UNKNOWN, seen="it is not mounted", why="a dump needs room", remedy=""
    )


def raw_size(facts: DeviceTarget, expected_bytes: int) -> Finding:
    size = facts.device.size_bytes
    return Finding(
        name=f"room on {facts.name}",
        state=State.OK if size >= expected_bytes else State.WEAK,
        seen=f"{size // _MIB} MiB; a vmcore may take {expected_bytes // _MIB} MiB uncompressed",
        why="what does not fit is tried once more with all left out that can be",
        remedy="" if size >= expected_bytes else "name a larger partition",
    )


def retention(section: RetentionSection, expected_bytes: int, free_bytes: int) -> Finding:
    """Return whether old dumps leave room for new ones, and a new one for itself."""
    limit = size_bytes(section.max_bytes)
    seen = f"keep {section.keep}, max_bytes {section.max_bytes}, min_free {section.min_free}"
    why = "dumps of a machine that crashes again and again fill the disk; then the newest is the one that is not saved"
    if limit and limit < expected_bytes:
        return Finding(
            name="retention",
            state=State.WEAK,
            seen=f"{seen}: less than one vmcore may take",
            why=why,
            remedy=f"set retention.max_bytes to {expected_bytes // _MIB * 2}M or more",
        )
    unlimited = not (section.keep or limit or size_bytes(section.min_free))
    tight = unlimited and free_bytes < 3 * expected_bytes
    return Finding(
        name="retention",
        state=State.WEAK if tight else State.OK,
        seen=f"{seen}{': there is room for less than three dumps' if tight else ''}",
        why=why,
        remedy="set retention.keep = 2 in /etc/kdump-initramfs/config.toml" if tight else "",
    )
