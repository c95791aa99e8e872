"""What a cut of the power leaves on a disk: made from the log of all writes to it, which QEMU's blklogwrites keeps.

The log has the format of dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst): a superblock, then
entries, each a sector that describes it and the data. QEMU logs a request when the device has done it. This module is
run by guests too, and imports nothing but the standard library.

usage: powercut.py BASE LOG AFTER SEED DISK: makes the disk of one cut.
"""

import errno
import hashlib
import os
import random
import re
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# struct log_write_super and struct log_write_entry, drivers/md/dm-log-writes.c.
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_MAGIC = 0x6A736677736872
_VERSION = 1
_FLUSH = 1

# In what LVM writes of a volume group: the number of its last change. It is near the beginning of the disk.
_SEQNO = re.compile(rb"\nseqno = ([0-9]+)\n")
_METADATA_BYTES = 64 << 20

# A disk may have written a part of a request; the parts that it loses are of this size.
_PIECE = 4096


class Entry(NamedTuple):
    """A write, or a flush (which has no data)."""

    is_flush: bool
    # Where the data is on the disk, and in the log.
    offset: int
    log_offset: int
    length: int

    @property
    def log_end(self) -> int:
        return self.log_offset + self.length


class Cut(NamedTuple):
    """The power goes after the first `after` entries.

    With seed 0 the disk has written all of them, in order. Otherwise it has lost some of those behind the last flush:
    whole requests where the seed is odd, pieces of requests where it is even.
    """

    after: int
    seed: int


class Log:
    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        magic, version, self._count, self._sector = _SUPER.unpack_from(self._content)
        if (magic, version) != (_MAGIC, _VERSION):
            raise ValueError(f"{path}: not a log of writes: {magic:#x}, version {version}")
        self.entries = tuple(self._read_entries())

    def _read_entries(self) -> Iterator[Entry]:
        """Yield the entries up to the last flush, to which the superblock counts."""
        position = self._sector
        for _ in range(self._count):
            sector, sectors, flags, _ = _ENTRY.unpack_from(self._content, position)
            # QEMU knows writes, flushes and discards; the disk that is recorded takes no discards.
            if flags not in (0, _FLUSH):
                raise ValueError(f"log of writes: entry at {position} has flags {flags:#x}")
            entry = Entry(flags == _FLUSH, sector * self._sector, position + self._sector, sectors * self._sector)
            position = entry.log_end
            yield entry

    def data(self, entry: Entry) -> bytes:
        return self._content[entry.log_offset : entry.log_end]

    def flushed(self, count: int) -> int:
        """Return how many of the first `count` entries are behind a flush."""
        return next((number + 1 for number in reversed(range(count)) if self.entries[number].is_flush), 0)

    def cuts(self, every: int, seeds: int) -> Iterator[Cut]:
        """Yield cuts around each flush and after each `every`th entry; `seeds` of each kind with losses."""
        last = len(self.entries)
        for count in range(last + 1):
            # Nothing is on its way behind a flush, and all of it before one.
            around = [number for number in (count - 1, count) if 0 <= number < last and self.entries[number].is_flush]
            if around or count % every == 0:
                losing = range(1, seeds + 1) if self.flushed(count) < count else ()
                yield from (Cut(count, seed) for seed in (0, *losing))


class Disks:
    """The disk as it is after one cut after the other; `base` is what it was before the first write."""

    def __init__(self, log: Log, base: Path, place: Path) -> None:
        self._log = log
        self._flushed, self.path = place / "flushed", place / "state"
        copy_sparse(base, self._flushed)
        self._count = 0

    def make(self, cut: Cut) -> Path:
        """Make the disk of a cut, which may not come before the last flush of the one before it."""
        flushed = self._log.flushed(cut.after)
        assert flushed >= self._count, f"{cut} is out of order"
        self._write(self._flushed, self._log.entries[self._count : flushed], Cut(flushed, 0))
        self._count = flushed
        copy_sparse(self._flushed, self.path)
        self._write(self.path, self._log.entries[flushed : cut.after], cut)
        return self.path

    def _write(self, path: Path, entries: Sequence[Entry], cut: Cut) -> None:
        dice = random.Random(f"{cut.after} {cut.seed}")  # noqa: S311 - the same in every run
        lost = dice.choice((0.1, 0.5, 0.9)) if cut.seed else 0
        with path.open("r+b") as disk:
            for entry in entries:
                data = self._log.data(entry)
                piece = _PIECE if cut.seed and cut.seed % 2 == 0 else max(entry.length, 1)
                for start in range(0, entry.length, piece):
                    if dice.random() >= lost:
                        disk.seek(entry.offset + start)
                        disk.write(data[start : start + piece])


def change_of_group(log: Log, base: Path) -> int | None:
    """Return after how many entries a volume group had been changed for the first time; None if it never was."""
    with base.open("rb") as disk:
        before = _last_seqno(disk.read(_METADATA_BYTES))
    changed = (number + 1 for number, entry in enumerate(log.entries) if _last_seqno(log.data(entry)) > before)
    return next(changed, None)


def _last_seqno(content: bytes) -> int:
    return max((int(number) for number in _SEQNO.findall(content)), default=0)


def copy_sparse(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("wb") as new:
        size = old.seek(0, os.SEEK_END)
        new.truncate(size)
        position = 0
        while position < size:
            try:
                position = old.seek(position, os.SEEK_DATA)
            except OSError as error:
                # Nothing but a hole follows (lseek(2)).
                if error.errno != errno.ENXIO:
                    raise
                return
            end = old.seek(position, os.SEEK_HOLE)
            old.seek(position)
            new.seek(position)
            while position < end:
                position += os.sendfile(new.fileno(), old.fileno(), position, end - position)


def look(directory: Path) -> dict[str, dict[str, Any]]:
    """Return what a directory holds: path -> mode, owner, digest, and the text of the record of a dump."""
    return {str(path.relative_to(directory)): _look_at(path) for path in sorted(directory.rglob("*"))}


def _look_at(path: Path) -> dict[str, Any]:
    status = path.lstat()
    content = path.read_bytes() if path.is_file() else b""
    return {
        "mode": status.st_mode & 0o7777,
        "owner": [status.st_uid, status.st_gid],
        "sha256": hashlib.sha256(content).hexdigest(),
        "text": content.decode(errors="replace") if path.name == "dump.json" else "",
    }


def main(base: str, log: str, after: str, seed: str, disk: str) -> None:
    """Make the disk of one cut."""
    with tempfile.TemporaryDirectory() as place:
        made = Disks(Log(Path(log)), Path(base), Path(place)).make(Cut(int(after), int(seed)))
        copy_sparse(made, Path(disk))


if __name__ == "__main__":
    main(*sys.argv[1:])
