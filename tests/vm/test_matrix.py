"""Faults on each kind of target: the first target has one, the second is good. Whatever happens, a whole dump is there.

They boot without a first kernel, on a made-up core whose memory is known beforehand, as in test_faults. A few pairs run
every time; KDUMP_TEST_FULL=1 (tests/run --full) runs all. `tests/run tests/vm/test_matrix.py -k FAULT-TARGET`, with
KDUMP_TEST_FULL=1, repeats one of them.
"""

import gzip
import hashlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from kdump_initramfs.dumps import recover, store
from kdump_initramfs.rehearsal.console import OnLine
from tests import capture
from tests.vm import fault_targets, powercut
from tests.vm import test_faults as direct
from tests.vm.fault_cases import EITHER, FAULTS, FAULTY, GOOD, NOWHERE, Fault
from tests.vm.fault_targets import KINDS, Made
from tests.vm.storage import tell_monitor
from tests.vm.test_faults import MAKEDUMPFILE, OTHER, SAVES_LOG

pytestmark = pytest.mark.guest

_MIB = 1 << 20
CORE_MIB = 2
DEADLINE_S = 240
FULL = "KDUMP_TEST_FULL"


def pairs() -> list[tuple[str, str]]:
    """Return all pairs of a fault and a kind of target, or each fault once, with the kinds in turn."""
    every = [(name, kind) for name, fault in FAULTS.items() for kind in KINDS if kind not in fault.not_on]
    return every if os.environ.get(FULL) else list(_each_fault_once())


def _each_fault_once() -> Iterator[tuple[str, str]]:
    kinds = itertools.cycle(KINDS)
    for name, fault in FAULTS.items():
        yield name, next(kind for kind in kinds if kind not in fault.not_on)


# --- the run -----------------------------------------------------------------------------------------------------

# What is on the target when the record is saved, as the device returns it: all that the record tells of, and the memory
# in the core.
CHECK = r"""
. /lib/kdump/process.sh
check_saved() {
    [ -e /run/kdump/dump-directory ] || return 0
    drop_caches
    cd "$(recall dump-directory)"
    for _file in . *; do
        log "check mode $(stat -c '%u %a' "$_file") $_file"
    done
    for _file in *; do
        log "check file $(stat -c %s "$_file") $(sha256sum "$_file")"
    done
    log "check record $(tr -d '\n' <dump.json)"
    [ ! -e vmcore.gz ] || log "check memory $(gzip -dc vmcore.gz | tail -c SIZE | sha256sum)"
    [ ! -e vmcore-dmesg.txt ] || log "check log $(cat vmcore-dmesg.txt)"
}
check_saved
"""


FILE_LINE = re.compile(r"check file (\d+) ([0-9a-f]{64})  (\S+)")
RECORD_LINE = re.compile(r"check record (\{.*\})")


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> direct.Core:
    return direct.make_core(tmp_path_factory.mktemp("core"), CORE_MIB)


def build(directory: Path, first: Made, fault: Fault) -> Path:
    image = directory / "capture.img"
    words = (direct.DEVICE_TIMEOUT, f"capture.deadline_s={DEADLINE_S}", *fault.overrides)
    host = replace(capture.facts(first.target, OTHER), crypttab=first.crypttab)
    capture.build_image(capture.release("cloud"), host, image, *words)
    check = CHECK.replace("SIZE", str(CORE_MIB * _MIB))
    patches = {
        MAKEDUMPFILE: lambda _: SAVES_LOG + fault.collector,
        "lib/kdump/hooks/80-record.sh": lambda text: text + check,
        **fault.patches,
    }
    capture.patch_image(image, patches)
    return image


def drives(directory: Path, first: Made, fault: Fault) -> Iterator[str]:
    """Yield QEMU's words for all disks; the fault is in the first."""
    for number, (serial, disk) in enumerate(first.disks.items()):
        yield from _drive(directory, f"first{number}", serial, disk, fault if number == 0 else Fault())
        if fault.twin and number == 0:
            twin = directory / "twin"
            powercut.copy_sparse(disk, twin)
            yield from _drive(directory, "twin", serial, twin, Fault())
    good = direct.make_disk(directory / "good", uuid=capture.OTHER_FS_UUID)
    yield from _drive(directory, "good", "good", good, Fault())


def _drive(directory: Path, name: str, serial: str, disk: Path, fault: Fault) -> Iterator[str]:
    file, cache = str(disk), "unsafe"
    if fault.errors:
        rules = directory / "blkdebug"
        rules.write_text(fault.errors)
        # Flushes are passed on, so that they are seen.
        file, cache = f"blkdebug:{rules}:{disk}", "writeback"
    yield from ("-drive", f"id={name}-drive,if=none,format=raw,file={file},cache={cache}{fault.drive}")
    errors = "" if fault.drive.startswith(",readonly") else ",werror=report,rerror=report"
    yield from ("-device", f"virtio-blk-pci,id={name},drive={name}-drive,serial={serial}{errors}")


def acts(fault: Fault, monitor: Path) -> OnLine:
    def hear(line: str) -> None:
        if fault.on_line in line:
            tell_monitor(str(monitor), fault.command, **fault.arguments)

    return hear


@pytest.mark.parametrize(("name", "kind"), pairs())
def test_a_whole_dump_is_there_in_the_end(
    name: str, kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, core: direct.Core
) -> None:
    fault = FAULTS[name]
    first = fault_targets.make(kind, tmp_path, tmp_path_factory)
    if fault.damage:
        fault.damage(next(iter(first.disks.values())))
    ran = crash(tmp_path, first, fault, core)
    assert ran.ended
    number = check_where(ran, fault.saved_to(kind), fault)
    assert_nobody_else_can_read(ran)
    assert_recorded_as_it_is(ran)
    if number == 0 and kind == "raw":
        assert_recovered(first, tmp_path, core)
    elif number >= 0:
        assert f"check memory {hashlib.sha256(core.memory).hexdigest()}" in ran.console
        assert not fault.with_log or "check log a log" in ran.console


def crash(directory: Path, first: Made, fault: Fault, core: direct.Core) -> direct.Ran:
    """Boot the capture image to its end, after it was killed at the line that the fault names."""
    image, monitor = build(directory, first, fault), directory / "monitor"
    words = (*drives(directory, first, fault), *fault.extra)
    if fault.killed_at:
        cut = direct.boot(image, core=core, extra=words, on_line=direct.stop_at(fault.killed_at))
        assert not cut.ended
    on_line = None
    if fault.on_line:
        words += ("-qmp", f"unix:{monitor},server=on,wait=off")
        on_line = acts(fault, monitor)
    return direct.boot(image, core=core, extra=words, on_line=on_line, timeout_s=DEADLINE_S + 60)


def check_where(ran: direct.Ran, expected: str, fault: Fault) -> int:
    """Return the number of the target that has the dump, -1 for none; it must be where it is expected."""
    saved = re.findall(r"saved to target (\d)", ran.console)
    if expected == NOWHERE:
        assert saved == []
        assert fault.says in ran.console
        return -1
    assert saved in {FAULTY: [["0"]], GOOD: [["1"]], EITHER: [["0"], ["1"]]}[expected]
    return int(saved[0])


def assert_nobody_else_can_read(ran: direct.Ran) -> None:
    modes = re.findall(r"check mode (\d+) (\d+) (\S+)", ran.console)
    assert all(owner == "0" and mode.endswith("00") for owner, mode, _ in modes), modes


def assert_recorded_as_it_is(ran: direct.Ran) -> None:
    """The record lists every file but itself, with its size and sha256."""
    found = {name: (int(size), digest) for size, digest, name in FILE_LINE.findall(ran.console)}
    found.pop("dump.json", None)
    # A log for which there was no room keeps a name that says so.
    if "cannot save kexec-dmesg.log" in ran.console:
        found.pop("kexec-dmesg.log-incomplete", None)
    listed = {
        name: (file.bytes, file.sha256)
        for record in RECORD_LINE.findall(ran.console)
        for name, file in msgspec.json.decode(record, type=store.DumpRecord).files.items()
    }
    assert listed == found


def assert_recovered(first: Made, directory: Path, core: direct.Core) -> None:
    (disk,) = first.disks.values()
    (directory / "recovered").mkdir()
    dump = store.read(recover.recover(str(disk), str(directory / "recovered")).path)
    assert dump.is_complete
    packed = (Path(dump.path) / "vmcore.gz").read_bytes()
    assert gzip.decompress(packed).endswith(core.memory)
