"""The types of content that libblkid knows: each is something here."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.formats import blkid_types, filesystems, superblock
from tests import programs


def test_every_type_of_libblkid_has_a_meaning() -> None:
    programs.need("blkid")
    known = subprocess.run(["blkid", "-k"], capture_output=True, text=True, check=True).stdout.split()
    assert len(known) > 60
    assert not {*known} - blkid_types.TYPES.keys()


def test_every_signature_that_is_looked_for_has_a_meaning() -> None:
    assert {each.type for each in superblock.SIGNATURES} - blkid_types.TYPES.keys() == {"partition table"}


def test_what_is_parsed_is_a_file_system_or_belongs_to_one() -> None:
    assert {blkid_types.TYPES[name].kind for name in filesystems.TYPES - {"jbd"}} == {"filesystem"}
    assert blkid_types.TYPES["jbd"].kind == "companion"


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("bcache", "layer", "a device of bcache"),
        ("isw_raid_member", "member", "Intel"),
        ("xfs_external_log", "companion", "an external log of XFS"),
        ("swsuspend", "swap", "hibernated"),
        ("nilfs2", "filesystem", "nilfs2"),
        ("zfs_member", "member", "ZFS"),
    ],
)
def test_type_is_described(name: str, kind: str, words: str) -> None:
    assert blkid_types.TYPES[name].kind == kind
    assert words in blkid_types.describe(name)


def test_type_that_is_new_is_described_by_its_name() -> None:
    assert blkid_types.describe("fs_of_tomorrow") == "what libblkid calls fs_of_tomorrow"


# --- by what is on the device ------------------------------------------------------------------------------------

SIZE = 64 << 20
# Bytes that libblkid takes for a type without looking further.
SIGNATURES = (
    ("ceph_bluestore", 0, b"bluestore block device"),
    ("vdo", 0, b"dmvdo001"),
    ("LVM1_member", 0, b"HM\1\0"),
    ("cramfs", 0, bytes.fromhex("453dcd28")),
    ("romfs", 0, b"-rom1fs-"),
    ("ubi", 0, b"UBI#"),
    ("zonefs", 0, b"SFOZ"),
    ("oracleasm", 32, b"ORCLDISK"),
    ("ocfs2", 1024, b"OCFSV2"),
    ("ocfs2", 4096, b"OCFSV2"),
    ("swsuspend", 4086, b"S1SUSPEND"),
    ("swsuspend", 4086, b"LINHIB0001"),
    ("nss", 4096, b"SPB5"),
    ("ufs", 9564, bytes.fromhex("19540119")),
    ("reiser4", 65536, b"ReIsEr4"),
    ("VMFS_volume_member", 1 << 20, bytes.fromhex("0dd001c0")),
    ("VMFS", 2 << 20, bytes.fromhex("5ef1ab2f")),
    ("isw_raid_member", SIZE - 1024, b"Intel Raid ISM Cfg Sig. "),
    ("ddf_raid_member", SIZE - 512, bytes.fromhex("de11de11")),
)


def seems(path: Path) -> str:
    with open(path, "rb") as stream:

        def read(offset: int, size: int) -> bytes:
            stream.seek(offset)
            return stream.read(size)

        return blkid_types.identify(read, path.stat().st_size)


def said_by_blkid(path: Path) -> str:
    words = ["blkid", "-p", "-o", "value", "-s", "TYPE", str(path)]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def disk(directory: Path, *written: tuple[int, bytes]) -> Path:
    path = directory / "disk"
    with open(path, "wb") as stream:
        stream.truncate(SIZE)
        for offset, content in written:
            stream.seek(offset)
            stream.write(content)
    return path


@pytest.mark.parametrize(("name", "offset", "magic"), SIGNATURES)
def test_content_is_what_libblkid_says(name: str, offset: int, magic: bytes, tmp_path: Path) -> None:
    programs.need("blkid")
    path = disk(tmp_path, (offset, magic))
    assert seems(path) == said_by_blkid(path) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DM_verity_hash", ["veritysetup", "format", "{disk}.data", "{disk}"]),
        (
            "crypto_LUKS",
            ["cryptsetup", "luksFormat", "-q", "--pbkdf-force-iterations", "1000", "{disk}", "{disk}.data"],
        ),
        ("swap", ["mkswap", "{disk}"]),
        ("btrfs", ["mkfs.btrfs", "-q", "-f", "--mixed", "{disk}"]),
        ("f2fs", ["mkfs.f2fs", "-q", "-f", "{disk}"]),
    ],
)
def test_content_is_what_its_tool_has_made(name: str, words: list[str], tmp_path: Path) -> None:
    programs.need(words[0])
    path = disk(tmp_path)
    (tmp_path / "disk.data").write_bytes(bytes(4096))
    if words[1] == "luksFormat":
        words = [*words, "--pbkdf", "pbkdf2"]
    subprocess.run([word.format(disk=path) for word in words], check=True, capture_output=True)
    assert seems(path) == said_by_blkid(path) == name


def test_member_of_an_array_is_one_though_a_file_system_begins_on_it(tmp_path: Path) -> None:
    path = disk(tmp_path, (0x438, b"\x53\xef"), (SIZE - 1024, b"Intel Raid ISM Cfg Sig. "))
    assert seems(path) == "isw_raid_member"


@given(st.binary(max_size=2048), st.integers(0, 1 << 40))
def test_any_bytes_seem_to_be_something_known_or_nothing(content: bytes, size: int) -> None:
    found = blkid_types.identify(lambda offset, length: content[offset : offset + length], size)
    assert found in {"", *blkid_types.TYPES}
