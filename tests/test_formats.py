"""Small formats: superblocks and saved vmcores, whole, cut off and made up."""

import io
import json
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.formats import luks, superblock, vmcore
from kdump_initramfs.formats.vmcore import Vmcore, VmcoreError
from tests import programs, trees

UUID = "01234567-89ab-cdef-0123-456789abcdef"

# --- superblocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "command", "uuid"),
    [
        ("ext4", ["mkfs.ext4", "-q", "-F", "-U", UUID], UUID),
        ("ext4", ["mkfs.ext4", "-q", "-F", "-b", "1024", "-U", UUID], UUID),
        ("ext4", ["mkfs.ext2", "-q", "-F", "-U", UUID], UUID),
        ("xfs", ["mkfs.xfs", "-q", "-f", "-m", f"uuid={UUID}"], UUID),
        ("btrfs", ["mkfs.btrfs", "-q", "-f", "-U", UUID], UUID),
        ("f2fs", ["mkfs.f2fs", "-q", "-f", "-U", UUID], UUID),
        ("vfat", ["mkfs.vfat", "-F", "32", "-i", "1234abcd"], "1234-ABCD"),
        ("vfat", ["mkfs.vfat", "-F", "16", "-i", "1234abcd"], "1234-ABCD"),
        ("exfat", ["sh", "-c", 'mkfs.exfat "$0" && tune.exfat -I 0x1234abcd "$0"'], "1234-ABCD"),
    ],
)
def test_uuid_is_the_one_that_mkfs_was_told(family: str, command: list[str], uuid: str, tmp_path: Path) -> None:
    programs.need(f"mkfs.{family}")
    disk = tmp_path / "disk"
    with open(disk, "wb") as stream:
        stream.truncate(320 << 20)
    subprocess.run([*command, str(disk)], check=True, capture_output=True)
    with open(disk, "rb") as stream:
        head = stream.read(superblock.HEAD_BYTES)
    assert superblock.identify(head) == (family, uuid)
    stored = [
        head[layout.uuid_offset : layout.uuid_offset + layout.uuid_bytes].hex() == superblock.stored(layout, uuid)
        for layout in superblock.layouts(family)
    ]
    assert any(stored)


@given(st.binary(max_size=1200))
def test_any_head_is_a_known_file_system_or_none(head: bytes) -> None:
    assert superblock.identify(head) is None or len(head) >= 48


@pytest.mark.parametrize("size", [0, 1, 0x438, 0x439, 0x468, 0x477])
def test_short_head_is_no_file_system(size: int, tmp_path: Path) -> None:
    trees.make(f"device /disk ext4 {UUID}", tmp_path)
    assert superblock.identify((tmp_path / "disk").read_bytes()[:size]) is None


# --- LUKS ----------------------------------------------------------------------------------------------------------

LUKS_UUID = "1f2e3d4c-5b6a-4988-9f2e-3d4c5b6a7988"
LUKS_BYTES = 16384


def luks_header(area: bytes, *, version: int = 2) -> bytes:
    head = luks.MAGIC + version.to_bytes(2, "big") + LUKS_BYTES.to_bytes(8, "big")
    head = head.ljust(luks.UUID_OFFSET, b"\0") + LUKS_UUID.encode()
    return (head.ljust(4096, b"\0") + area).ljust(LUKS_BYTES, b"\0")


def keyslots(*kdfs: dict[str, object]) -> bytes:
    return json.dumps({"keyslots": {str(number): {"kdf": kdf} for number, kdf in enumerate(kdfs)}}).encode()


@pytest.mark.parametrize(
    ("kdfs", "kib"),
    [
        ([], 0),
        ([{"type": "pbkdf2", "iterations": 1000}], 0),
        ([{"type": "argon2id", "memory": 65536}, {"type": "pbkdf2"}, {"type": "argon2i", "memory": 1048576}], 1048576),
    ],
)
def test_memory_of_the_most_expensive_keyslot_is_told(kdfs: list[dict[str, object]], kib: int) -> None:
    assert luks.parse(luks_header(keyslots(*kdfs))) == luks.Luks(version=2, uuid=LUKS_UUID, kdf_kib=kib)


def test_luks1_takes_no_memory() -> None:
    assert luks.parse(luks_header(b"", version=1)) == luks.Luks(version=1, uuid=LUKS_UUID, kdf_kib=0)


@pytest.mark.parametrize(
    "area",
    [b"", b"{", b"[]", b"{}", b'{"keyslots": 1}', b'{"keyslots": {"0": {}}}', b'{"keyslots": {"0": {"kdf": []}}}'],
)
def test_damaged_luks2_header_is_none(area: bytes) -> None:
    assert luks.parse(luks_header(area)) is None


@given(st.binary(max_size=600))
def test_any_bytes_after_the_magic_are_a_luks_header_or_none(tail: bytes) -> None:
    luks.parse(luks.MAGIC + tail)


# --- vmcores -----------------------------------------------------------------------------------------------------

BLOCK = 4096


def compressed(*, pages: int = 20, status: int = 1, release: str = "6.1.0-56-amd64", block: int = BLOCK) -> bytes:
    """Return a kdump-compressed dump: header, sub header, two bitmaps, page descriptors, pages of 16 bytes."""
    names = [b"Linux", b"host", release.encode(), b"#1 SMP", b"x86_64", b"(none)"]
    header = b"KDUMP   " + struct.pack("<i", 6) + b"".join(name.ljust(65, b"\0") for name in names)
    header = header.ljust(424, b"\0") + struct.pack("<4I", status, block, 1, 2)
    bitmap = ((1 << pages) - 1).to_bytes(BLOCK, "little")
    head = header.ljust(BLOCK, b"\0") + bytes(BLOCK) + bytes(BLOCK) + bitmap
    start = len(head) + pages * 24
    descriptors = b"".join(struct.pack("<QIIQ", start + 16 * page, 16, 1, 0) for page in range(pages))
    return head + descriptors + b"p" * 16 * pages


def elf(*, loads: int = 3, note: bytes = b"OSRELEASE=6.1.0-56-amd64\nPAGESIZE=4096\n") -> bytes:
    """Return an ELF vmcore with one note and some segments of 100 bytes."""
    start = 64 + 56 * (loads + 1)
    end = start + len(note) + 1
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQI6H", 4, 62, 1, 0, 64, 0, 0, 64, 56, loads + 1, 0, 0, 0)
    table = struct.pack("<2I6Q", 4, 0, start, 0, 0, end - start, end - start, 0)
    for number in range(loads):
        table += struct.pack("<2I6Q", 1, 7, end + 100 * number, 0, 0, 100, 100, 0)
    return header + table + b"\0" + note + b"m" * 100 * loads


def check(content: bytes) -> Vmcore:
    return vmcore.check(io.BytesIO(content), len(content), "vmcore")


def test_whole_compressed_dump_is_described() -> None:
    assert check(compressed()) == Vmcore(format="kdump-compressed", release="6.1.0-56-amd64", parts=20)


def test_whole_elf_dump_is_described() -> None:
    assert check(elf()) == Vmcore(format="elf", release="6.1.0-56-amd64", parts=3)


@pytest.mark.parametrize("whole", [compressed(), elf()], ids=["compressed", "elf"])
def test_dump_that_is_cut_off_anywhere_is_refused(whole: bytes) -> None:
    sizes = [0, 1, 7, 8, 63, 64, 100, 425, 4095, 4096, len(whole) // 2, *range(len(whole) - 40, len(whole))]
    for size in sizes:
        if size < len(whole):
            with pytest.raises(VmcoreError, match=r"^vmcore: "):
                check(whole[:size])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (compressed(status=9), "its header says that it is incomplete"),
        (compressed(block=0), "a block size of 0 bytes"),
        (compressed(block=1 << 30), "a block size of"),
        (compressed()[:-1], "but a page ends at"),
        (compressed()[: 4 * BLOCK + 100], "it ends among its page descriptors"),
        (elf()[:-1], "but a segment ends at"),
        (b"", "neither kdump-compressed nor 64-bit ELF"),
        (bytes(1 << 16), "neither kdump-compressed nor 64-bit ELF"),
        (b"\x7fELF\x01\x01" + bytes(100), "neither kdump-compressed nor 64-bit ELF"),
        (b"makedumpfile\0" + bytes(4096), "neither kdump-compressed nor 64-bit ELF"),
    ],
)
def test_what_is_wrong_with_a_dump_is_said(content: bytes, said: str) -> None:
    with pytest.raises(VmcoreError, match=said) as caught:
        check(content)
    assert caught.value.hint


@pytest.mark.parametrize("note", [b"", b"PAGESIZE=4096\n", b"OSRELEASE=\n", b"XOSRELEASE=6.1\n"])
def test_release_that_is_not_said_is_empty(note: bytes) -> None:
    assert check(elf(note=note)).release == ""


@given(st.binary(max_size=600))
def test_any_bytes_are_a_vmcore_or_one_kind_of_error(tail: bytes) -> None:
    for head in (b"KDUMP   ", b"\x7fELF\x02\x01", b""):
        try:
            check(head + tail)
        except VmcoreError:
            continue


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=8))
def test_any_damage_to_a_header_is_one_kind_of_error(damage: list[tuple[int, int]]) -> None:
    for whole in (compressed(), elf()):
        content = bytearray(whole)
        for offset, value in damage:
            content[min(offset, len(content) - 1)] = value
        try:
            check(bytes(content))
        except VmcoreError:
            continue
