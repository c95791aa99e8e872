"""What tests/vm/powercut.py makes of a log of writes."""

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.vm.powercut import Cut, Disks, Log

SECTOR = 512
BLOCK = 8 * SECTOR
FLUSH = None


def write_log(path: Path, entries: Sequence[tuple[int, bytes] | None], *, flags: int = 0) -> Log:
    """Write a log of (offset, data) and of flushes, as QEMU does."""
    content = b""
    for entry in entries:
        offset, data = entry or (0, b"")
        words = (offset // SECTOR, len(data) // SECTOR, flags if entry else 1, 0)
        content += struct.pack("<QQQQ", *words).ljust(SECTOR, b"\0") + data
    path.write_bytes(struct.pack("<QQQI", 0x6A736677736872, 1, len(entries), SECTOR).ljust(SECTOR, b"\0") + content)
    return Log(path)


def block(text: bytes) -> bytes:
    return text * BLOCK


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return write_log(
        tmp_path / "log", [(0, block(b"a")), FLUSH, (BLOCK, block(b"b")), (2 * BLOCK, block(b"c") + block(b"d")), FLUSH]
    )


def made(log: Log, tmp_path: Path, *cuts: Cut) -> list[bytes]:
    """Return the disk after each cut, one letter for each block."""
    base = tmp_path / "base"
    base.write_bytes(block(b".") * 5)
    disks = Disks(log, base, tmp_path)
    return [disks.make(cut).read_bytes()[::BLOCK] for cut in cuts]


def test_without_losses_a_cut_leaves_the_first_writes(log: Log, tmp_path: Path) -> None:
    cuts = [Cut(after, 0) for after in range(6)]
    assert made(log, tmp_path, *cuts) == [b".....", b"a....", b"a....", b"ab...", b"abcd.", b"abcd."]


def test_what_is_behind_no_flush_may_be_lost(log: Log, tmp_path: Path) -> None:
    requests = set(made(log, tmp_path, *(Cut(4, seed) for seed in range(1, 99, 2))))
    assert requests == {b"a....", b"ab...", b"a.cd.", b"abcd."}
    pieces = set(made(log, tmp_path, *(Cut(4, seed) for seed in range(2, 100, 2))))
    assert pieces > requests
    assert all(disk.startswith(b"a") for disk in pieces)
    assert set(made(log, tmp_path, *(Cut(5, seed) for seed in range(1, 99)))) == {b"abcd."}


def test_cuts_are_around_flushes_and_lose_what_can_be_lost(log: Log) -> None:
    assert list(log.cuts(every=100, seeds=1)) == [
        *(Cut(0, 0), Cut(1, 0), Cut(1, 1), Cut(2, 0)),
        *(Cut(4, 0), Cut(4, 1), Cut(5, 0)),
    ]
    assert Cut(3, 0) in log.cuts(every=1, seeds=0)


def test_what_is_no_log_or_has_more_than_writes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zero").write_bytes(bytes(SECTOR))
    with pytest.raises(ValueError, match="not a log of writes"):
        Log(tmp_path / "zero")
    with pytest.raises(ValueError, match="has flags 0x4"):
        write_log(tmp_path / "log", [(0, block(b"a"))], flags=4)
