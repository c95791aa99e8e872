"""Faults on each kind of target: the first target has one, the second is good. Whatever happens, a whole dump is there.

They boot without a first kernel, on a made-up core whose memory is known beforehand, as in test_faults. A few pairs run
every time; KDUMP_TEST_FULL=1 (tests/run --full) runs all. `pytest -k 'FAULT and TARGET'` repeats one of them.
"""

import gzip
import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from kdump_initramfs.dumps import recover, store
from kdump_initramfs.model import TargetFacts
from tests import capture
from tests.vm import test_faults as direct
from tests.vm.test_faults import MAKEDUMPFILE, OTHER, SAVES_LOG
from tests.vm.test_raw import SERIAL, raw

pytestmark = pytest.mark.guest

_MIB = 1 << 20
DISK_MIB = 400
CORE_MIB = 2
DEADLINE_S = 240
FULL = "KDUMP_TEST_FULL"

# --- targets -----------------------------------------------------------------------------------------------------

UUID = capture.FS_UUID
SHORT_UUID = "1234-ABCD"
MAKERS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-U", UUID],
    "xfs": ["mkfs.xfs", "-q", "-f", "-m", f"uuid={UUID}"],
    "btrfs": ["mkfs.btrfs", "-q", "-f", "-U", UUID],
    "f2fs": ["mkfs.f2fs", "-q", "-f", "-U", UUID],
    "vfat": ["mkfs.vfat", "-F", "32", "-i", SHORT_UUID.replace("-", "")],
}
TARGETS = (*MAKERS, "raw")


def make_target(kind: str, directory: Path) -> tuple[TargetFacts, Path]:
    """Return a target of that kind and its disk."""
    disk = directory / "disk"
    with disk.open("wb") as stream:
        stream.truncate(DISK_MIB * _MIB)
    if kind == "raw":
        return raw(DISK_MIB), disk
    subprocess.run([*MAKERS[kind], disk], check=True, capture_output=True)
    return capture.target(fs=kind, uuid=SHORT_UUID if kind == "vfat" else UUID), disk


# --- faults ------------------------------------------------------------------------------------------------------

Patches = dict[str, Callable[[str], str]]


class Fault(Struct, frozen=True):
    # What makedumpfile does instead; it finds no kernel in the made-up core.
    collector: str = "exit 1\n"
    overrides: tuple[str, ...] = ()
    # Options of QEMU's -drive for the disk of the first target, and further words.
    drive: str = ""
    extra: tuple[str, ...] = ()
    # What happens to the disk before the boot.
    damage: Callable[[Path], None] | None = None
    # Which target must have the dump.
    saved_to: int = 0
    patches: Patches = {}


def wipe(disk: Path) -> None:
    with disk.open("r+b") as stream:
        stream.write(bytes(2 * _MIB))


FAULTS: dict[str, Fault] = {
    "none": Fault(),
    "collector-killed": Fault(collector='printf "KDUMP   half" >"$last"; kill -9 $$\n'),
    "collector-empty": Fault(collector=': >"$last"; exit 0\n'),
    "collector-garbage": Fault(collector='head -c 100000 /proc/vmcore >"$last"; exit 0\n'),
    "collector-without-file": Fault(collector="exit 0\n"),
    "collector-stalls": Fault(collector='printf KDUMP >"$last"; sleep 1000\n', overrides=("capture.stall_s=4",)),
    "collector-removes-all": Fault(collector='rm -rf "${last%/*}"/vmcore*; exit 1\n'),
    "collector-floods-the-log": Fault(collector="yes | head -n 100000; exit 1\n"),
    "disk-read-only": Fault(drive=",readonly=on", saved_to=1),
    "disk-wiped": Fault(damage=wipe, saved_to=1),
    "disk-slow": Fault(drive=",throttling.bps-write=3000000", overrides=("capture.stall_s=20",)),
    "room-for-the-log-alone": Fault(overrides=('vmcore.size_limit="64K"',), saved_to=-1),
    "budget-over": Fault(
        collector="while :; do :; done\n",
        saved_to=1,
        patches={
            "etc/kdump/targets/0": lambda text: text.replace("BUDGET_S=0", "BUDGET_S=8"),
            "etc/kdump/targets/1": lambda text: text + "export KDUMP_COLLECTORS=copy\n",
        },
    ),
    "clock-1970": Fault(extra=("-rtc", "base=1970-01-01T00:00:10")),
    "clock-2099": Fault(extra=("-rtc", "base=2099-12-31T23:59:50")),
    "hook-fails": Fault(patches={"lib/kdump/hooks/60-dmesg.sh": lambda text: text.replace("set -eu\n", "exit 5\n")}),
    "hook-hangs": Fault(
        overrides=("capture.hook_timeout_s=5",),
        patches={"lib/kdump/hooks/60-dmesg.sh": lambda text: text.replace("set -eu\n", "sleep 1000\n")},
    ),
    "driver-fails-to-commit": Fault(
        saved_to=1,
        patches={
            "etc/kdump/targets/0": lambda text: text + "export BROKEN=yes\n",
            "lib/kdump/lib.sh": lambda text: text + '\n[ -z "${BROKEN:-}" ] || commit() { return 1; }\n',
        },
    ),
    "open-fails": Fault(
        saved_to=1,
        patches={
            "etc/kdump/targets/0": lambda text: text + "export BROKEN=yes\n",
            "lib/kdump/devices.sh": lambda text: text + '\n[ -z "${BROKEN:-}" ] || choose_devices() { exit 9; }\n',
        },
    ),
}
# The log is not there where the hook that saves it is the fault, or where it is taken away again.
WITHOUT_LOG = {"hook-fails", "hook-hangs", "collector-removes-all"}
# A few of each: every fault once, every target several times.
EVERY_TIME = {
    *zip(FAULTS, [kind for _ in FAULTS for kind in TARGETS], strict=False),
    *(("none", kind) for kind in TARGETS),
}


def pairs() -> list[tuple[str, str]]:
    every = [(fault, kind) for fault in FAULTS for kind in TARGETS]
    return every if os.environ.get(FULL) else [pair for pair in every if pair in EVERY_TIME]


# --- the run -----------------------------------------------------------------------------------------------------

# What is on the target when the record is saved, as the device returns it: all that the record tells of, and the memory
# in the core.
CHECK = r"""
check_saved() {
    [ -e /run/kdump/dump-directory ] || return 0
    echo 3 >/proc/sys/vm/drop_caches
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


def build(directory: Path, first: TargetFacts, fault: Fault) -> Path:
    image = directory / "capture.img"
    words = (direct.DEVICE_TIMEOUT, f"capture.deadline_s={DEADLINE_S}", *fault.overrides)
    capture.build_image(capture.release("generic"), capture.facts(first, OTHER), image, *words)
    check = CHECK.replace("SIZE", str(CORE_MIB * _MIB))
    patches: Patches = {
        MAKEDUMPFILE: lambda _: SAVES_LOG + fault.collector,
        "lib/kdump/hooks/80-record.sh": lambda text: text + check,
        **fault.patches,
    }
    capture.patch_image(image, patches)
    return image


def drives(disk: Path, good: Path, fault: Fault) -> Sequence[str]:
    options = "if=none,format=raw,cache=unsafe,werror=report"
    return (
        *("-drive", f"id=first,file={disk},{options}{fault.drive}"),
        *("-device", f"virtio-blk-pci,drive=first,serial={SERIAL}"),
        *("-drive", f"id=second,file={good},{options}", "-device", "virtio-blk-pci,drive=second"),
    )


@pytest.mark.parametrize(("name", "kind"), pairs())
def test_a_whole_dump_is_there_in_the_end(name: str, kind: str, tmp_path: Path, core: direct.Core) -> None:
    fault = FAULTS[name]
    first, disk = make_target(kind, tmp_path)
    good = direct.make_disk(tmp_path / "good", uuid=capture.OTHER_FS_UUID)
    if fault.damage:
        fault.damage(disk)
    image = build(tmp_path, first, fault)
    extra = (*drives(disk, good, fault), *fault.extra)
    ran = direct.boot(image, core=core, kind="generic", extra=extra, timeout_s=DEADLINE_S + 60)
    assert ran.ended
    if fault.saved_to < 0:
        direct.assert_gave_up(ran)
    else:
        assert f"saved to target {fault.saved_to}" in ran.console
    assert_nobody_else_can_read(ran)
    assert_recorded_as_it_is(ran)
    if name not in WITHOUT_LOG and kind != "raw":
        assert "check log a log" in ran.console
    if fault.saved_to == 0 and kind == "raw":
        assert_recovered(disk, tmp_path, core)
    elif fault.saved_to >= 0:
        digest = hashlib.sha256(core.memory).hexdigest()
        assert f"check memory {digest}" in ran.console


def assert_nobody_else_can_read(ran: direct.Ran) -> None:
    modes = re.findall(r"check mode (\d+) (\d+) (\S+)", ran.console)
    assert all(owner == "0" and mode.endswith("00") for owner, mode, _ in modes), modes


def assert_recorded_as_it_is(ran: direct.Ran) -> None:
    """The record lists every file but itself, with its size and sha256."""
    found = {name: (int(size), digest) for size, digest, name in FILE_LINE.findall(ran.console)}
    found.pop("dump.json", None)
    listed = {
        name: (file.bytes, file.sha256)
        for record in RECORD_LINE.findall(ran.console)
        for name, file in msgspec.json.decode(record, type=store.DumpRecord).files.items()
    }
    assert listed == found


def assert_recovered(disk: Path, directory: Path, core: direct.Core) -> None:
    (directory / "recovered").mkdir()
    dump = store.read(recover.recover(str(disk), str(directory / "recovered")).path)
    assert dump.is_complete
    packed = (Path(dump.path) / "vmcore.gz").read_bytes()
    assert gzip.decompress(packed).endswith(core.memory)
