"""The archive: written and read back, against cpio(1) and busybox, and read from broken bytes."""

import io
import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdump_initramfs.errors import ImageError
from kdump_initramfs.formats import cpio

Entry = tuple[str, int, bytes, tuple[int, int]]

ENTRIES: tuple[Entry, ...] = (
    ("dev", stat.S_IFDIR | 0o755, b"", (0, 0)),
    ("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)),
    ("dev/vda", stat.S_IFBLK | 0o660, b"", (254, 4097)),
    ("empty", stat.S_IFREG | 0o600, b"", (0, 0)),
    ("init", stat.S_IFREG | 0o755, b"#!/bin/sh\n" * 500, (0, 0)),
    ("lib", stat.S_IFLNK | 0o777, b"usr/lib", (0, 0)),
    ("odd name é\udcff", stat.S_IFREG | 0o644, b"x", (0, 0)),
)


def write(entries: Iterable[Entry]) -> bytes:
    stream = io.BytesIO()
    archive = cpio.Writer(stream.write)
    for name, mode, data, device in entries:
        archive.add(name, mode, data, device=device)
    archive.finish()
    assert archive.size_bytes == len(stream.getvalue())
    return stream.getvalue()


def read(data: bytes) -> list[cpio.Member]:
    return list(cpio.read(io.BytesIO(data)))


def entries_of(members: Iterable[cpio.Member]) -> list[Entry]:
    return [(member.name, member.mode, member.data, member.device) for member in members]


def pack(command: list[str], directory: Path, names: list[str]) -> bytes:
    text = "".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape")
    return subprocess.run(command, input=text, cwd=directory, check=True, capture_output=True, timeout=60).stdout


needs_cpio = pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
needs_busybox = pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox is not installed")


# --- writing -----------------------------------------------------------------------------------------------------


def test_the_header_is_the_one_that_the_kernel_documents() -> None:
    data = write([("a/b", stat.S_IFCHR | 0o640, b"xyz", (4, 64))])
    header = (
        b"070701"  # c_magic
        b"00000001"  # c_ino
        b"000021A0"  # c_mode
        b"00000000"  # c_uid
        b"00000000"  # c_gid
        b"00000001"  # c_nlink
        b"00000000"  # c_mtime
        b"00000003"  # c_filesize
        b"00000000"  # c_maj
        b"00000000"  # c_min
        b"00000004"  # c_rmaj
        b"00000040"  # c_rmin
        b"00000004"  # c_namesize
        b"00000000"  # c_chksum
    )
    assert data.startswith(header + b"a/b\0\0\0" + b"xyz\0" + b"070701")
    assert b"TRAILER!!!\0" in data
    assert len(data) % 512 == 0


def test_inode_numbers_differ_and_nothing_else_changes() -> None:
    members = read(write(ENTRIES))
    assert [member.ino for member in members] == list(range(1, len(ENTRIES) + 1))
    assert {(member.uid, member.gid, member.mtime_s, member.origin) for member in members} == {(0, 0, 0, (0, 0))}
    assert [member.nlink for member in members] == [2, 1, 1, 1, 1, 1, 1]


def test_the_same_entries_give_the_same_bytes() -> None:
    assert write(ENTRIES) == write(ENTRIES)


def test_pieces_give_the_same_bytes_as_a_whole() -> None:
    stream = io.BytesIO()
    archive = cpio.Writer(stream.write)
    archive.add_chunks("x", stat.S_IFREG | 0o644, 7, [b"abc", b"", b"defg"])
    archive.add_chunks("y", stat.S_IFREG | 0o644, 0, [])
    archive.finish()
    assert stream.getvalue() == write(
        [("x", stat.S_IFREG | 0o644, b"abcdefg", (0, 0)), ("y", stat.S_IFREG | 0o644, b"", (0, 0))]
    )


@pytest.mark.parametrize("chunks", [[b"abc"], [b"abcd", b"e"], [b"abcde"], []])
def test_a_file_that_changes_while_it_is_copied_is_an_error(chunks: list[bytes]) -> None:
    with pytest.raises(ImageError, match=r"^x: its size changed while it was copied$"):
        cpio.Writer(io.BytesIO().write).add_chunks("x", stat.S_IFREG | 0o644, 4, chunks)


def test_a_file_that_grows_without_end_is_not_followed() -> None:
    read_bytes = 0

    def chunks() -> Iterator[bytes]:
        nonlocal read_bytes
        for _ in range(10):
            read_bytes += 3
            yield b"abc"

    with pytest.raises(ImageError):
        cpio.Writer(io.BytesIO().write).add_chunks("x", stat.S_IFREG | 0o644, 4, chunks())
    assert read_bytes == 6


@pytest.mark.parametrize("name", ["", "/init", "a\0b", "TRAILER!!!", "n" * 4096, "é" * 2048])
def test_names_that_the_format_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(ImageError):
        cpio.Writer(io.BytesIO().write).add(name, stat.S_IFREG | 0o644)


def test_the_longest_name_is_held() -> None:
    assert read(write([("n" * 4095, stat.S_IFREG | 0o644, b"", (0, 0))]))[0].name == "n" * 4095


def test_a_file_of_4_gib_is_refused_before_anything_is_written() -> None:
    stream = io.BytesIO()
    archive = cpio.Writer(stream.write)
    with pytest.raises(ImageError, match=r"^x: 4294967296 bytes; a cpio archive holds files of less than 4 GiB$"):
        archive.add_chunks("x", stat.S_IFREG | 0o644, 1 << 32, [])
    assert stream.getvalue() == b""


def test_a_link_target_that_the_kernel_would_drop_is_refused() -> None:
    archive = cpio.Writer(io.BytesIO().write)
    archive.add("x", stat.S_IFLNK | 0o777, b"t" * 4095)
    with pytest.raises(ImageError, match=r"^y: the target of the link is longer than 4095 bytes$"):
        archive.add("y", stat.S_IFLNK | 0o777, b"t" * 4096)


# --- reading -----------------------------------------------------------------------------------------------------

NAMES = st.text(min_size=1, max_size=40).filter(
    lambda name: not name.startswith("/") and "\0" not in name and name != "TRAILER!!!"
)
MODES = st.builds(
    int.__or__, st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR]), st.integers(0, 0o7777)
)
NUMBERS = st.integers(0, 0xFFFFFFFF)


@given(st.lists(st.tuples(NAMES, MODES, st.binary(max_size=200), st.tuples(NUMBERS, NUMBERS)), max_size=8))
@example(list(ENTRIES))
def test_what_is_written_is_read(entries: list[Entry]) -> None:
    assert entries_of(read(write(entries))) == entries


@given(st.integers(0, len(write(ENTRIES))), st.binary(max_size=120), st.booleans())
def test_any_bytes_are_read_or_refused(position: int, noise: bytes, keep_rest: bool) -> None:  # noqa: FBT001
    whole = write(ENTRIES)
    data = whole[:position] + noise + (whole[position + len(noise) :] if keep_rest else b"")
    try:
        read(data)
    except ImageError as error:
        assert str(error).startswith("cpio archive: ")  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize("length", range(0, 900, 7))
def test_a_truncated_archive_is_refused(length: int) -> None:
    with pytest.raises(
        ImageError, match=rf"^cpio archive: ends at byte {length}, inside an entry or without a trailer$"
    ):
        read(write(ENTRIES)[:length])


def patched(offset: int, field: bytes) -> bytes:
    """Return an archive whose first header is changed."""
    data = write([("name", stat.S_IFREG | 0o644, b"data", (0, 0))])
    return data[:offset] + field + data[offset + len(field) :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (patched(0, b"070702"), "no newc header at byte 0"),
        (patched(0, b"070707"), "no newc header at byte 0"),
        (patched(6, b"+0000001"), "no newc header at byte 0"),
        (patched(6, b"0000_001"), "no newc header at byte 0"),
        (patched(6, b"00 00001"), "no newc header at byte 0"),
        (patched(54, b"FFFFFFFF"), "entry at byte 0: 4294967295 bytes are too many for an image"),
        (patched(94, b"00000000"), "entry at byte 0: a name of 0 bytes"),
        (patched(94, b"00000001"), "entry at byte 0: a name of 1 bytes"),
        (patched(94, b"00001001"), "entry at byte 0: a name of 4097 bytes"),
        (patched(94, b"00000004"), "entry at byte 0: the name does not end where it should"),
        (patched(94, b"00000006"), "entry at byte 0: the name does not end where it should"),
        (patched(54, b"00000008"), "no newc header at byte 124"),
        (patched(54, b"3FFFFFFF"), "ends at byte 512, inside an entry or without a trailer"),
    ],
)
def test_a_broken_header_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=f"^cpio archive: {message}$"):
        read(data)


class Slow(io.BytesIO):
    """Gives one byte for each read, as a pipe may."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 1))


def test_short_reads_are_no_end() -> None:
    assert entries_of(cpio.read(Slow(write(ENTRIES)))) == list(ENTRIES)


def test_what_follows_the_trailer_is_left_alone() -> None:
    assert entries_of(read(write(ENTRIES) + b"anything")) == list(ENTRIES)


# --- against others ----------------------------------------------------------------------------------------------


@needs_cpio
def test_cpio_lists_what_was_written() -> None:
    command = ["cpio", "--quiet", "-itvn"]
    output = subprocess.run(
        command,
        input=write(ENTRIES),
        check=True,
        capture_output=True,
        timeout=60,
        env={"TZ": "UTC", "LC_ALL": "C.UTF-8"},
    )
    assert output.stderr == b""
    words = [line.split(None, 8) for line in output.stdout.decode("utf-8", "surrogateescape").splitlines()]
    assert [line[0] for line in words] == [stat.filemode(mode) for _, mode, _, _ in ENTRIES]
    assert [line[2:4] for line in words] == [["0", "0"]] * len(ENTRIES)
    assert "254,4097" in "".join(words[2])
    assert words[4][4] == "5000"
    assert words[5][8] == "lib -> usr/lib"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["cpio", "--quiet", "-id", "--no-preserve-owner"], marks=needs_cpio, id="cpio"),
        pytest.param(["busybox", "cpio", "-id"], marks=needs_busybox, id="busybox"),
    ],
)
def test_others_unpack_what_was_written(tmp_path: Path, command: list[str]) -> None:
    entries = [entry for entry in ENTRIES if not entry[3][0]]
    subprocess.run(command, input=write(entries), cwd=tmp_path, check=True, capture_output=True, timeout=60)
    for name, mode, data, _ in entries:
        path = tmp_path / name
        status = path.lstat()
        assert status.st_mode == mode
        if stat.S_ISLNK(mode):
            assert os.readlink(path) == data.decode()
        elif stat.S_ISREG(mode):
            assert path.read_bytes() == data


@pytest.fixture
def some_files(tmp_path: Path) -> Path:
    (tmp_path / "d").mkdir(mode=0o750)
    (tmp_path / "d/one").write_bytes(b"content" * 1000)
    os.link(tmp_path / "d/one", tmp_path / "d/two")
    os.link(tmp_path / "d/one", tmp_path / "three")
    (tmp_path / "empty").write_bytes(b"")
    os.link(tmp_path / "empty", tmp_path / "void")
    (tmp_path / "l").symlink_to("d/one")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["cpio", "--quiet", "-o", "-H", "newc"], marks=needs_cpio, id="cpio"),
        pytest.param(["busybox", "cpio", "-o", "-H", "newc"], marks=needs_busybox, id="busybox"),
    ],
)
def test_archives_of_others_are_read_with_hard_links(some_files: Path, command: list[str]) -> None:
    names = ["d", "d/one", "empty", "l", "d/two", "three", "void"]
    members = read(pack(command, some_files, names))
    assert sorted(member.name for member in members) == sorted(names)
    for member in members:
        status = (some_files / member.name).lstat()
        expected = (status.st_mode, status.st_uid, int(status.st_mtime))
        assert (member.mode, member.uid, member.mtime_s) == expected
        if stat.S_ISREG(member.mode):
            assert member.data == (some_files / member.name).read_bytes()
            assert member.nlink == status.st_nlink
    assert next(member.data for member in members if member.name == "l") == b"d/one"
