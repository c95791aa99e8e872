"""Superblocks of file systems that their own tools have made, and what a mount of them asks for."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.formats import filesystems
from kdump_initramfs.formats.filesystem import External, Filesystem, Reader
from kdump_initramfs.image import kmod
from tests import kernel_names, kernels, programs

UUID = "01234567-89ab-cdef-0123-456789abcdef"
OTHER = "76543210-89ab-cdef-0123-456789abcdef"
SIZE = 400 << 20
PLACES = {"ext4": 1024, "xfs": 0, "btrfs": 0x10000, "f2fs": 1024}
MAGICS = {
    "ext4": (0x38, b"\x53\xef"),
    "xfs": (0, b"XFSB"),
    "btrfs": (0x40, b"_BHRfS_M"),
    "f2fs": (0, b"\x10\x20\xf5\xf2"),
}


def reader(path: Path) -> Reader:
    def read(offset: int, size: int) -> bytes:
        with open(path, "rb") as stream:
            stream.seek(offset)
            return stream.read(size)

    return read


def disks(directory: Path, *names: str) -> list[str]:
    paths = [directory / name for name in names]
    for path in paths:
        with open(path, "wb") as stream:
            stream.truncate(SIZE)
    return [str(path) for path in paths]


def run(*words: str) -> None:
    programs.need(words[0])
    subprocess.run(words, check=True, capture_output=True)


def parsed(fs_type: str, path: str) -> Filesystem:
    found = filesystems.parse(fs_type, reader(Path(path)))
    assert found
    return found


# --- ext4 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fs_type", ["ext2", "ext3", "ext4"])
def test_ext_has_its_journal_inside(fs_type: str, tmp_path: Path) -> None:
    (disk,) = disks(tmp_path, "disk")
    run(f"mkfs.{fs_type}", "-q", "-F", "-U", UUID, disk)
    found = parsed(fs_type, disk)
    assert (found.type, found.uuid, found.external, found.unknown) == ("ext4", UUID, (), ())
    assert ("has_journal" in found.features) is (fs_type != "ext2")
    assert ("metadata_csum" in found.features) is (fs_type == "ext4")
    assert found.requests == ("crypto-crc32c",)
    assert found.is_mountable


@pytest.mark.parametrize("block", ["1024", "4096"])
def test_device_of_a_journal_is_no_file_system(block: str, tmp_path: Path) -> None:
    (disk,) = disks(tmp_path, "journal")
    run("mkfs.ext4", "-q", "-F", "-b", block, "-O", "journal_dev", "-U", UUID, disk)
    found = parsed("jbd", disk)
    assert "journal_dev" in found.features
    assert (found.uuid, found.external, found.is_mountable) == (UUID, (), False)


@pytest.mark.parametrize(
    ("stored", "number"),
    # As tune2fs writes them: a disk, a disk with many partitions, a volume, none.
    [(0x0811, "8:17"), (0x10110305, "259:65797"), (0xFD03, "253:3"), (0, "")],
)
def test_journal_on_another_device_is_known_by_its_uuid(stored: int, number: str, tmp_path: Path) -> None:
    """mkfs.ext4 takes only a block device for it; what is written then is what debugfs(8) writes here."""
    (disk,) = disks(tmp_path, "disk")
    run("mkfs.ext4", "-q", "-F", "-U", UUID, disk)
    for name, value in (("journal_inum", "0"), ("journal_uuid", OTHER), ("journal_dev", str(stored))):
        run("debugfs", "-w", "-R", f"set_super_value {name} {value}", disk)
    assert parsed("ext4", disk).external == (
        External(role="journal", uuid=OTHER, number=number, option="journal_path"),
    )


def test_features_of_ext4_that_ask_something_of_the_kernel(tmp_path: Path) -> None:
    (disk,) = disks(tmp_path, "disk")
    wanted = (
        "encrypt",
        "casefold",
        "verity",
        "quota",
        "project",
        "inline_data",
        "bigalloc",
        "mmp",
        "large_dir",
        "ea_inode",
    )
    run("mkfs.ext4", "-q", "-F", "-O", ",".join(wanted), disk)
    found = parsed("ext4", disk)
    assert {*wanted} < {*found.features}
    assert found.requests == ("crypto-crc32c", "quota_v2", "utf8data")
    assert not found.unknown


# --- XFS ---------------------------------------------------------------------------------------------------------

LOG, REALTIME = External(role="log", option="logdev"), External(role="realtime", option="rtdev")


@pytest.mark.parametrize(
    ("options", "external"),
    [
        ([], ()),
        (["-l", "logdev={log}"], (LOG,)),
        (["-r", "rtdev={realtime}"], (REALTIME,)),
        (["-l", "logdev={log}", "-r", "rtdev={realtime}"], (LOG, REALTIME)),
        (["-m", "crc=0", "-l", "logdev={log}"], (LOG,)),
    ],
)
def test_log_and_realtime_part_of_xfs_may_be_elsewhere(
    options: Sequence[str], external: tuple[External, ...], tmp_path: Path
) -> None:
    disk, log, realtime = disks(tmp_path, "disk", "log", "realtime")
    run("mkfs.xfs", "-q", "-f", *(word.format(log=log, realtime=realtime) for word in options), disk)
    found = parsed("xfs", disk)
    assert (found.external, found.devices, found.unknown) == (external, 1 + len(external), ())
    assert ("v4" in found.features) is ("crc=0" in options)
    assert found.requests == ("crypto-crc32c",)


def test_features_of_xfs(tmp_path: Path) -> None:
    (disk,) = disks(tmp_path, "disk")
    run("mkfs.xfs", "-q", "-f", "-m", f"uuid={UUID},rmapbt=1,bigtime=1", "-n", "version=ci", disk)
    found = parsed("xfs", disk)
    assert found.uuid == UUID
    assert {"v5", "crc", "ftype", "bigtime", "rmapbt", "ascii-ci"} < {*found.features}


# --- btrfs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("crc32c", ()),
        ("xxhash64", ("crypto-xxhash64",)),
        ("sha256", ("crypto-sha256",)),
        ("blake2", ("crypto-blake2b-256",)),
    ],
)
def test_sum_of_btrfs_is_asked_for(name: str, asked: tuple[str, ...], tmp_path: Path) -> None:
    (disk,) = disks(tmp_path, "disk")
    run("mkfs.btrfs", "-q", "-f", "-U", UUID, "--csum", name, disk)
    found = parsed("btrfs", disk)
    assert {*found.requests} == {"crypto-crc32c", *asked}
    assert (found.uuid, found.devices, found.external, found.unknown) == (UUID, 1, (), ())


def test_members_of_btrfs_are_counted(tmp_path: Path) -> None:
    paths = disks(tmp_path, "one", "two", "three", "four")
    run("mkfs.btrfs", "-q", "-f", "-U", UUID, "-d", "raid6", "-m", "raid1c3", *paths)
    found = [parsed("btrfs", path) for path in paths]
    assert {each.uuid for each in found} == {UUID}
    assert {each.devices for each in found} == {4}
    assert {each.external for each in found} == {(External(role="member", option="device"),)}
    assert {"raid56", "raid1c34"} < {*found[0].features}


# --- f2fs --------------------------------------------------------------------------------------------------------


def test_f2fs_names_the_devices_that_it_was_made_on(tmp_path: Path) -> None:
    disk, second, third = disks(tmp_path, "a", "b", "c")
    programs.need("mkfs.f2fs")
    # It keeps 64 bytes of a path.
    words = ["mkfs.f2fs", "-q", "-f", "-U", UUID, "-c", "b", "-c", "c", "a"]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    found = parsed("f2fs", disk)
    assert (found.uuid, found.devices) == (UUID, 3)
    assert found.external == tuple(External(role="member", path=Path(path).name) for path in (second, third))
    assert found.requests == ("crypto-crc32",)


def test_f2fs_on_one_device_names_none(tmp_path: Path) -> None:
    (disk,) = disks(tmp_path, "disk")
    run("mkfs.f2fs", "-q", "-f", disk)
    found = parsed("f2fs", disk)
    assert (found.devices, found.external, found.unknown) == (1, (), ())


def test_features_of_f2fs_that_ask_something_of_the_kernel(tmp_path: Path) -> None:
    (disk,) = disks(tmp_path, "disk")
    wanted = ("encrypt", "extra_attr", "compression", "casefold", "verity", "quota", "sb_checksum", "inode_checksum")
    run("mkfs.f2fs", "-q", "-f", "-O", ",".join(wanted), "-C", "utf8", disk)
    found = parsed("f2fs", disk)
    assert {*wanted} <= {*found.features}
    assert found.requests == ("crypto-crc32", "quota_v2", "utf8data")


# --- all ---------------------------------------------------------------------------------------------------------


def test_real_kernels_have_an_answer_to_all_that_is_asked_for() -> None:
    asked = {
        "crypto-crc32c",
        "crypto-crc32",
        "crypto-xxhash64",
        "crypto-sha256",
        "crypto-blake2b-256",
        "quota_v2",
        "utf8data",
    }
    for release, root in kernels.roots().items():
        answered = kernel_names.answered(root, release)
        assert not {name for name in asked if kmod.normal(name) not in answered}, release


@pytest.mark.parametrize("fs_type", PLACES)
@pytest.mark.parametrize("bit", [20, 27, 31])
def test_bit_without_a_name_is_told_by_its_number(fs_type: str, bit: int, tmp_path: Path) -> None:
    place = {"ext4": 0x60, "xfs": 216, "btrfs": 0xBC, "f2fs": 2180}[fs_type]
    word = "feature" if fs_type == "f2fs" else "incompat"
    head = bytearray(4096)
    offset, magic = MAGICS[fs_type]
    head[offset : offset + len(magic)] = magic
    head[100:102] = b"\0\5" if fs_type == "xfs" else bytes(2)
    head[place : place + 4] = (1 << bit).to_bytes(4, "big" if fs_type == "xfs" else "little")
    found = filesystems.parse(fs_type, lambda offset, size: bytes(head)[offset - PLACES[fs_type] :][:size])
    assert found
    assert found.unknown == (f"{word} bit {bit}",)


@pytest.mark.parametrize("fs_type", PLACES)
@given(content=st.binary(max_size=4096))
def test_any_bytes_are_a_superblock_or_none(fs_type: str, content: bytes) -> None:
    offset, magic = MAGICS[fs_type]
    head = content[:offset].ljust(offset, b"\0") + magic + content[offset:]
    found = filesystems.parse(fs_type, lambda start, size: head.ljust(4096, b"\0")[start - PLACES[fs_type] :][:size])
    assert found
    assert found.type == fs_type
    cut = filesystems.parse(fs_type, lambda start, size: head[start - PLACES[fs_type] :][: min(size, 100)])
    assert cut is None


def test_type_that_is_not_known_here_is_none() -> None:
    assert filesystems.parse("ntfs", lambda _offset, size: bytes(size)) is None
