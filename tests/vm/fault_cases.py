"""The faults of the matrix: what goes wrong with the first target while a dump is saved to it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.vm.fault_targets import REDUNDANT

_MIB = 1 << 20

Patches = Mapping[str, Callable[[str], str]]
# The good target, the one with the fault, either of them (a redundant one may do without the disk that fails), nowhere.
GOOD, FAULTY, EITHER, NOWHERE = "good", "faulty", "either", "nowhere"


class Fault(Struct, frozen=True):
    # What makedumpfile does instead; it finds no kernel in the made-up core.
    collector: str = "exit 1\n"
    overrides: tuple[str, ...] = ()
    # Options of QEMU's -drive for the disks of the first target, and further words.
    drive: str = ""
    extra: tuple[str, ...] = ()
    # What happens to the first disk before the boot.
    damage: Callable[[Path], None] | None = None
    # Rules of QEMU's blkdebug for the first disk (docs/devel/blkdebug.txt of QEMU).
    errors: str = ""
    # What of the console makes QEMU's monitor do what.
    on_line: str = ""
    command: str = ""
    arguments: Mapping[str, Any] = {}
    # The guest is killed at this line of its console, and crashes again.
    killed_at: str = ""
    # A second disk with the same content as the first.
    twin: bool = False
    saved: str = FAULTY
    # What the console says where nothing is saved.
    says: str = "nothing could be saved"
    # The log is not there where the hook that saves it is the fault, or where it is taken away again.
    with_log: bool = True
    patches: Patches = {}
    # Targets on which there is no such fault, or on which it is none.
    not_on: frozenset[str] = frozenset()

    def saved_to(self, kind: str) -> str:
        """Return which target must have the dump: a mirror survives what happens to its first disk."""
        at_one_disk = self.damage or self.errors or self.drive or self.twin
        return EITHER if at_one_disk and self.saved == GOOD and kind in REDUNDANT else self.saved


def wipe(disk: Path) -> None:
    with disk.open("r+b") as stream:
        stream.write(bytes(2 * _MIB))


# --- patches of the image ----------------------------------------------------------------------------------------

DMESG_HOOK = "lib/kdump/hooks/60-dmesg.sh"
ROOM_HOOK = "lib/kdump/hooks/58-room.sh"
DIRECTORY = "lib/kdump/directory.sh"


def instead(text: str) -> Callable[[str], str]:
    """Return what puts this in the place of the beginning of a hook."""
    return lambda hook: _replaced(hook, "set -eu\n", text)


def behind(text: str) -> Callable[[str], str]:
    return lambda script: script + text


def _replaced(script: str, old: str, new: str) -> str:
    assert script.count(old) == 1
    return script.replace(old, new)


def only_first(library: str) -> Patches:
    """Return patches by which the library has this at its end for the first target alone."""
    return {
        "etc/kdump/targets/0": behind("export BROKEN=yes\n"),
        "lib/kdump/lib.sh": behind(f'\n[ -z "${{BROKEN:-}}" ] || {library}\n'),
    }


def before_make_directory(text: str) -> Patches:
    """Return patches by which this happens to the first target when it is mounted, to $_parent."""
    return {
        "etc/kdump/targets/0": behind("export BROKEN=yes\n"),
        DIRECTORY: lambda script: _replaced(
            script,
            '    mkdir -p "$_parent"\n',
            f'    [ -z "${{BROKEN:-}}" ] || {{\n{text}\n}}\n    mkdir -p "$_parent"\n',
        ),
    }


# Takes all space of the first target, and gives this much back.
def leave(mib: int) -> Patches:
    fill = f"""
if [ -n "${{BROKEN:-}}" ]; then
    cd "$(parent)"
    dd if=/dev/zero of=spare bs={_MIB} count={mib} 2>/dev/null
    # At once where the file system can; then the rest, to the last block.
    fallocate -l $(($(stat -f -c '%a*%S' .))) filler || :
    dd if=/dev/zero of=rest bs={_MIB} 2>/dev/null || :
    sync
    rm spare
    sync
    cd /
fi
"""
    return {"etc/kdump/targets/0": behind("export BROKEN=yes\n"), ROOM_HOOK: behind(fill)}


# Errors of the disk from the Nth flush on.
def dies_at_flush(number: int) -> str:
    steps = "".join(
        f'[set-state]\nevent = "flush_to_disk"\nstate = "{state}"\nnew_state = "{state + 1}"\n'
        for state in range(1, number + 1)
    )
    dead = f'event = "write_aio"\nstate = "{number + 1}"\niotype = "write"\nerrno = "5"\nonce = "off"\n'
    return f"{steps}[inject-error]\n{dead}"


# Of all I/O of that kind, from the beginning.
def fails_always(kind: str) -> str:
    return f'[inject-error]\nevent = "none"\niotype = "{kind}"\nerrno = "5"\nonce = "off"\n'


NOT_A_DIRECTORY = frozenset({"raw"})
# Without owners, links and modes.
BARE = NOT_A_DIRECTORY | {"vfat"}

FAULTS: dict[str, Fault] = {
    "none": Fault(),
    # --- collectors ---
    "collector-killed": Fault(collector='printf "KDUMP   half" >"$last"; kill -9 $$\n'),
    "collector-empty": Fault(collector=': >"$last"; exit 0\n'),
    "collector-garbage": Fault(collector='head -c 100000 /proc/vmcore >"$last"; exit 0\n'),
    "collector-without-file": Fault(collector="exit 0\n"),
    "collector-stalls": Fault(collector='printf KDUMP >"$last"; sleep 1000\n', overrides=("capture.stall_s=4",)),
    "collector-removes-all": Fault(collector='rm -rf "${last%/*}"/vmcore*; exit 1\n', with_log=False),
    "collector-floods-the-log": Fault(collector="yes | head -n 100000; exit 1\n"),
    "core-ends-early": Fault(
        saved=NOWHERE,
        patches={"lib/kdump/hooks/70-vmcore.sh": instead("set -eu\ndd() { head -c 100000; }\n")},
    ),
    # --- the disk ---
    "disk-read-only": Fault(drive=",readonly=on", saved=GOOD),
    # A raw target is a disk with nothing on it.
    "disk-wiped": Fault(damage=wipe, saved=GOOD, not_on=NOT_A_DIRECTORY),
    "disk-slow": Fault(drive=",throttling.bps-write=3000000", overrides=("capture.stall_s=20",)),
    "disk-dies-early": Fault(errors=dies_at_flush(1), saved=GOOD),
    "disk-dies-later": Fault(errors=dies_at_flush(6), saved=EITHER),
    "disk-fails-to-flush": Fault(errors=fails_always("flush"), saved=GOOD),
    "disk-hangs": Fault(
        saved=GOOD,
        overrides=("capture.stall_s=5",),
        on_line="70-vmcore",
        command="block_set_io_throttle",
        arguments={"device": "first0-drive", "bps": 0, "bps_rd": 0, "bps_wr": 1, "iops": 0, "iops_rd": 0, "iops_wr": 0},
        patches={"etc/kdump/targets/0": lambda text: text.replace("BUDGET_S=0", "BUDGET_S=30")},
    ),
    "disk-there-twice": Fault(twin=True, saved=GOOD),
    "power-cut-and-crash-again": Fault(killed_at="70-vmcore"),
    # --- room ---
    "room-for-the-log-alone": Fault(overrides=('vmcore.size_limit="64K"',), saved=NOWHERE),
    "room-for-half": Fault(saved=GOOD, patches=leave(1), not_on=NOT_A_DIRECTORY),
    "room-for-nothing": Fault(saved=GOOD, patches=leave(0), not_on=NOT_A_DIRECTORY),
    # --- directories ---
    "name-is-there": Fault(
        patches=before_make_directory('mkdir -p "$_parent/$(dump_name)"; echo old >"$_parent/$(dump_name)/vmcore"'),
        not_on=NOT_A_DIRECTORY,
    ),
    "directory-of-somebody": Fault(saved=GOOD, patches=before_make_directory('chown 1000 "$_parent"'), not_on=BARE),
    "directory-is-a-link": Fault(
        saved=GOOD,
        patches=before_make_directory('mkdir /target/other; ln -s other /target/link; _parent="/target/link"'),
        not_on=BARE,
    ),
    # --- time ---
    "budget-over": Fault(
        collector="while :; do :; done\n",
        saved=GOOD,
        patches={
            "etc/kdump/targets/0": lambda text: text.replace("BUDGET_S=0", "BUDGET_S=8"),
            "etc/kdump/targets/1": behind("export KDUMP_COLLECTORS=copy\n"),
        },
    ),
    "clock-1970": Fault(extra=("-rtc", "base=1970-01-01T00:00:10")),
    "clock-2099": Fault(extra=("-rtc", "base=2099-12-31T23:59:50")),
    "clock-steps": Fault(patches={DMESG_HOOK: instead("set -eu\ndate -s 2040-01-01\n")}),
    # --- hooks and drivers ---
    "hook-fails": Fault(patches={DMESG_HOOK: instead("exit 5\n")}, with_log=False),
    "hook-hangs": Fault(
        overrides=("capture.hook_timeout_s=5",), patches={DMESG_HOOK: instead("sleep 1000\n")}, with_log=False
    ),
    "hook-forks-for-ever": Fault(
        overrides=("capture.hook_timeout_s=5",),
        patches={DMESG_HOOK: instead("bomb() { bomb | bomb & }; bomb; sleep 1000\n")},
        with_log=False,
    ),
    "driver-fails-to-put": Fault(saved=GOOD, patches=only_first("pass_pieces() { cat >/dev/null; return 1; }")),
    "driver-fails-to-commit": Fault(saved=GOOD, patches=only_first("commit() { return 1; }")),
    "open-fails": Fault(
        saved=GOOD,
        patches={
            "etc/kdump/targets/0": behind("export BROKEN=yes\n"),
            "lib/kdump/devices.sh": behind('\n[ -z "${BROKEN:-}" ] || choose_devices() { exit 9; }\n'),
        },
    ),
    # --- the machine ---
    "four-processors": Fault(extra=("-smp", "4")),
    "capture-panics": Fault(
        saved=NOWHERE,
        says="Kernel panic - not syncing: sysrq triggered crash",
        with_log=False,
        patches={ROOM_HOOK: instead("echo c >/proc/sysrq-trigger\n")},
    ),
}
