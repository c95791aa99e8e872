"""How a device is known: the tables of partitions, signatures, labels, and what the shell makes of the description."""

import shutil
import struct
import subprocess
import uuid
from pathlib import Path

import pytest

from kdump_initramfs import devices
from kdump_initramfs.formats import partition, superblock
from kdump_initramfs.storage import DirectoryTarget, Disk, Filesystem
from tests import capture
from tests.capture import Environment

GUID = "5a0f8c1e-2b3c-4d5e-8f90-112233445566"
SIGNATURE = 0x5A0F8C1E


def gpt(sector_bytes: int, number: int) -> bytes:
    """Return the head of a disk with a GPT in which partition `number` has GUID."""
    header = bytearray(92)
    header[:8] = b"EFI PART"
    struct.pack_into("<Q", header, 72, 2)
    struct.pack_into("<I", header, 84, 128)
    entries = bytearray(128 * 128)
    entries[(number - 1) * 128 + 16 : (number - 1) * 128 + 32] = uuid.UUID(GUID).bytes_le
    return bytes(sector_bytes) + bytes(header).ljust(sector_bytes, b"\0") + bytes(entries)


def mbr() -> bytes:
    return bytes(440) + struct.pack("<I", SIGNATURE) + bytes(66) + b"\x55\xaa"


TABLES = [
    (gpt(512, 1), 1, 512, GUID),
    (gpt(512, 128), 128, 512, GUID),
    (gpt(4096, 3), 3, 4096, GUID),
    (mbr(), 5, 512, "5a0f8c1e-05"),
    (bytes(8192), 1, 512, ""),
]


@pytest.mark.parametrize(("disk", "number", "sector_bytes", "expected"), TABLES)
def test_uuid_of_a_partition_is_in_its_table(disk: bytes, number: int, sector_bytes: int, expected: str) -> None:
    found = partition.part_uuid(lambda offset, size: disk[offset : offset + size], number, sector_bytes)
    assert found == expected


def test_table_that_ends_early_has_no_uuid() -> None:
    disk = gpt(512, 128)[:2000]
    assert partition.part_uuid(lambda offset, size: disk[offset : offset + size], 128, 512) == ""
    assert partition.part_uuid(lambda offset, size: bytes(min(offset, size, 0)), 1, 512) == ""


# --- signatures and labels ---------------------------------------------------------------------------------------


def signature(content: bytes) -> str:
    return superblock.signature(lambda offset, size: content[offset : offset + size], len(content))


MAKERS = {
    "ext4": (["mkfs.ext4", "-q", "-F", "-L", "dumps"], "ext4"),
    "xfs": (["mkfs.xfs", "-q", "-f", "-L", "dumps"], "xfs"),
    "btrfs": (["mkfs.btrfs", "-q", "-f", "-L", "dumps"], "btrfs"),
    "f2fs": (["mkfs.f2fs", "-q", "-f"], "f2fs"),
    "vfat": (["mkfs.vfat"], "vfat"),
    "exfat": (["mkfs.exfat"], "exfat"),
    "swap": (["mkswap", "-q"], "swap"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the content of each kind of device, as its own tool makes it."""
    contents: dict[str, bytes] = {}
    for name, (words, _) in MAKERS.items():
        if shutil.which(words[0]):
            path = tmp_path_factory.mktemp("device") / name
            with path.open("wb") as stream:
                stream.truncate(320 << 20)
            subprocess.run([*words, path], check=True, capture_output=True)
            with path.open("rb") as stream:
                contents[name] = stream.read(1 << 20)
    return contents


@pytest.mark.parametrize("name", MAKERS)
def test_what_a_tool_has_made_is_known_by_its_signature(name: str, made: dict[str, bytes]) -> None:
    if name not in made:
        pytest.skip(f"{MAKERS[name][0][0]} is not installed")
    assert signature(made[name]) == MAKERS[name][1]


@pytest.mark.parametrize("name", ["ext4", "xfs", "btrfs"])
def test_label_is_where_its_tool_puts_it(name: str, made: dict[str, bytes]) -> None:
    (layout,) = superblock.layouts(name)
    stored = bytes.fromhex(superblock.stored_label(layout, "dumps"))
    assert made[name][layout.label_offset : layout.label_offset + len(stored)] == stored


def test_label_that_fills_its_place_has_no_end() -> None:
    (layout,) = superblock.layouts("xfs")
    assert superblock.stored_label(layout, "a" * 12) == "61" * 12
    assert superblock.stored_label(layout, "a" * 13) == ""
    assert superblock.stored_label(layout, "") == ""


@pytest.mark.parametrize("each", superblock.SIGNATURES, ids=lambda each: f"{each.type}@{each.offset}")
def test_every_signature_is_looked_for(each: superblock.Signature) -> None:
    content = bytearray(1 << 20)
    offset = each.offset if each.offset >= 0 else len(content) + each.offset
    content[offset : offset + len(each.magic)] = each.magic
    assert signature(bytes(content)) == each.type


def test_device_of_zeros_holds_nothing() -> None:
    assert signature(bytes(1 << 20)) == ""
    assert signature(b"") == ""


# --- in the shell ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    if not capture.can_enter():
        pytest.skip("needs root that may make namespaces and device nodes")
    directory = tmp_path_factory.mktemp("image")
    output = directory / "capture.img"
    capture.build_image(capture.release("cloud"), capture.facts(capture.target()), output, "image.compression=none")
    return Environment.unpack(output, directory / "root")


@pytest.fixture
def environment(unpacked: Environment, tmp_path: Path) -> Environment:
    return unpacked.copy_to(tmp_path / "root")


def add_partition(environment: Environment, disk: bytes, number: int, sector_bytes: int) -> None:
    directory = "/sys/devices/vda"
    environment.write(f"{directory}/queue/logical_block_size", f"{sector_bytes}\n")
    environment.write(f"{directory}/serial", "a serial: number\n")
    environment.write(f"{directory}/part/partition", f"{number}\n")
    environment.write(f"{directory}/part/size", "2048\n")
    environment.path("/sys/class/block/part").symlink_to("../../devices/vda/part")
    environment.path("/sys/class/block/vda").symlink_to("../../devices/vda")
    environment.write("/dev/vda", disk)


@pytest.mark.parametrize(("disk", "number", "sector_bytes", "expected"), TABLES)
def test_shell_reads_the_same_uuid(
    disk: bytes, number: int, sector_bytes: int, expected: str, environment: Environment
) -> None:
    add_partition(environment, disk, number, sector_bytes)
    if expected:
        assert environment.shell("part_uuid part; part_uuid vda").output == f"{expected}\n"


def test_shell_reads_the_serial_number_that_python_reads(environment: Environment) -> None:
    environment.write("/sys/devices/sda/device/vpd_pg80", b"\0\x80\0\x0bfar scsi 1 \0")
    environment.path("/sys/class/block/sda").symlink_to("../../devices/sda")
    assert environment.shell("disk_id sda").output == f"{devices.id_word('far scsi 1')}\n"


SAME = "2048:a_serial_number:5a0f8c1e-05"
KNOWN = [
    ("1", SAME, True),
    ("2", SAME, True),
    ("2", "2048:another:5a0f8c1e-05", True),
    ("2", "2049:a_serial_number:5a0f8c1e-05", True),
    ("2", "2049:another:5a0f8c1e-05", False),
    ("1", "2049:another:5a0f8c1e-05", True),
    ("1", "2049:another:5a0f8c1e-06", False),
    ("1", "::5a0f8c1e-05", True),
    ("1", "::5a0f8c1e-06", False),
    ("2", "2048::", False),
    ("1", f"1:x:y {SAME}", True),
    ("1", "", False),
    ("0", "", True),
]


@pytest.mark.parametrize(("agree", "disks", "known"), KNOWN)
def test_as_many_things_agree_as_must(agree: str, disks: str, *, known: bool, environment: Environment) -> None:
    add_partition(environment, mbr(), 5, 512)
    script = f"device_agree={agree} device_disks='{disks}' device_dm_uuids= device_content= strangers=\n"
    assert environment.shell(f"{script}is_known part").status == (0 if known else 1)


def test_description_is_what_the_shell_reads(environment: Environment) -> None:
    disk = Disk(name="vda", number="", size_bytes=1 << 20, disk_id="it's a $(serial)")
    filesystem = Filesystem(type="xfs", uuid="99887766-5544-3322-1100-ffeeddccbbaa")
    target = DirectoryTarget(
        kind="disk", name="x", directory="", filesystem=filesystem, stack=(disk,), devices=("vda",)
    )
    (text,) = devices.filesystem("target-9", target, filesystem, target.carriers)
    environment.write(text.path, text.content)
    said = environment.shell('describe target-9; echo "$device_disks|$fs_type|$fs_options|$device_count|$device_agree"')
    assert said.output == "2048:it_s_a_serial:|xfs|rw,nosuid,nodev,noexec|1|1\n"
