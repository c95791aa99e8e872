"""Faults of the storage and of the machine: the capture image boots without a first kernel, on a made-up core.

The elfcorehdr= of its command line names a core header that QEMU has put into memory beyond mem=, so that the kernel
offers /proc/vmcore (fs/proc/vmcore.c). makedumpfile finds no kernel in it; the plain copy saves it.
"""

import contextlib
import gzip
import hashlib
import os
import random
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from msgspec import Struct

from kdump_initramfs.dumps import store
from kdump_initramfs.rehearsal import qemu
from kdump_initramfs.rehearsal.console import OnLine
from kdump_initramfs.storage import TargetFacts
from tests import capture, kernels

pytestmark = pytest.mark.guest

_MIB = 1 << 20
TIMEOUT_S = 120
DEVICE_TIMEOUT = "capture.device_timeout_s=3"

# Where things are in the guest's memory, of which the kernel gets the first part.
MEM = "256M"
HEADER, NOTE, MEMORY = 0x3000_0000, 0x3000_1000, 0x3010_0000
GUEST_MIB = 1024
VMCOREINFO = b"OSRELEASE=6.1.0-crashed\nCRASHTIME=1700000000\n"
STAMP = f"{capture.HOST}-20231114T221320Z"

OTHER = capture.target(uuid=capture.OTHER_FS_UUID)
MAKEDUMPFILE = "bin/makedumpfile"
SAVES_LOG = '#!/bin/sh\nfor last; do :; done\ncase $1 in --dump-dmesg) echo "a log" >"$last"; exit ;; esac\n'


class Core(Struct, frozen=True):
    """The memory of a crashed kernel, as files that QEMU loads."""

    words: tuple[str, ...]
    memory: bytes


def make_core(directory: Path, memory_mib: int) -> Core:
    note = struct.pack("<III12s", 11, len(VMCOREINFO), 0, b"VMCOREINFO") + VMCOREINFO + bytes(3)
    memory = random.Random(memory_mib).randbytes(memory_mib * _MIB)  # noqa: S311 - the same in every run
    identity = b"\x7fELF\2\1\1" + bytes(9)
    header = struct.pack("<16sHHIQQQIHHHHHH", identity, 4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    header += struct.pack("<IIQQQQQQ", 4, 0, NOTE, 0, NOTE, len(note), len(note), 0)
    header += struct.pack("<IIQQQQQQ", 1, 7, MEMORY, 0xFFFF_8880_0000_0000 + MEMORY, MEMORY, *2 * [len(memory)], 0)
    words: list[str] = []
    for name, address, content in (("header", HEADER, header), ("note", NOTE, note), ("memory", MEMORY, memory)):
        (directory / name).write_bytes(content)
        words += ("-device", f"loader,file={directory / name},addr={address:#x},force-raw=on")
    return Core(tuple(words), memory)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Core:
    return make_core(tmp_path_factory.mktemp("core"), 8)


class Ran(Struct, frozen=True):
    console: str
    # Whether the guest has ended by itself.
    ended: bool


def make_image(directory: Path, targets: Sequence[TargetFacts], *overrides: str) -> Path:
    image = directory / "capture.img"
    words = (DEVICE_TIMEOUT, *overrides)
    capture.build_image(capture.release("cloud"), capture.facts(*targets), image, *words)
    return image


def boot(
    image: Path,
    disks: Sequence[qemu.Disk] = (),
    core: Core | None = None,
    *,
    kind: capture.KernelKind = "cloud",
    extra: tuple[str, ...] = (),
    timeout_s: float = TIMEOUT_S,
    on_line: OnLine | None = None,
) -> Ran:
    """Boot the capture image, to its end, or to a line of the console that stop_at() waits for."""
    kernel = capture.release(kind)
    elfcorehdr = f" elfcorehdr={HEADER:#x}" if core else ""
    guest = qemu.Guest(
        kernel=capture.booted_kernel(kernel),
        initrd=str(image),
        append=f"console=ttyS0 panic=5 {kernels.FRUGAL} nokaslr reset_devices mem={MEM}{elfcorehdr}",
        memory_mib=GUEST_MIB,
        disks=tuple(disks),
        extra=(*(core.words if core else ()), *extra),
    )
    log = image.with_suffix(".console")
    ended = False
    with contextlib.suppress(_HeardError):
        ended = (
            qemu.run(guest, accel="tcg", timeout_s=timeout_s, console_log=str(log), on_line=on_line).ended == "exited"
        )
    return Ran(log.read_text(errors="replace"), ended)


class _HeardError(Exception):
    """The guest has said what it was waited for."""


def stop_at(words: str) -> OnLine:
    def hear(line: str) -> None:
        if words in line:
            raise _HeardError

    return hear


def make_disk(path: Path, *, uuid: str = capture.FS_UUID, size_mib: int = 160) -> Path:
    with path.open("wb") as stream:
        stream.truncate(size_mib * _MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-U", uuid, path], check=True)
    return path


def on_disk(disk: Path, place: Path) -> Path:
    """Return a directory below `place` with what is on the disk after what a reboot does: its journal is replayed."""
    copy, directory = place / "disk.copy", place / "disk.files"
    subprocess.run(["cp", "--sparse=always", disk, copy], check=True)
    subprocess.run(["e2fsck", "-fy", copy], capture_output=True, check=False)
    directory.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump / {directory}", copy], capture_output=True, check=True)
    (directory / "lost+found").rmdir()
    return directory


def names(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def assert_gave_up(ran: Ran) -> None:
    assert ran.ended
    assert "nothing could be saved" in ran.console
    assert "saved to target" not in ran.console


# --- what works --------------------------------------------------------------------------------------------------


def test_every_crash_gets_its_own_dump(tmp_path: Path, core: Core) -> None:
    image, disk = make_image(tmp_path, [capture.target()]), make_disk(tmp_path / "disk")
    for _ in range(2):
        assert "saved to target 0" in boot(image, [qemu.Disk(path=str(disk))], core).console
    found = on_disk(disk, tmp_path)
    assert {path.name for path in found.iterdir()} == {STAMP, f"{STAMP}-1"}
    for dump in store.find([str(found)]):
        assert dump.is_complete
        assert not dump.incomplete
        assert gzip.decompress((Path(dump.path) / "vmcore.gz").read_bytes()).endswith(core.memory)


def test_the_second_target_gets_the_dump_where_the_first_is_absent(tmp_path: Path, core: Core) -> None:
    image, disk = make_image(tmp_path, [OTHER, capture.target()]), make_disk(tmp_path / "disk")
    ran = boot(image, [qemu.Disk(path=str(disk))], core)
    assert f"no device with file system UUID {capture.OTHER_FS_UUID} after 3 s" in ran.console
    assert "saved to target 1" in ran.console
    assert store.read(str(on_disk(disk, tmp_path) / STAMP)).is_complete


# --- storage that does not work ----------------------------------------------------------------------------------


def test_a_read_only_disk_is_passed_over(tmp_path: Path, core: Core) -> None:
    image = make_image(tmp_path, [OTHER, capture.target()])
    locked, good = make_disk(tmp_path / "locked", uuid=capture.OTHER_FS_UUID), make_disk(tmp_path / "good")
    before = digest(locked)
    ran = boot(image, [qemu.Disk(path=str(locked), readonly=True), qemu.Disk(path=str(good))], core)
    assert f"file system UUID {capture.OTHER_FS_UUID} could only be mounted read-only" in ran.console
    assert "target 0 failed" in ran.console
    assert "saved to target 1" in ran.console
    assert digest(locked) == before
    assert store.read(str(on_disk(good, tmp_path) / STAMP)).is_complete


def test_nothing_is_written_into_memory_where_the_target_cannot_be_mounted(tmp_path: Path, core: Core) -> None:
    image, disk = make_image(tmp_path, [capture.target()]), make_disk(tmp_path / "disk")
    with disk.open("r+b") as stream:
        # s_feature_incompat of the superblock: features that no kernel has.
        stream.seek(1024 + 0x60)
        stream.write(b"\xff\xff\xff\xff")
    # The first file system of all is the memory: a file below its /target would be one on no device.
    listing = 'log "in memory: $(find /target -type f | wc -l), $(find / -xdev -name "*-incomplete" | wc -l)"'
    patch = {"lib/kdump/lib.sh": lambda text: text.replace("take_action() {\n", f"take_action() {{\n{listing}\n")}
    capture.patch_image(image, patch)
    ran = boot(image, [qemu.Disk(path=str(disk))], core)
    assert_gave_up(ran)
    assert "cannot mount vda (ext4)" in ran.console
    assert "in memory: 0, 0" in ran.console


def test_a_device_that_is_absent_is_not_waited_for_for_ever(tmp_path: Path, core: Core) -> None:
    ran = boot(make_image(tmp_path, [capture.target(lvm=True)]), [], core, timeout_s=60)
    assert_gave_up(ran)
    assert "storage is not there after 3 s: 35-lvm" in ran.console


def test_a_file_system_that_is_there_twice_is_refused(tmp_path: Path, core: Core) -> None:
    image, disk = make_image(tmp_path, [capture.target()]), make_disk(tmp_path / "disk")
    clone = Path(shutil.copyfile(disk, tmp_path / "clone"))
    before = digest(disk)
    ran = boot(image, [qemu.Disk(path=str(path)) for path in (disk, clone)], core)
    assert_gave_up(ran)
    assert f"file system UUID {capture.FS_UUID} is on several devices: vda vdb" in ran.console
    assert {digest(disk), digest(clone)} == {before}


@pytest.fixture
def small_store(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a file system of its own, which is soon full."""
    place = tmp_path / "store"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "none", place], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("needs root that may mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def make_thin_disk(store: Path) -> Path:
    """Return a disk with XFS on which what has been written once, as the log, can be written again, and 4 MiB more."""
    disk = store / "disk"
    with disk.open("wb") as stream:
        stream.truncate(512 * _MIB)
    subprocess.run(["mkfs.xfs", "-q", "-K", "-m", f"uuid={capture.FS_UUID}", disk], check=True)
    status = os.statvfs(store)
    (store / "filler").write_bytes(bytes(status.f_bavail * status.f_bsize - 4 * _MIB))
    return disk


def test_what_a_lying_store_has_lost_is_not_called_a_dump(tmp_path: Path, small_store: Path) -> None:
    core = make_core(tmp_path, 32)
    image, disk = make_image(tmp_path, [capture.target(fs="xfs")]), make_thin_disk(small_store)
    # A makedumpfile that fails at nothing: its writes reach the cache and no further. ext4 would stop at an error of
    # the data and say so at once; for XFS there is nothing but fsync(2) that tells.
    lying = SAVES_LOG + "{ printf 'KDUMP   '; cat /proc/vmcore; } >\"$last\"\n"
    capture.patch_image(image, {MAKEDUMPFILE: lambda _: lying})
    words = ("-drive", f"id=store,if=none,file={disk},format=raw,cache=unsafe,werror=report")
    ran = boot(image, core=core, extra=(*words, "-device", "virtio-blk-pci,drive=store"))
    assert re.search(r"I/O error, dev vda", ran.console)
    assert_gave_up(ran)
    assert "vmcore did not reach the device" in ran.console


def test_a_full_target_has_the_log_and_no_core(tmp_path: Path) -> None:
    core = make_core(tmp_path, 48)
    # Of a hundred, 64 stay free.
    image, disk = make_image(tmp_path, [capture.target()]), make_disk(tmp_path / "disk", size_mib=100)
    capture.patch_image(image, {MAKEDUMPFILE: lambda _: SAVES_LOG + 'cat /proc/vmcore >"$last"\n'})
    ran = boot(image, [qemu.Disk(path=str(disk))], core)
    assert_gave_up(ran)
    assert "collector makedumpfile failed: room" in ran.console
    dump = store.read(str(on_disk(disk, tmp_path) / STAMP))
    assert dump.record
    assert not dump.is_complete
    assert dump.record.files.keys() == {"vmcore-dmesg.txt", "kexec-dmesg.log"}
    assert not dump.incomplete
    assert (Path(dump.path) / "vmcore-dmesg.txt").read_text() == "a log\n"


# --- the end -----------------------------------------------------------------------------------------------------


def test_a_collector_that_stalls_ends_with_the_deadline(tmp_path: Path, core: Core) -> None:
    # On a slow machine the log is saved after ten seconds.
    image = make_image(tmp_path, [capture.target()], "capture.deadline_s=24", "capture.failure_action=poweroff")
    capture.patch_image(image, {MAKEDUMPFILE: lambda _: SAVES_LOG + "while :; do sleep 1; done\n"})
    disk = make_disk(tmp_path / "disk")
    ran = boot(image, [qemu.Disk(path=str(disk))], core)
    assert_gave_up(ran)
    # The last target has all of the time that is left.
    assert re.search(r"target 0 has not come to an end within [12]?[0-9] s|the deadline of 24 s has", ran.console)
    assert "reboot: Power down" in ran.console
    assert names(on_disk(disk, tmp_path) / STAMP) == {"vmcore-dmesg.txt"}


def test_a_device_that_never_comes_is_given_up_within_the_deadline(tmp_path: Path, core: Core) -> None:
    words = ("capture.device_timeout_s=300", "capture.deadline_s=8", "capture.failure_action=poweroff")
    ran = boot(make_image(tmp_path, [capture.target(lvm=True), OTHER], *words), [], core, timeout_s=60)
    assert_gave_up(ran)
    assert "target 0 has not come to an end within" in ran.console
    assert "reboot: Power down" in ran.console


@pytest.mark.parametrize(
    ("action", "words"),
    [("reboot", "reboot: Restarting system"), ("poweroff", "reboot: Power down"), ("halt", "reboot: System halted")],
)
def test_a_boot_without_a_crash_does_nothing_but_the_failure_action(tmp_path: Path, action: str, words: str) -> None:
    image = make_image(tmp_path, [capture.target()], f"capture.failure_action={action}")
    disk = make_disk(tmp_path / "disk")
    before = digest(disk)
    ran = boot(image, [qemu.Disk(path=str(disk))], on_line=stop_at(words) if action == "halt" else None)
    assert "there is nothing to save" in ran.console
    assert words in ran.console
    assert ran.ended is (action != "halt")
    assert digest(disk) == before
