"""What tests/vm/powercut.py makes of a log of writes."""

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.vm.powercut import Cut, Disks, Log, change_of_group

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


def metadata(seqno: int) -> bytes:
    return f'the-vg {{\nid = "x"\nseqno = {seqno}\nformat = "lvm2"\n'.encode().ljust(SECTOR, b"\0")


@pytest.mark.parametrize(
    ("entries", "after"),
    [
        ([(0, block(b"a")), FLUSH], None),
        ([], None),
        ([(0, metadata(3)), FLUSH, (SECTOR, metadata(4)), FLUSH], None),
        ([(0, block(b"a")), (SECTOR, metadata(5)), FLUSH, (0, metadata(6))], 2),
        ([(0, block(b"a")), FLUSH, (SECTOR, metadata(10)), FLUSH], 3),
        ([(0, metadata(2) + metadata(7))], 1),
    ],
    ids=["none written", "empty", "older", "first of two", "by number", "behind an older one"],
)
def test_change_of_a_volume_group_is_found(
    entries: Sequence[tuple[int, bytes] | None], after: int | None, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.write_bytes(bytes(SECTOR) + metadata(3) + metadata(4))
    assert change_of_group(write_log(tmp_path / "log", entries), base) == after


def test_change_of_a_disk_that_had_no_group_is_found(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(bytes(SECTOR))
    assert change_of_group(write_log(tmp_path / "log", [(0, metadata(1))]), tmp_path / "base") == 1
