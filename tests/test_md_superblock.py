"""The superblock of software RAID on a member, as the kernel writes it; blkid(8) must read the same of it."""

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.formats import md_superblock
from kdump_initramfs.host import content
from kdump_initramfs.host.root import Root
from kdump_initramfs.storage import Content
from tests import trees

UUID = "01234567-89ab-cdef-0123-456789abcdef"
# Not a multiple of 4 KiB.
SIZE = (8 << 20) + 1024
# Where each version has it.
PLACES = {"1.0": SIZE // 4096 * 4096 - 8192, "1.1": 0, "1.2": 4096}


def head_of_member(offset: int) -> bytes:
    """Return a superblock as mdadm makes it, with its sum (calc_sb_1_csum(), drivers/md/md.c)."""
    head = bytearray(256)
    struct.pack_into("<II8x16s", head, 0, 0xA92B4EFC, 1, bytes.fromhex(UUID.replace("-", "")))
    struct.pack_into("<Q", head, 144, offset // 512)
    total = sum(struct.unpack("<64I", head))
    struct.pack_into("<I", head, 216, ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF)
    return bytes(head)


def member(version: str, before: bytes = b"") -> bytes:
    disk = bytearray(before.ljust(SIZE, b"\0"))
    offset = PLACES[version]
    disk[offset : offset + 256] = head_of_member(offset)
    return bytes(disk)


def read_of(disk: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, size: disk[offset : offset + size]


@pytest.mark.parametrize("version", PLACES)
def test_array_of_a_member_is_the_one_that_blkid_says(version: str, tmp_path: Path) -> None:
    disk = member(version)
    (tmp_path / "disk").write_bytes(disk)
    words = ["blkid", "-p", "-o", "value", "-s", "TYPE", "-s", "UUID", str(tmp_path / "disk")]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(said) == [UUID, "linux_raid_member"]
    assert md_superblock.array_uuid(read_of(disk), SIZE) == UUID


def test_last_partition_is_not_taken_for_its_disk() -> None:
    disk = bytes(1 << 20) + member("1.0")
    assert md_superblock.array_uuid(read_of(disk), len(disk)) == ""


@given(st.binary(max_size=400), st.integers(0, 1 << 20))
def test_any_bytes_are_a_member_or_none(disk: bytes, size: int) -> None:
    assert md_superblock.array_uuid(read_of(disk), size) == ""


@given(st.sampled_from([*PLACES]), st.integers(0, 151))
def test_superblock_that_is_cut_off_is_none(version: str, left: int) -> None:
    disk = member(version)[: PLACES[version] + left]
    assert md_superblock.array_uuid(read_of(disk), SIZE) == ""


def test_member_of_a_mirror_is_not_taken_for_what_is_on_the_mirror(tmp_path: Path) -> None:
    trees.make(f"device /dev/sda1 ext4 {UUID[::-1].replace('-', '0')[:8]}-0000-4000-8000-000000000001\n", tmp_path)
    device = tmp_path / "dev/sda1"
    root = Root(str(tmp_path))
    assert content.read(root, "sda1", "8:1", SIZE).type == "ext4"
    device.write_bytes(member("1.0", device.read_bytes()))
    # As udev has it of a device that mdadm had locked: nothing.
    assert content.read(root, "sda1", "8:1", SIZE) == Content(type="linux_raid_member", uuid=UUID, was_read=True)
