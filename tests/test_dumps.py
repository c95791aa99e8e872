"""Saved dumps: which directories are dumps, in which order, and what is told of a whole and of a damaged one."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kdump_initramfs.dumps import show, store
from kdump_initramfs.errors import HostError, KdumpError
from tests import command

RECORD: dict[str, Any] = {
    "schema": 1,
    "complete": True,
    "host": "crashbox",
    "kernel": {"release": "6.1.0-35-amd64", "build_id": "00ff"},
    "crash_time": "2026-05-06T07:08:09Z",
    "panic": "Kernel panic - not syncing: sysrq triggered crash",
    "target": {"name": "/var/crash", "kind": "path", "filesystem_uuid": "u"},
    "collector": {"name": "makedumpfile", "arguments": "-l -d 31"},
    "files": {"vmcore": {"bytes": 3 << 20, "sha256": "ab" * 32}},
    "steps": [{"name": "20-modules", "status": 0, "started_s": 1.5, "seconds": 0.25}],
    "warnings": ["makedumpfile does not know this kernel version"],
    "memory_low_kib": 20480,
    "manifest_digest": "cd" * 32,
}
NAME = "crashbox-20260506T070809Z"


def save(place: Path, name: str = NAME, **files: str) -> Path:
    """Save a dump of some files and, unless one is given, a record."""
    directory = place / name
    directory.mkdir(parents=True)
    for file, content in {"dump.json": json.dumps(RECORD), **files}.items():
        (directory / file).write_text(content)
    return directory


def names(*places: Path) -> list[str]:
    return [dump.name for dump in store.find(str(place) for place in places)]


@pytest.mark.parametrize(
    "name",
    ["crashbox-20260506T070809Z", "a.b_c-d-20260506T070809Z", "localhost-20260506T070809Z-1", "x-20260506T070809Z-999"],
)
def test_directory_of_this_name_is_a_dump(name: str, tmp_path: Path) -> None:
    save(tmp_path, name)
    assert names(tmp_path) == [name]


@pytest.mark.parametrize(
    "name",
    [
        "202605060708",
        "crashbox",
        "-20260506T070809Z",
        "a b-20260506T070809Z",
        "x-20260506T070809Z-",
        "x-20260506T070809",
    ],
)
def test_directory_of_another_name_is_none(name: str, tmp_path: Path) -> None:
    save(tmp_path, name)
    assert names(tmp_path) == []


def test_link_and_file_of_that_name_are_none(tmp_path: Path) -> None:
    real = save(tmp_path / "elsewhere", NAME)
    place = tmp_path / "place"
    place.mkdir()
    (place / NAME).symlink_to(real)
    (place / f"{NAME}-1").write_text("a file")
    assert names(place) == []


def test_dumps_of_all_places_come_oldest_first(tmp_path: Path) -> None:
    save(tmp_path / "one", "zz-20260101T000000Z")
    save(tmp_path / "one", "aa-20260301T000000Z")
    save(tmp_path / "two", "mm-20260201T000000Z")
    found = names(tmp_path / "one", tmp_path / "two", tmp_path / "absent")
    assert found == ["zz-20260101T000000Z", "mm-20260201T000000Z", "aa-20260301T000000Z"]


def test_dumps_of_one_second_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    expected = [NAME, f"{NAME}-1", f"{NAME}-2", f"{NAME}-10"]
    for name in reversed(expected):
        save(tmp_path, name)
    assert names(tmp_path) == expected


def test_place_given_twice_counts_once(tmp_path: Path) -> None:
    save(tmp_path)
    assert names(tmp_path, tmp_path) == [NAME]


def test_complete_dump_is_described(tmp_path: Path) -> None:
    directory = save(tmp_path, vmcore="x" * 10, **{"vmcore-dmesg.txt": "one\ntwo\nthree\n"})
    (dump,) = store.find([str(tmp_path)])
    assert (dump.is_complete, dump.incomplete) == (True, ())
    assert dump.size_bytes == sum(os.path.getsize(directory / name) for name in os.listdir(directory))
    lines = list(show.lines(dump, tail=2))
    assert "state      complete" in lines
    assert "panic      Kernel panic - not syncing: sysrq triggered crash" in lines
    assert "file       vmcore: 3.0 MiB, sha256 " + "ab" * 32 in lines
    assert "warning    makedumpfile does not know this kernel version" in lines
    assert lines[-2:] == ["  two", "  three"]


@pytest.mark.parametrize(
    ("files", "incomplete"),
    [
        ({"dump.json": json.dumps(RECORD | {"complete": False})}, ()),
        ({"dump.json": json.dumps(RECORD | {"complete": False}), "vmcore-incomplete": "x"}, ("vmcore-incomplete",)),
    ],
)
def test_dump_that_did_not_come_to_its_end_is_incomplete(
    files: dict[str, str], incomplete: tuple[str, ...], tmp_path: Path
) -> None:
    save(tmp_path, **files)
    (dump,) = store.find([str(tmp_path)])
    assert (dump.is_complete, dump.incomplete) == (False, incomplete)
    assert "state      INCOMPLETE" in show.lines(dump, tail=0)


def test_dump_without_a_record_is_incomplete(tmp_path: Path) -> None:
    (save(tmp_path) / "dump.json").unlink()
    (dump,) = store.find([str(tmp_path)])
    assert (dump.record, dump.is_complete) == (None, False)
    assert list(show.lines(dump, tail=5))[:2] == [f"dump       {tmp_path}/{NAME}", "state      INCOMPLETE"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"schema": 1}', json.dumps(RECORD).encode()[:-9]])
def test_damaged_record_hides_neither_its_dump_nor_the_others(content: bytes, tmp_path: Path) -> None:
    save(tmp_path, "a-20260101T000000Z")
    (save(tmp_path, "b-20260201T000000Z") / "dump.json").write_bytes(content)
    result = command.run("dumps", "list", "--dir", str(tmp_path))
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert "INCOMPLETE" in lines[1]
    assert "b-20260201T000000Z/dump.json: " in result.stderr
    assert "Traceback" not in result.stderr


def test_field_that_a_later_version_adds_is_no_damage(tmp_path: Path) -> None:
    save(tmp_path, **{"dump.json": json.dumps(RECORD | {"new": {"a": 1}})})
    (dump,) = store.find([str(tmp_path)])
    assert dump.is_complete


def test_newest_is_shown_where_none_is_named(tmp_path: Path) -> None:
    for name in ("a-20260101T000000Z", "b-20260201T000000Z"):
        save(tmp_path, name)
    found = store.find([str(tmp_path)])
    assert store.choose(found, "").name == "b-20260201T000000Z"
    assert store.choose(found, "a-20260101T000000Z").name == "a-20260101T000000Z"


def test_dump_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(KdumpError, match="nothing: no such dump") as caught:
        store.choose(store.find([str(tmp_path)]), "nothing")
    assert caught.value.hint == f"there are: {NAME}"
    with pytest.raises(KdumpError, match="no dumps"):
        store.choose([], "")


@pytest.mark.parametrize(
    ("content", "lines", "tail"),
    [
        (b"", 3, ()),
        (b"a\nb\n", 1, ("b",)),
        (b"a\nb\n", 9, ("a", "b")),
        (b"a\nb\n", 0, ()),
        (b"a\xff\n", 1, ("a\ufffd",)),
    ],
)
def test_tail_is_the_last_lines_of_the_log(content: bytes, lines: int, tail: tuple[str, ...], tmp_path: Path) -> None:
    (save(tmp_path) / "vmcore-dmesg.txt").write_bytes(content)
    (dump,) = store.find([str(tmp_path)])
    assert store.tail(dump, lines) == tail


def test_escape_sequences_of_the_log_do_not_reach_the_terminal(tmp_path: Path) -> None:
    save(tmp_path, **{"vmcore-dmesg.txt": "a\x1b[2Jb\n"})
    assert "\x1b" not in command.run("dumps", "show", "--dir", str(tmp_path)).stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_place_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    with pytest.raises(HostError, match="Permission denied"):
        names(tmp_path)
