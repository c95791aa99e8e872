"""Dumps on a device without a file system: what the capture side writes is what `dumps recover` reads."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.dumps import recover, store
from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import rawdump
from kdump_initramfs.formats.rawdump import UNIT_BYTES, Head
from tests import command

NAME = "demo-20231114T221320Z"
ID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
DEVICE_BYTES = 64 * UNIT_BYTES
FILES = {"vmcore-dmesg.txt": b"boot\npanic\n", "vmcore.flat": bytes(range(256)) * 700, "kexec-dmesg.log": b""}


def record_of(files: dict[str, bytes]) -> bytes:
    described = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    record = {
        "schema": 1,
        "complete": True,
        "host": "demo",
        "kernel": {"release": "6.1"},
        "crash_time": "",
        "panic": "",
        "target": {"name": "raw", "kind": "raw"},
        "collector": {"name": "makedumpfile"},
        "files": described,
    }
    return json.dumps(record).encode()


def unit(text: str) -> bytes:
    return text.encode().ljust(UNIT_BYTES, b"\0")


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % UNIT_BYTES)


def write_device(path: Path, files: dict[str, bytes], *, state: str = "complete", name: str = NAME) -> Path:
    content = rawdump.head_text(Head(id=ID, state=state, name=name, units=9))
    for file, data in files.items():
        content += unit(f"KDUMP-FILE 1\nid {ID}\nname {file}\nbytes {len(data)}\n") + padded(data)
    # What an earlier, longer dump has left behind.
    content += unit("KDUMP-FILE 1\nid another\nname vmcore\nbytes 1\n") + padded(b"x")
    path.write_bytes(content.ljust(DEVICE_BYTES, b"\0"))
    return path


@pytest.fixture
def device(tmp_path: Path) -> Path:
    return write_device(tmp_path / "device", {**FILES, "dump.json": record_of(FILES)})


@pytest.fixture
def crash(tmp_path: Path) -> Path:
    directory = tmp_path / "crash"
    directory.mkdir()
    return directory


def state_of(device: Path) -> str:
    content = device.read_bytes()
    head = rawdump.read_head(lambda offset, size: content[offset : offset + size])
    assert head
    return head.state


def test_dump_directory_has_every_file_and_is_for_nobody_else(device: Path, crash: Path) -> None:
    found = recover.recover(str(device), str(crash))
    assert found.path == str(crash / NAME)
    dump = store.read(found.path)
    assert dump.is_complete
    assert {name: (crash / NAME / name).read_bytes() for name in FILES} == FILES
    assert {oct(path.stat().st_mode & 0o777) for path in (crash / NAME).iterdir()} == {"0o600"}
    assert oct((crash / NAME).stat().st_mode & 0o777) == "0o700"
    assert state_of(device) == "recovered"
    assert os.listdir(crash) == [NAME]


def test_dump_is_recovered_once(device: Path, crash: Path) -> None:
    recover.recover(str(device), str(crash))
    again = recover.recover(str(device), str(crash))
    assert (again.path, again.note) == ("", "recovered already")
    assert os.listdir(crash) == [NAME]


def test_recovery_that_was_interrupted_before_its_mark_is_not_done_twice(device: Path, crash: Path) -> None:
    before = device.read_bytes()
    recover.recover(str(device), str(crash))
    device.write_bytes(before)
    assert recover.recover(str(device), str(crash)).path == str(crash / NAME)
    assert os.listdir(crash) == [NAME]
    assert state_of(device) == "recovered"


def test_another_dump_of_this_name_is_left_alone(device: Path, crash: Path) -> None:
    (crash / NAME).mkdir()
    (crash / NAME / "dump.json").write_text("{}")
    assert recover.recover(str(device), str(crash)).path == str(crash / f"{NAME}-1")
    assert (crash / NAME / "dump.json").read_text() == "{}"


def test_file_that_is_not_what_its_record_says_is_incomplete(tmp_path: Path, crash: Path) -> None:
    damaged = {**FILES, "vmcore.flat": b"other"}
    device = write_device(tmp_path / "device", {**damaged, "dump.json": record_of(FILES)})
    recover.recover(str(device), str(crash))
    assert store.read(str(crash / NAME)).incomplete == ("vmcore.flat-incomplete",)


def test_dump_without_record_gives_what_is_whole(tmp_path: Path, crash: Path) -> None:
    device = write_device(tmp_path / "device", {"vmcore-dmesg.txt": b"panic\n"}, state="writing")
    recover.recover(str(device), str(crash))
    assert [path.name for path in (crash / NAME).iterdir()] == ["vmcore-dmesg.txt"]


def test_nothing_is_recovered_where_nothing_was_saved(tmp_path: Path, crash: Path) -> None:
    blank = tmp_path / "blank"
    blank.write_bytes(bytes(DEVICE_BYTES))
    assert recover.recover(str(blank), str(crash)).note == "nothing to recover"
    begun = write_device(tmp_path / "begun", {}, state="writing")
    assert recover.recover(str(begun), str(crash)).note == "a dump was begun there, and no file of it is whole"
    assert os.listdir(crash) == []


@pytest.mark.parametrize("name", ["../../etc-20231114T221320Z", "x", "", "a\x1b[31m-20231114T221320Z"])
def test_name_that_we_would_not_make_is_refused(name: str, tmp_path: Path, crash: Path) -> None:
    device = write_device(tmp_path / "device", FILES, name=name)
    with pytest.raises(HostError, match="which we would not make"):
        recover.recover(str(device), str(crash))


def test_file_with_a_name_that_we_do_not_make_is_left(tmp_path: Path, crash: Path) -> None:
    device = write_device(tmp_path / "device", {"../evil": b"x", **FILES})
    recover.recover(str(device), str(crash))
    assert {path.name for path in (crash / NAME).iterdir()} == FILES.keys()
    assert not (tmp_path / "evil").exists()


def test_file_beyond_the_end_of_the_device_is_left(tmp_path: Path, crash: Path) -> None:
    device = write_device(tmp_path / "device", FILES)
    content = device.read_bytes().replace(b"name vmcore.flat\nbytes 179200\n", b"name vmcore.flat\nbytes 999999999\n")
    device.write_bytes(content)
    recover.recover(str(device), str(crash))
    assert [path.name for path in (crash / NAME).iterdir()] == ["vmcore-dmesg.txt"]


def test_dump_that_does_not_fit_is_left_on_the_device(
    device: Path, crash: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "_RESERVE_BYTES", 1 << 60)
    with pytest.raises(HostError, match="the dump takes 0 MiB"):
        recover.recover(str(device), str(crash))
    assert state_of(device) == "complete"
    assert os.listdir(crash) == []


def test_command_names_device_and_directory(device: Path, crash: Path) -> None:
    result = command.run("dumps", "recover", str(device), "--to", str(crash))
    assert (result.returncode, result.stdout) == (0, f"{device}: {crash / NAME}\n")
    problem, hint = command.complaint(command.run("dumps", "recover", "/nowhere", "--to", str(crash)))
    assert problem == "/nowhere: No such file or directory"
    assert hint


@given(st.binary(max_size=300), st.integers(0, 4))
def test_whatever_is_on_a_device_is_read_to_an_end(noise: bytes, place: int) -> None:
    head = Head(id=ID, state="complete", name=NAME, units=1)
    content = bytearray(rawdump.head_text(head) + unit(f"KDUMP-FILE 1\nid {ID}\nname a\nbytes 1\n") + padded(b"x"))
    content[place * 30 : place * 30 + len(noise)] = noise
    content[UNIT_BYTES + place : UNIT_BYTES + place + len(noise)] = noise

    def read(offset: int, size: int) -> bytes:
        return bytes(content[offset : offset + size])

    if found := rawdump.read_head(read):
        assert all(file.offset + file.size_bytes <= len(content) for file in rawdump.files(read, found, len(content)))
