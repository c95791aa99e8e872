"""/init from the start to the reboot, and the record of a dump: the scripts of a real image, in a chroot of it."""

import hashlib
import os
import stat
from pathlib import Path

import msgspec
import pytest

from kdump_initramfs.dumps import store
from tests import capture
from tests.capture import CONSOLE, DROP_CACHES, LOG, SYSRQ, VMCORE, Environment
from tests.saving import (
    HOOKS,
    RELEASE,
    dump_directory,
    record,
    saved,
    set_all,
)

pytestmark = pytest.mark.skipif(not capture.can_enter(), reason="needs root that may make namespaces and device nodes")


# --- time ---------------------------------------------------------------------------------------------------------

PAUSED = """\
sleep() { echo slept; command sleep "$@"; }
read_clock
began=$clock_cs
pause 0.3
read_clock
[ $((clock_cs - began)) -ge 29 ] && echo paused
ls /run/kdump
"""


def test_a_pause_needs_no_program(environment: Environment) -> None:
    ended = environment.shell(f"make_silence\n{PAUSED}")
    assert ended.output.splitlines()[0] == "paused"


def test_a_shell_that_does_not_know_parts_of_a_second_sleeps(environment: Environment) -> None:
    ended = environment.shell(f'sh() {{ command sh -c "read -t soon _"; }}\nmake_silence\n{PAUSED}')
    assert ended.output.splitlines()[:2] == ["slept", "paused"]
    assert "silence" not in ended.output


# --- the record --------------------------------------------------------------------------------------------------


def test_the_record_says_what_was_saved(opened: Environment) -> None:
    for name in ("60-dmesg", "70-vmcore"):
        assert opened.hook(name).status == 0
    opened.write("/run/kdump/memory-low-kib", "4711\n")
    found = record(opened)
    files = saved(opened)
    assert found["files"].keys() | {"dump.json"} == files.keys()
    for name, about in found["files"].items():
        assert about == {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
    assert found["complete"] is True
    assert found["host"] == capture.HOST
    assert found["kernel"] == {"release": RELEASE, "build_id": "0123456789abcdef"}
    assert found["crash_time"] == "2023-11-14T22:13:20Z"
    assert found["panic"] == "Kernel panic - not syncing: sysrq"
    assert found["memory_low_kib"] == 4711
    assert found["target"]["filesystem_uuid"] == capture.FS_UUID
    assert [step["name"] for step in found["steps"]] == ["60-dmesg", "70-vmcore"]
    digest = hashlib.sha256(opened.path("/etc/kdump/manifest.json").read_bytes()).hexdigest()
    assert found["manifest_digest"] == digest
    # All of it has passed on the way: nothing is read a second time.
    assert opened.read(DROP_CACHES) == ""


def test_what_a_collector_has_written_itself_is_read_back_from_the_device(opened: Environment) -> None:
    set_all(opened, KDUMP_COLLECTORS="makedumpfile")
    assert opened.hook("70-vmcore").status == 0
    vmcore = saved(opened)["vmcore"]
    assert record(opened)["files"]["vmcore"] == {
        "bytes": len(vmcore),
        "sha256": hashlib.sha256(vmcore).hexdigest(),
    }
    assert opened.read(DROP_CACHES) == "1\n"


def test_a_file_that_is_shorter_than_what_was_written_is_not_saved(opened: Environment) -> None:
    shorten = 'truncate() { head -c 5 "$1" >/cut; cat /cut >"$1"; }\n'
    opened.write("/content", "content\n")
    script = f'{shorten}target put file </content; truncate "$(recall dump-directory)/file-incomplete"; commit file'
    assert opened.shell(script).status == 1
    assert saved(opened) == {"file-incomplete": b"conte"}
    assert "is not as long as what was written" in opened.read(LOG)


@pytest.mark.parametrize(
    ("mode", "owner", "accepted"),
    [
        (0o755, 0, True),
        (0o700, 0, True),
        (0o2755, 0, True),
        (0o1777, 0, True),
        (0o3777, 0, True),
        (0o775, 0, False),
        (0o757, 0, False),
        (0o2777, 0, False),
        (0o777, 0, False),
        (0o755, 1000, False),
    ],
)
def test_a_directory_that_others_could_have_prepared_is_refused(
    mode: int, owner: int, *, accepted: bool, environment: Environment
) -> None:
    above = environment.directory / "target" / "var"
    (above / "crash").mkdir(parents=True)
    os.chown(above, owner, 0)
    above.chmod(mode)
    ended = environment.shell("check_owner /target/var/crash")
    assert ended.status == (0 if accepted else 1)
    assert ("/target/var may be changed by others than root" in environment.read(LOG)) is not accepted


HOSTILE = {
    "quotes": (b"BUG: \"a\" 'b'", "BUG: \"a\" 'b'"),
    "backslashes": (rb"BUG: \" \\ \u0041 \n", r"BUG: \" \\ \u0041 \n"),
    "control characters": (b"BUG: a\x01\x1b[31m\x7f\tb\r", "BUG: a[31mb"),
    "bytes that are not UTF-8": (b"BUG: \xff\xfe\xc3( z", "BUG: ( z"),
    "shell": (
        b"BUG: $(touch /hostile) `touch /hostile` %s %d ; * ~",
        "BUG: $(touch /hostile) `touch /hostile` %s %d ; * ~",
    ),
}


@pytest.mark.parametrize(("line", "panic"), HOSTILE.values(), ids=HOSTILE.keys())
def test_the_record_is_json_whatever_the_panic_says(opened: Environment, line: bytes, panic: str) -> None:
    opened.write("/run/kdump/vmcore-dmesg.txt", b"[    1.5] boot\n[   12.345678] " + line + b"\nCall Trace:\n")
    opened.write("/run/kdump/vmcoreinfo", b"OSRELEASE=" + line + b"\nBUILD-ID=" + line + b"\n")
    found = record(opened)
    assert found["panic"] == panic
    assert found["kernel"] == {"release": panic, "build_id": panic}
    assert not opened.exists("/hostile")


LOGS = {
    "a panic after warnings": (
        "[ 1.0] BUG: soft lockup - CPU#0 stuck\n[ 9.0] Kernel panic - not syncing: VFS: no root\n[ 9.1] Call Trace:\n",
        "Kernel panic - not syncing: VFS: no root",
    ),
    "an oops that starts us before it panics": (
        "[ 1.0] BUG: early\n[ 9.0] BUG: kernel NULL pointer dereference\n[ 9.1] Oops: 0002 [#1]\n[ 9.2] Call Trace:\n",
        "BUG: kernel NULL pointer dereference",
    ),
    "an oops with nothing else": (
        "[ 9.1] Internal error: Oops: 96000046 [#1]\n",
        "Internal error: Oops: 96000046 [#1]",
    ),
    "a log that does not say": ("[ 9.1] sysrq: Trigger a crash\n", ""),
}


@pytest.mark.parametrize(("log", "panic"), LOGS.values(), ids=LOGS.keys())
def test_the_record_has_the_line_that_says_why(opened: Environment, log: str, panic: str) -> None:
    opened.write("/run/kdump/vmcore-dmesg.txt", log)
    assert record(opened)["panic"] == panic


def test_the_record_is_json_where_nothing_is_known(opened: Environment) -> None:
    for name in ("vmcoreinfo", "collector", "memory-low-kib", "vmcore-dmesg.txt"):
        opened.path(f"/run/kdump/{name}").unlink(missing_ok=True)
    found = record(opened)
    assert found["complete"] is False
    assert found["collector"] == {"name": "", "arguments": ""}
    assert (found["panic"], found["crash_time"], found["memory_low_kib"]) == ("", "", 0)


def test_a_file_that_cannot_be_read_back_fails_the_record(opened: Environment) -> None:
    opened.write("/run/kdump/saved", "vmcore\n")
    (dump_directory(opened) / "vmcore").mkdir()
    assert opened.hook("80-record").status == 1
    assert "dump.json" not in saved(opened)


def test_the_record_is_saved_where_its_log_cannot_be(opened: Environment) -> None:
    (dump_directory(opened) / "kexec-dmesg.log-incomplete").mkdir()
    assert record(opened)["files"] == {}


# --- /init -------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(environment: Environment) -> Environment:
    """Return an environment for /init, whose targets are directories of the chroot: /first is not there, /second is."""
    hook = "/lib/kdump/hooks/50-target-disk.sh"
    text = environment.read(hook)
    opening = text[text.index("open_target() {") : text.index("case $1 in")]
    environment.write(hook, text.replace(opening, 'open_target() { make_directory "/$KDUMP_DIRECTORY"; }\n'))
    (environment.directory / "second").mkdir()
    return environment


# How a PID namespace ends (reboot_pid_ns(), kernel/pid_namespace.c).
REBOOTED, STOPPED = -1, -2


def only_dump(environment: Environment, below: str) -> Path:
    (found,) = environment.path(below).iterdir()
    return found


def test_the_first_target_that_works_gets_the_dump(machine: Environment) -> None:
    assert machine.init().status == REBOOTED
    log = machine.read(LOG)
    assert "target 0 failed" in log
    assert "saved to target 1" in log
    assert "nothing could be saved" not in log
    names = {path.name for path in only_dump(machine, "/second").iterdir()}
    assert names == {"vmcore-dmesg.txt", "vmcore.zst", "kexec-dmesg.log", "dump.json"}
    found = msgspec.json.decode((only_dump(machine, "/second") / "dump.json").read_bytes(), type=store.DumpRecord)
    assert found.complete
    assert found.target.filesystem_uuid == capture.OTHER_FS_UUID
    steps = [(step.name, step.status) for step in found.steps]
    assert ("50-target-disk open", 1) in steps
    # No LVM below the second target.
    assert [status for name, status in steps if name == "35-lvm"] == [0, 77]


def test_nobody_else_can_read_what_was_saved(machine: Environment) -> None:
    before = set(machine.files("/"))
    assert machine.init().status == REBOOTED
    new = {name: path for name, path in machine.files("/").items() if name not in before}
    dump = only_dump(machine, "/second")
    assert {f"second/{dump.name}/vmcore.zst", f"second/{dump.name}/dump.json", "run/kdump/steps"} <= new.keys()
    exposed = {name: oct(path.stat().st_mode) for name, path in new.items() if path.stat().st_mode & 0o077}
    assert not exposed
    assert stat.S_IMODE(dump.stat().st_mode) == 0o700


def test_the_second_target_is_left_alone_when_the_first_works(machine: Environment) -> None:
    (machine.directory / "first").mkdir()
    assert machine.init().status == REBOOTED
    assert "saved to target 0" in machine.read(LOG)
    assert list(machine.path("/second").iterdir()) == []


def test_a_target_whose_dump_cannot_be_read_back_has_failed(machine: Environment) -> None:
    (machine.directory / "first").mkdir()
    machine.replace(
        "/lib/kdump/hooks/80-record.sh", "files() {\n", 'files() {\n[ "$KDUMP_DIRECTORY" != first ] || return 1\n'
    )
    assert machine.init().status == REBOOTED
    assert "saved to target 1" in machine.read(LOG)
    assert store.read(str(only_dump(machine, "/second"))).is_complete


def test_a_dump_without_any_collector_is_not_complete(machine: Environment) -> None:
    machine.program("/usr/bin/zstd", "exit 1")
    assert machine.init().status == REBOOTED
    assert "nothing could be saved" in machine.read(LOG)
    found = store.read(str(only_dump(machine, "/second")))
    assert found.record is not None
    assert not found.is_complete
    assert set(found.record.files) == {"vmcore-dmesg.txt", "kexec-dmesg.log"}


@pytest.mark.parametrize("hook", [name for name in HOOKS if name not in ("50-target-disk", "70-vmcore", "80-record")])
def test_a_syntax_error_costs_one_hook_and_not_init(machine: Environment, hook: str) -> None:
    machine.write(f"/lib/kdump/hooks/{hook}.sh", "if then (\n")
    assert machine.init().status == REBOOTED
    # The second target is on no logical volume, but a script that cannot be parsed cannot say so.
    outcome = "nothing could be saved" if hook == "35-lvm" else "saved to target 1"
    assert outcome in machine.read(LOG)
    assert any(step.name == hook and step.status == 2 for step in machine.steps())


@pytest.mark.parametrize("closed", ["<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_console_that_does_not_open_costs_nothing(machine: Environment, closed: str) -> None:
    machine.path(CONSOLE).unlink()
    machine.path(CONSOLE).mkdir()
    assert machine.init(closed=closed).status == REBOOTED
    assert "saved to target 1" in machine.read(LOG)
    assert machine.steps()[-1].status in (0, 77)


def test_without_a_crash_nothing_is_touched(machine: Environment) -> None:
    machine.path(VMCORE).unlink()
    assert machine.init().status == REBOOTED
    assert "there is nothing to save" in machine.read(LOG)
    assert not machine.exists("/run/kdump/steps")
    assert list(machine.path("/second").iterdir()) == []


@pytest.mark.parametrize(("action", "status"), [("reboot", REBOOTED), ("poweroff", STOPPED), ("halt", STOPPED)])
@pytest.mark.parametrize("which", ["FINAL", "FAILURE"])
def test_the_action_is_the_configured_one(machine: Environment, which: str, action: str, status: int) -> None:
    machine.append("/etc/kdump/settings", f"export KDUMP_{which}_ACTION={action}\n")
    if which == "FAILURE":
        (machine.directory / "second").rmdir()
    assert machine.init().status == status
    assert machine.read(LOG).endswith(f"] {action}\n")


@pytest.mark.parametrize(("action", "key"), [("reboot", "b\n"), ("poweroff", "o\n"), ("halt", "")])
def test_a_reboot_that_hangs_is_helped_by_the_emergency_key(machine: Environment, action: str, key: str) -> None:
    machine.append("/etc/kdump/settings", f"export KDUMP_FINAL_ACTION={action}\n")
    machine.append("/lib/kdump/lib.sh", f"{action}() {{ sleep 1000; }}\n")
    machine.replace("/lib/kdump/lib.sh", "sleep 10\n", "sleep 1\n")
    assert machine.init(timeout_s=5).status is None
    assert machine.read(SYSRQ) == key


IN_3_S = "KDUMP_DEADLINE_S=$(($(cut -d. -f1 /proc/uptime) + 3))"


def test_the_emergency_shell_has_no_deadline(machine: Environment) -> None:
    machine.append("/etc/kdump/settings", f"export KDUMP_FAILURE_ACTION=shell {IN_3_S}\n")
    (machine.directory / "second").rmdir()
    machine.replace("/lib/kdump/lib.sh", "sh </dev/console >/dev/console 2>&1", "sh </typed")
    machine.write("/typed", "sleep 5; echo done >/worked\n")
    assert machine.init().status == REBOOTED
    assert machine.exists("/worked")
    assert not machine.exists("/run/kdump/deadline-passed")


@pytest.mark.parametrize("stall", ["while :; do :; done", "sleep 1000", "trap '' TERM INT HUP; sleep 1000"])
def test_a_capture_past_its_deadline_takes_the_failure_action(machine: Environment, stall: str) -> None:
    machine.append("/etc/kdump/settings", f"export KDUMP_FAILURE_ACTION=poweroff {IN_3_S}\n")
    machine.program("/usr/bin/zstd", stall)
    assert machine.init(timeout_s=10).status == STOPPED
    log = machine.read(LOG)
    assert "nothing could be saved" in log
    assert "saved to target" not in log
    names = {path.name for path in only_dump(machine, "/second").iterdir()}
    assert names == {"vmcore-dmesg.txt", "vmcore.zst-incomplete"}


def test_the_guard_ends_a_machine_whose_first_process_is_stuck(machine: Environment) -> None:
    # As one that waits for a console, or for a child that nothing can kill.
    machine.append("/etc/kdump/settings", "export KDUMP_DEADLINE_S=1\n")
    machine.replace("/lib/kdump/guard.sh", "sleep 15\n", "sleep 1\n")
    stuck = ". /etc/kdump/settings; sh /lib/kdump/guard.sh & while :; do :; done"
    assert machine.run(["/bin/sh", "-c", stuck], timeout_s=5, may_reboot=True).status == REBOOTED


def test_the_guard_writes_down_the_least_memory(machine: Environment) -> None:
    machine.path("/proc/meminfo").unlink()
    machine.write("/proc/meminfo", "MemTotal: 9 kB\nMemAvailable:   5000 kB\n")
    then = 'sleep 0.5; echo "MemAvailable: {} kB" >/proc/meminfo\n'
    assert machine.shell(f"sh /lib/kdump/guard.sh &\n{then.format(3000)}{then.format(4000)}sleep 0.5").status == 0
    assert machine.read("/run/kdump/memory-low-kib") == "3000\n"
