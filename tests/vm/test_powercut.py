"""Cuts of the power while a dump is saved: every write of one save is recorded, and what a cut leaves is looked at.

The file system is taken as a reboot takes it: ext4 by e2fsck, the others by a guest that mounts one state after the
other. The everyday run takes a part of the states of ext4, KDUMP_TEST_FULL=1 takes all.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct, field

from kdump_initramfs.dumps.store import DumpRecord
from kdump_initramfs.model import HostFacts
from tests import capture
from tests.vm import powercut
from tests.vm import test_faults as direct
from tests.vm.debian import Hardware, run_script
from tests.vm.powercut import Cut, Log
from tests.vm.storage import RELEASE, SCRIPTS, last_words

FULL = bool(os.environ.get("KDUMP_TEST_FULL"))

pytestmark = pytest.mark.guest

DMESG, CORE, OWN_LOG, RECORD = "vmcore-dmesg.txt", "vmcore.gz", "kexec-dmesg.log", "dump.json"
# What the console says when these have been saved.
CLAIMS = {"70-vmcore": [DMESG], "80-record": [CORE], "50-target-disk close": [OWN_LOG, RECORD]}

# Much of a dump that is larger than the memory is written before it is synced; so is this small one.
_EARLY = "echo 262144 >/proc/sys/vm/dirty_background_bytes; echo 10 >/proc/sys/vm/dirty_writeback_centisecs\n"
DIRECTORY = "lib/kdump/directory.sh"
GUEST_TIMEOUT_S = 3000


class Recording(Struct, frozen=True):
    """One save: what was on the disk before it, and all that was written."""

    base: Path
    log: Path
    # Files, by the count of entries after which the capture environment had said that it saved them.
    claims: dict[str, int]


class State(Struct, frozen=True):
    """What is on the disk after a cut."""

    cut: Cut
    # Why its file system could not be used.
    problem: str
    # As powercut.look() finds it.
    files: dict[str, Any]


class Claims(Struct, frozen=True):
    """Notes how much is in the log when the console says that something is saved."""

    log: Path
    sizes: dict[str, int] = field(default_factory=dict)

    def hear(self, line: str) -> None:
        if said := re.search(r"kdump: \[[0-9.]+\] (.*)", line):
            for name in CLAIMS.get(said[1].strip(), ()):
                self.sizes[name] = self.log.stat().st_size


def record(
    place: Path,
    base: Path,
    host: HostFacts,
    *,
    without: str = "",
    core_mib: int = 4,
    kind: capture.KernelKind = "cloud",
) -> Recording:
    """Save a dump on a copy of the disk `base`, by a build that lacks a piece of its library."""
    image = place / "capture.img"
    capture.build_image(capture.release(kind), host, image, direct.DEVICE_TIMEOUT)
    changes = {
        direct.MAKEDUMPFILE: lambda _: direct.SAVES_LOG + "exit 1\n",
        "lib/kdump/hooks/60-dmesg.sh": lambda text: text.replace("set -eu\n", f"set -eu\n{_EARLY}"),
        DIRECTORY: lambda text: text.replace(without, ""),
    }
    capture.patch_image(image, changes)
    disk, log = place / "disk", place / "log"
    powercut.copy_sparse(base, disk)
    log.touch()
    claims = Claims(log)
    core = direct.make_core(place, core_mib)
    ran = direct.boot(image, core=core, kind=kind, extra=_logged(disk, log), on_line=claims.hear)
    assert "saved to target 0" in ran.console, ran.console
    entries = Log(log).entries
    done = {name: sum(entry.log_end <= size for entry in entries) for name, size in claims.sizes.items()}
    return Recording(base, log, done)


def _logged(disk: Path, log: Path) -> tuple[str, ...]:
    """Return QEMU's words for a disk with a cache that must be flushed, and with a log of its writes."""
    nodes = [
        f"{name}.driver=raw,{name}.file.driver=file,{name}.file.filename={path},{name}.cache.no-flush=on"
        for name, path in (("file", disk), ("log", log))
    ]
    device = "virtio-blk-pci,drive=logged,discard=off,write-zeroes=off,seg-max-adjust=on,queue-size=16"
    return ("-blockdev", ",".join(["driver=blklogwrites,node-name=logged", *nodes]), "-device", device)


def choose(recording: Recording, *, every: int, seeds: int, share: int = 1) -> list[Cut]:
    """Return one in `share` of the cuts that Log.cuts() names, and at last the end of the save."""
    cuts = list(Log(recording.log).cuts(every, seeds))
    return [*cuts[:-1:share], cuts[-1]]


# --- what a state is like ----------------------------------------------------------------------------------------


def inspect_ext4(recording: Recording, cuts: Iterable[Cut], place: Path) -> Iterator[State]:
    """Yield what is on the disk after each cut, when e2fsck has done what it does without questions."""
    disks = powercut.Disks(Log(recording.log), recording.base, place)
    for number, cut in enumerate(cuts):
        disk, directory = disks.make(cut), place / f"files-{number}"
        checked = subprocess.run(["e2fsck", "-fp", disk], capture_output=True, text=True, check=False)
        directory.mkdir()
        read = subprocess.run(
            ["debugfs", "-R", f"rdump / {directory}", disk], capture_output=True, text=True, check=True
        )
        # Each says which version it is.
        said = [line for line in read.stderr.splitlines() if not line.startswith("debugfs ")]
        problem = checked.stdout + checked.stderr if checked.returncode > 1 else "\n".join(said)
        yield State(cut, problem, powercut.look(directory))
        shutil.rmtree(directory)


def inspect_in_guest(
    recording: Recording, cuts: Sequence[Cut], place: Path, *, attach: str, detach: str
) -> Iterator[State]:
    """Yield what is on the disk after each cut, when a guest has mounted it; see scripts/powercut_inspect.sh."""
    words: list[str] = []
    for name, path in (("base", recording.base), ("log", recording.log)):
        words += ("-drive", f"id={name},if=none,file={path},format=raw,readonly=on")
        words += ("-device", f"virtio-blk-pci,drive={name},serial={name}")
    files = {
        "tests/vm/powercut.py": Path(powercut.__file__).read_text(),
        "powercut_guest.py": (SCRIPTS / "powercut_guest.py").read_text(),
        "cuts": json.dumps(cuts),
        "attach": attach,
        "detach": detach,
    }
    hardware = Hardware(disks={}, extra=tuple(words))
    script = SCRIPTS / "powercut_inspect.sh"
    report = run_script(RELEASE, script, place, files=files, hardware=hardware, timeout_s=GUEST_TIMEOUT_S)
    assert report.status == 0, last_words(report)
    yield from (msgspec.json.decode(line, type=State) for line in report.files["states"].splitlines())


# --- what must hold of it ----------------------------------------------------------------------------------------


def files_of_dump(state: State) -> dict[str, Any]:
    return {name.removeprefix(f"{direct.STAMP}/"): what for name, what in state.files.items() if name != "lost+found"}


def violations(state: State, complete: Mapping[str, Any], claims: Mapping[str, int]) -> Iterator[str]:
    """Yield what does not hold of a state; `complete` is the dump when all of it was saved."""
    if state.problem:
        yield f"the file system cannot be used: {state.problem}"
        return
    files = files_of_dump(state)
    for name, found in files.items():
        yield from _wrong_of_file(name, found, complete)
    if RECORD in files:
        yield from (f"{RECORD} is there and {name} is not" for name in complete.keys() - files.keys())
    called_saved = {name for name, after in claims.items() if state.cut.after >= after}
    yield from (f"{name} was called saved and is not there" for name in called_saved - files.keys())


def _wrong_of_file(name: str, found: Mapping[str, Any], complete: Mapping[str, Any]) -> Iterator[str]:
    if found["mode"] & 0o077 or found["owner"] != [0, 0]:
        yield f"{name} has mode {found['mode']:o} and belongs to {found['owner']}"
    if name in complete:
        if found["sha256"] != complete[name]["sha256"]:
            yield f"{name} is not whole"
    elif not name.endswith("-incomplete") and name != "probe":
        yield f"{name} is nothing that is saved"


def check(recording: Recording, states: Iterable[State]) -> list[str]:
    """Return what does not hold, and how to see it; the last state is the end of the save."""
    seen = list(states)
    assert not seen[-1].problem
    complete = files_of_dump(seen[-1])
    assert_complete(complete)
    assert recording.claims.keys() == {DMESG, CORE, OWN_LOG, RECORD}
    assert sum(state.cut.after >= recording.claims[DMESG] for state in seen) > 1
    found = [
        f"{message}; this disk: powercut.py {recording.base} {recording.log} {state.cut.after} {state.cut.seed} DISK"
        for state in seen
        for message in violations(state, complete, recording.claims)
    ]
    print(f"{len(seen)} states of {len(Log(recording.log).entries)} entries, {len(found)} violations")
    return found


def assert_complete(files: Mapping[str, Any]) -> None:
    assert files.keys() == {direct.STAMP, DMESG, CORE, OWN_LOG, RECORD}
    said = msgspec.json.decode(files[RECORD]["text"], type=DumpRecord)
    assert said.complete
    assert {name: file.sha256 for name, file in said.files.items()} == {
        name: files[name]["sha256"] for name in (DMESG, CORE, OWN_LOG)
    }


# --- ext4 --------------------------------------------------------------------------------------------------------


def record_ext4(place: Path, *, without: str = "") -> Recording:
    base = direct.make_disk(place / "base")
    return record(place, base, capture.facts(capture.target()), without=without)


def test_a_dump_on_ext4_survives_every_cut(tmp_path: Path) -> None:
    recording = record_ext4(tmp_path)
    cuts = choose(recording, every=1, seeds=18) if FULL else choose(recording, every=1, seeds=2, share=3)
    assert check(recording, inspect_ext4(recording, cuts, tmp_path)) == []


# What templates/directory.sh does before it calls a file saved.
FSYNC_OF_FILE = """\
            dd if=/dev/null of="$directory/$2-incomplete" conv=notrunc,fsync 2>/dev/null ||
                die "$2 did not reach the device"
"""
FSYNC_OF_DIRECTORY = 'sync "$directory"\n'


@pytest.mark.parametrize(
    ("guard", "harm"),
    [
        pytest.param(FSYNC_OF_FILE, "is not whole", id="no fsync of the file"),
        pytest.param(FSYNC_OF_DIRECTORY, f"{DMESG} was called saved and is not there", id="no fsync of the directory"),
    ],
)
def test_a_build_without_a_guard_is_caught(guard: str, harm: str, tmp_path: Path) -> None:
    recording = record_ext4(tmp_path, without=guard)
    cuts = choose(recording, every=1, seeds=2, share=1 if FULL else 2)
    found = check(recording, inspect_ext4(recording, cuts, tmp_path))
    assert any(harm in message for message in found), found


# --- what only a kernel can read ---------------------------------------------------------------------------------

needs_debian = pytest.mark.skipif(not RELEASE, reason="tests/run makes the Debian guest")
takes_minutes = pytest.mark.skipif(not FULL, reason="takes minutes: tests/run --full")
MOUNTED = "/run/powercut/mounted"


@needs_debian
@takes_minutes
def test_a_dump_on_xfs_survives_every_cut(tmp_path: Path) -> None:
    base = tmp_path / "base"
    with base.open("wb") as stream:
        stream.truncate(512 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", f"uuid={capture.FS_UUID}", base], check=True)
    recording = record(tmp_path, base, capture.facts(capture.target(fs="xfs")))
    cuts = choose(recording, every=1, seeds=2)
    states = inspect_in_guest(
        recording, cuts, tmp_path, attach=f"mount /dev/loop0 {MOUNTED}", detach=f"umount {MOUNTED}"
    )
    assert check(recording, states) == []


@needs_debian
@takes_minutes
def test_a_dump_on_a_thin_volume_that_grows_survives_every_cut(tmp_path: Path) -> None:
    base, host = make_thin(tmp_path / "made")
    recording = record(tmp_path, base, host)
    print(f"the pool was grown {when_it_grew(recording)}")
    # A pool that was full at the cut is grown first, as dmeventd does where it watches the pool: to replay the journal
    # of the file system may take new blocks.
    attach = f"""\
        lvm vgchange --activate y thin
        lvm lvextend --use-policies thin/pool
        mount /dev/thin/volume {MOUNTED}
    """
    detach = f"umount {MOUNTED} || :\ndmsetup remove_all --noudevsync"
    cuts = choose(recording, every=8, seeds=1, share=3)
    assert check(recording, inspect_in_guest(recording, cuts, tmp_path, attach=attach, detach=detach)) == []


def make_thin(place: Path) -> tuple[Path, HostFacts]:
    """Return a disk with ext4 on a thin volume, and facts of a machine that has it."""
    place.mkdir()
    report = run_script(RELEASE, SCRIPTS / "powercut_thin.sh", place, files={"uuid": capture.FS_UUID})
    assert report.status == 0, last_words(report)
    found = msgspec.json.decode(report.files["facts.json"], type=HostFacts)
    return place / "data", capture.facts(*found.targets)


def when_it_grew(recording: Recording) -> str:
    """Tell when the pool was grown: how much has been written back by then is a matter of time.

    It is looked after until its target is closed, and once more then. So it has grown at the end, whenever it has
    passed its low-water mark.
    """
    grown = powercut.change_of_group(Log(recording.log), recording.base)
    assert grown is not None, "the pool was past its low-water mark at the end, and nobody has looked"
    return "while the dump was saved" if grown <= recording.claims[RECORD] else "at the close"
