"""The types of content that libblkid knows: each is something here."""

import subprocess

import pytest

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
        ("xfs_external_log", "companion", "the log of an XFS"),
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
