"""Saved dumps: finds them by their record and reads it. The layout is a promise: see docs/ARCHITECTURE.md."""

import logging
import os
import re
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from kdump_initramfs import regular
from kdump_initramfs.errors import HostError, KdumpError

logger = logging.getLogger(__name__)

RECORD = "dump.json"
DMESG = "vmcore-dmesg.txt"
LOG = "kexec-dmesg.log"
PLAIN_VMCORES = ("vmcore", "vmcore.zst", "vmcore.gz", "vmcore.flat", "vmcore.flat.zst")
# What was encrypted on the way (vmcore.encrypt_to).
SEALED = ".age"
VMCORES = (*PLAIN_VMCORES, *(f"{name}{SEALED}" for name in PLAIN_VMCORES))

# HOST-YYYYMMDDTHHMMSSZ[-N], as the capture environment makes them.
_NAME = re.compile(r"[A-Za-z0-9._-]+-[0-9]{8}T[0-9]{6}Z(-[0-9]{1,3})?")
_MAX_RECORD_BYTES = 1 << 20


class SavedFile(Struct, frozen=True, kw_only=True):
    bytes: int
    sha256: str


class CrashedKernel(Struct, frozen=True, kw_only=True):
    release: str
    build_id: str = ""


class SavedTo(Struct, frozen=True, kw_only=True):
    name: str
    kind: str
    filesystem_uuid: str = ""


class Collector(Struct, frozen=True, kw_only=True):
    # "" where none succeeded.
    name: str
    arguments: str = ""


class Step(Struct, frozen=True, kw_only=True):
    name: str
    # Exit status: 0 done, 77 nothing to do.
    status: int
    # Since the start of the capture kernel.
    started_s: float
    seconds: float


class DumpRecord(Struct, frozen=True, kw_only=True):
    """dump.json, as hooks/80-record.sh writes it."""

    schema: int
    # Whether what was to be saved was saved; the log may be there where the vmcore is not.
    complete: bool
    host: str
    kernel: CrashedKernel
    # ISO 8601 in UTC, or "" where the crashed kernel did not say.
    crash_time: str
    panic: str
    target: SavedTo
    collector: Collector
    files: dict[str, SavedFile]
    steps: tuple[Step, ...] = ()
    warnings: tuple[str, ...] = ()
    # What the capture kernel asked modprobe for that it has a module for, and that is not in the image.
    kernel_requests: tuple[str, ...] = ()
    # Least memory that was available in the capture kernel.
    memory_low_kib: int = 0
    manifest_digest: str = ""


class Dump(Struct, frozen=True, kw_only=True):
    """One directory of a saved dump; `record` is None where the capture did not come so far."""

    name: str
    path: str
    record: DumpRecord | None
    # Files that a capture left unfinished.
    incomplete: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        return self.record is not None and self.record.complete

    @property
    def size_bytes(self) -> int:
        return sum(entry.stat().st_size for entry in os.scandir(self.path) if entry.is_file(follow_symlinks=False))


def is_name(name: str) -> bool:
    """Whether a directory of this name is a dump."""
    return _NAME.fullmatch(name) is not None


def find(directories: Iterable[str]) -> tuple[Dump, ...]:
    """Return the dumps in these directories, oldest first; a directory that is not there holds none."""
    found = [dump for directory in dict.fromkeys(directories) for dump in _find_in(directory)]
    return tuple(sorted(found, key=_age))


def _find_in(directory: str) -> Iterator[Dump]:
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(directory, error) from error
    for name in names:
        path = os.path.join(directory, name)
        if is_name(name) and os.path.isdir(path) and not os.path.islink(path):
            yield read(path)


def _unreadable(path: str, error: OSError) -> HostError:
    hidden = isinstance(error, PermissionError)
    hint = "dumps are root's alone: run as root" if hidden else "name a directory with dumps in it"
    return HostError(f"{path}: {error.strerror}", hint=hint)


def _age(dump: Dump) -> tuple[str, int, str]:
    match = re.search(r"([0-9]{8}T[0-9]{6}Z)(?:-([0-9]+))?$", dump.name)
    return (match[1], int(match[2] or 0), dump.name) if match else ("", 0, dump.name)


def read(path: str) -> Dump:
    """Return the dump in one directory."""
    try:
        names = sorted(os.listdir(path))
        record = _read_record(os.path.join(path, RECORD)) if RECORD in names else None
    except OSError as error:
        raise _unreadable(path, error) from error
    unfinished = tuple(name for name in names if name.endswith("-incomplete"))
    return Dump(name=os.path.basename(path.rstrip("/")), path=path, record=record, incomplete=unfinished)


def _read_record(path: str) -> DumpRecord | None:
    """Return the record, or None where it is damaged: the dump may be good all the same."""
    try:
        with open(path, "rb", opener=regular.opener) as stream:
            return msgspec.json.decode(stream.read(_MAX_RECORD_BYTES), type=DumpRecord)
    except PermissionError:
        raise
    except (OSError, msgspec.DecodeError) as error:
        logger.warning("%s: %s; the dump may be good all the same: look at its vmcore", path, error)
        return None


def choose(dumps: Iterable[Dump], name: str) -> Dump:
    """Return the dump of that name; with "", the newest."""
    every = tuple(dumps)
    if not every:
        raise KdumpError("no dumps", hint="kdump-initramfs status tells whether the machine is armed")
    if not name:
        return every[-1]
    for dump in every:
        if dump.name == name:
            return dump
    raise KdumpError(f"{name}: no such dump", hint=f"there are: {', '.join(dump.name for dump in every)}")


def tail(dump: Dump, lines: int) -> tuple[str, ...]:
    """Return the last lines of the crashed kernel's log; nothing where it was not saved."""
    path = os.path.join(dump.path, DMESG)
    if not os.path.exists(path):
        return ()
    with open(path, encoding="utf-8", errors="replace", opener=regular.opener) as stream:
        return tuple(stream.read().splitlines()[-lines:] if lines > 0 else ())
