"""The table of mounts: what of it counts, and what hides what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.host import mounts
from kdump_initramfs.host.mounts import Mount

LINE = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue"


def test_all_fields_of_the_manual_page_are_read() -> None:
    assert mounts.parse(LINE) == (
        Mount(
            id="36",
            parent="35",
            number="98:0",
            fs_root="/mnt1",
            mount_point="/mnt2",
            fs_type="ext3",
            source="/dev/root",
            options=("rw", "noatime", "rw", "errors=continue"),
        ),
    )


@pytest.mark.parametrize(
    ("escaped", "plain"),
    [
        (r"/a\040b", "/a b"),
        (r"/a\011b", "/a\tb"),
        (r"/a\012b", "/a\nb"),
        (r"/a\134b", "/a\\b"),
        (r"/a\134040b", r"/a\040b"),
        (r"/a\04", r"/a\04"),
        ("/ä#", "/ä#"),
    ],
)
def test_octal_escapes_are_undone_once(escaped: str, plain: str) -> None:
    (mount,) = mounts.parse(f"1 0 8:1 {escaped} {escaped} rw - ext4 {escaped} rw")
    assert (mount.fs_root, mount.mount_point, mount.source) == (plain, plain, plain)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-",
        " - ",
        LINE.replace(" - ", " "),
        LINE.partition(" - ")[0],
        LINE.partition(" - ")[0] + " - ext3",
        "36 35 - ext3 /dev/root rw",
        "x" * 70_000,
    ],
)
def test_line_that_is_not_of_the_format_is_left_out(line: str) -> None:
    assert len(mounts.parse(f"{line}\n{LINE}\n")) == 1


@given(st.text(max_size=300))
def test_any_text_is_some_mounts(text: str) -> None:
    assert isinstance(mounts.parse(text), tuple)


TABLE = mounts.parse(
    """\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 8:2 / /var rw - ext4 /dev/sda2 rw
3 2 8:3 / /var/crash rw - xfs /dev/sda3 rw
4 1 8:4 / /srv rw - ext4 /dev/sda4 rw
5 1 8:5 / /srv rw - xfs /dev/sda5 rw
6 1 8:3 /deep/dir /bind rw - xfs /dev/sda3 rw
"""
)


@pytest.mark.parametrize(
    ("path", "number", "inside"),
    [
        ("/", "8:1", ""),
        ("/variable", "8:1", "variable"),
        ("/var", "8:2", ""),
        ("/var/crashes", "8:2", "crashes"),
        ("/var/crash", "8:3", ""),
        ("/var/crash/a/b", "8:3", "a/b"),
        ("/srv/x", "8:5", "x"),
        ("/bind", "8:3", "deep/dir"),
        ("/bind/x", "8:3", "deep/dir/x"),
    ],
)
def test_longest_mount_point_holds_a_path_and_of_equals_the_last(path: str, number: str, inside: str) -> None:
    mount = mounts.holder(TABLE, path)
    assert mount is not None
    assert mount.number == number
    assert mounts.directory_inside(mount, path) == inside


def test_path_on_no_mount_has_no_holder() -> None:
    assert mounts.holder(TABLE[1:], "/home") is None


HIDING = (
    "28 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
    "29 28 8:2 / /var rw - ext4 /dev/sda2 rw\n"
    "30 29 8:3 / /var/crash rw - xfs /dev/sda3 rw\n"
)


@pytest.mark.parametrize(
    ("later", "hidden_by"),
    [
        ("", ""),
        ("31 29 8:4 / /var rw - ext4 /dev/sda4 rw", "/dev/sda4"),
        ("31 28 8:4 / /var/crashes rw - ext4 /dev/sda4 rw", ""),
        # Mounted over the very place: that is what holds the directory then.
        ("31 30 8:4 / /var/crash rw - ext4 /dev/sda4 rw", ""),
        ("31 30 8:4 / /var/crash/deeper rw - ext4 /dev/sda4 rw", ""),
    ],
)
def test_mount_is_hidden_by_what_is_mounted_above_it_later(later: str, hidden_by: str) -> None:
    found = mounts.parse(HIDING + later)
    holder = mounts.holder(found, "/var/crash")
    assert holder
    over = mounts.hidden_by(found, holder)
    assert (over.source if over else "") == hidden_by
