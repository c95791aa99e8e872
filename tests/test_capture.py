"""The capture side without a guest: the scripts of a real image, run in a chroot of it with stubs in some places."""

import hashlib
import importlib.util
import io
import json
import os
import re
import stat
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kdump_initramfs import config, resources
from kdump_initramfs.dumps import store
from kdump_initramfs.formats import compression as compression_format
from kdump_initramfs.image import scripts
from tests import capture, shell
from tests.capture import CONSOLE, DROP_CACHES, LOG, SYSRQ, VMCORE, Environment

pytestmark = pytest.mark.skipif(not capture.can_enter(), reason="needs root that may make namespaces and device nodes")

HOOKS = (
    *("15-vmcoreinfo", "20-modules", "35-lvm", "50-target-disk", "58-room", "60-dmesg", "70-vmcore", "80-record"),
    "85-retention",
)
MAKEDUMPFILE = "/usr/bin/makedumpfile"
RELEASE = "6.1.0-test"
CRASHTIME = 1700000000
STAMP = "20231114T221320Z"
VMCOREINFO = f"OSRELEASE={RELEASE}\nBUILD-ID=0123456789abcdef\nCRASHTIME={CRASHTIME}\n"
DMESG = "[    1.000000] boot\n[   12.345678] sysrq: Trigger a crash\n[   12.4] Kernel panic - not syncing: sysrq\n"
NEVER_S = 10**8

# What follows a name with `-incomplete` in a directory: makedumpfile's last argument names the file.
LAST = "for last; do :; done\n"
WRITES_DMESG = f'{LAST}case $1 in --dump-dmesg) cat /dmesg >"$last"; exit ;; esac\n'


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return an image with every tool, for two targets."""
    host = capture.facts(
        capture.target(lvm=True, directory="first"),
        capture.target(fs="xfs", uuid=capture.OTHER_FS_UUID, partition=True, directory="second"),
    )
    directory = tmp_path_factory.mktemp("image")
    output = directory / "capture.img"
    words = ("vmcore.collector=copy", "image.compression=none", f"capture.deadline_s={NEVER_S}", "retention.keep=2")
    capture.build_image(capture.release("cloud"), host, output, *words)
    return Environment.unpack(output, directory / "root")


@pytest.fixture
def environment(unpacked: Environment, tmp_path: Path) -> Environment:
    """Return an environment with a vmcore, in which every hook but the target's succeeds."""
    made = unpacked.copy_to(tmp_path / "root")
    made.write(
        VMCORE, b"\x7fELF" + bytes(1000) + f"VMCOREINFO\0{VMCOREINFO}".encode() + bytes(3000) + b"memory" * 50000
    )
    made.write("/dmesg", DMESG)
    made.program(MAKEDUMPFILE, f"{WRITES_DMESG}{{ printf 'KDUMP   '; cat /proc/vmcore; }} >\"$last\"")
    made.program("/usr/sbin/lvm", 'mkdir -p /sys/block/dm-0/dm; echo "$LV" >/sys/block/dm-0/dm/uuid')
    made.append("/etc/kdump/settings", f"export LV={capture.LV_UUID}\nexport KDUMP_DEVICE_TIMEOUT_S=1\n")
    made.write("/etc/kdump/modules", "")
    return made


@pytest.fixture
def opened(environment: Environment) -> Environment:
    """Return an environment whose target is open: a directory of the chroot itself."""
    (environment.directory / "target").mkdir(exist_ok=True)
    environment.write("/run/kdump/vmcoreinfo", VMCOREINFO)
    assert environment.shell("make_directory /target").status == 0
    return environment


def dump_directory(environment: Environment) -> Path:
    return environment.path(environment.read("/run/kdump/dump-directory").strip())


def saved(environment: Environment) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in dump_directory(environment).iterdir() if file.is_file()}


def set_all(environment: Environment, **values: str) -> None:
    lines = [f"export {name}='{value}'\n" for name, value in values.items()]
    environment.append("/etc/kdump/targets/0", "".join(lines))


# --- run_hook ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "succeeds"), [(0, True), (77, True), (1, False), (255, False)])
def test_a_hook_becomes_a_step_with_its_status(environment: Environment, status: int, *, succeeds: bool) -> None:
    environment.write("/lib/kdump/hooks/99-own.sh", f"sleep 0.3\nexit {status}\n")
    ended = environment.shell("run_hook 99-own with words && echo succeeded")
    assert ("succeeded" in ended.output) is succeeds
    (step,) = environment.steps()
    assert (step.status, step.name) == (status, "99-own with words")
    assert 30 <= step.took_cs < 300
    assert ("99-own with words: failed with status" in environment.read(LOG)) is not succeeds


def test_a_hook_killed_by_a_signal_has_failed(environment: Environment) -> None:
    environment.write("/lib/kdump/hooks/99-own.sh", "kill -9 $$\n")
    assert environment.hook("99-own").status == 137


def test_a_hook_has_no_input_to_wait_for(environment: Environment) -> None:
    environment.write("/lib/kdump/hooks/99-own.sh", "cat >/run/kdump/heard\n")
    assert environment.hook("99-own").status == 0
    assert environment.read("/run/kdump/heard") == ""


def test_last_words_of_a_failed_hook_are_on_the_console(environment: Environment) -> None:
    environment.append("/lib/kdump/lib.sh", "log() { :; }\n")
    environment.write("/lib/kdump/hooks/99-own.sh", "seq 20 | sed 's/^/word /'\nexit 1\n")
    environment.hook("99-own")
    assert environment.read(CONSOLE).split() == [word for n in range(13, 21) for word in ("word", str(n))]


def test_every_log_line_has_the_time(environment: Environment) -> None:
    environment.shell("log one; log 'two  words' three; log ''")
    assert re.fullmatch(r"\[\d+\.\d\d\] one\n\[\d+\.\d\d\] two  words three\n\[\d+\.\d\d\] \n", environment.read(LOG))
    assert environment.read(CONSOLE).startswith("kdump: [")


@pytest.mark.parametrize("broken", [CONSOLE, LOG])
def test_who_logs_goes_on_where_that_cannot_be_written(environment: Environment, broken: str) -> None:
    environment.path(broken).unlink()
    environment.path(broken).mkdir()
    ended = environment.shell("set -e; log message; echo alive")
    assert ended.output.endswith("alive\n")
    assert broken != CONSOLE or ended.output == "alive\n"


# --- each hook ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in HOOKS if name not in ("50-target-disk", "85-retention")])
def test_the_hook_succeeds(opened: Environment, name: str) -> None:
    assert opened.hook(name).status == 0, opened.read(LOG)


def used_settings(name: str) -> set[str]:
    with open(f"{resources.directory('hooks')}/{name}.sh", encoding="utf-8") as stream:
        text = stream.read()
    optional = set(re.findall(r"\$\{(KDUMP_\w+):-", text))
    return scripts.used_settings(text) - optional - {"KDUMP_LOG"}


# Settings that a hook reads on the way of these tests; the others are read where another setting says so.
READ = [
    (name, setting)
    for name in ("35-lvm", "60-dmesg", "70-vmcore", "80-record")
    for setting in sorted(used_settings(name))
    if setting
    not in ("KDUMP_ZSTD", "KDUMP_VMCORE_DMESG", "KDUMP_LVM_POOLS", "KDUMP_WAITED_S", "KDUMP_DEVICE_TIMEOUT_S")
    # For where another collector has failed.
    and (name, setting) != ("70-vmcore", "KDUMP_LEAST_ARGUMENTS")
]


@pytest.mark.parametrize(("name", "setting"), READ)
def test_the_hook_fails_without_its_setting(opened: Environment, name: str, setting: str) -> None:
    collector = "copy" if setting == "KDUMP_COPY_COMPRESSION" else "makedumpfile"
    assert opened.hook(name, before=f"export KDUMP_COLLECTORS={collector}; unset {setting}").status != 0
    assert f"{setting}: parameter not set" in opened.read(LOG)


def test_a_core_without_vmcoreinfo_fails_one_hook(environment: Environment) -> None:
    environment.write(VMCORE, b"\x7fELF" + bytes(5000))
    assert environment.hook("15-vmcoreinfo").status == 1
    assert environment.shell("mkdir -p /target; make_directory /target").status == 0
    assert re.fullmatch(rf"{capture.HOST}-\d{{8}}T\d{{6}}Z", dump_directory(environment).name)


def test_vmcoreinfo_is_read_from_the_notes(environment: Environment) -> None:
    assert environment.hook("15-vmcoreinfo").status == 0
    assert environment.read("/run/kdump/vmcoreinfo") == VMCOREINFO
    assert f"crashed kernel: {RELEASE}" in environment.read(LOG)


def test_a_module_that_cannot_be_loaded_does_not_stop_the_others(environment: Environment) -> None:
    environment.write("/etc/kdump/modules", "/lib/modules/one.ko\n/lib/modules/two.ko\n")
    environment.write("/lib/modules/one.ko", "x")
    assert environment.hook("20-modules").status == 1
    log = environment.read(LOG)
    assert "cannot load /lib/modules/one.ko" in log
    assert "cannot load /lib/modules/two.ko" in log
    assert not environment.exists("/lib/modules/one.ko")


# --- generic images ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unpacked_generic(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    directory = tmp_path_factory.mktemp("generic")
    output = directory / "capture.img"
    words = ("image.mode=generic", "image.compression=none")
    capture.build_image(capture.release("generic"), capture.facts(capture.target()), output, *words)
    return Environment.unpack(output, directory / "root")


@pytest.fixture
def generic(unpacked_generic: Environment, tmp_path: Path) -> Environment:
    """Return an environment with an AHCI host; nothing of it can really be loaded."""
    made = unpacked_generic.copy_to(tmp_path / "root")
    made.write("/sys/devices/pci0/uevent", "PCI_ID=8086:2922\nMODALIAS=pci:v00008086d00002922sv0sd0bc01sc06i01\n")
    made.write("/sys/devices/platform/pcspkr/uevent", "MODALIAS=platform:pcspkr\n")
    made.path("/sys/module/libata").mkdir(parents=True)
    return made


def loads(environment: Environment) -> list[str]:
    return re.findall(r"cannot load /lib/modules/\S*/(\S+)\.ko", environment.read(LOG))


def test_what_a_device_asks_for_is_loaded_behind_what_it_needs(generic: Environment) -> None:
    assert generic.hook("25-drivers").status == 0
    # libata is there already.
    assert loads(generic) == ["scsi_common", "scsi_mod", "libahci", "ahci"]
    assert "drivers: ahci\n" in generic.read(LOG)
    left = {path.rpartition("/")[2] for path in generic.files("/lib/modules")}
    assert left >= {"nvme.ko", "usb-storage.ko".replace("-", "_")}
    assert not left & {"ahci.ko", "libahci.ko", "libata.ko", "scsi_mod.ko"}


def test_a_device_that_appears_later_gets_its_driver_too(generic: Environment) -> None:
    disk = "mkdir /sys/devices/disk; echo MODALIAS=scsi:t-0x00 >/sys/devices/disk/uevent"
    ended = generic.shell(f"run_hook 25-drivers; {disk}; wait_for 5 grep 'drivers: sd_mod$' {LOG}")
    assert ended.status == 0, generic.read(LOG)
    # What two drivers need is loaded once, or tried once more where it could not be.
    assert generic.read(LOG).count("drivers: ") == 2
    assert loads(generic)[-1] == "sd_mod"


def test_no_driver_is_looked_for_once_a_target_is_open(generic: Environment) -> None:
    disk = "mkdir /sys/devices/disk; echo MODALIAS=scsi:t-0x00 >/sys/devices/disk/uevent"
    assert generic.shell(f"run_hook 25-drivers; run_hook 55-free; {disk}; sleep 3").status == 0
    assert [(step.name, step.status) for step in generic.steps()] == [("25-drivers", 0), ("55-free", 0)]
    assert not generic.exists("/lib/modules")
    assert "sd_mod" not in generic.read(LOG)


def test_what_is_freed_need_not_be_freed_again(generic: Environment) -> None:
    generic.hook("55-free")
    assert generic.hook("55-free").status == 77


def test_a_target_without_logical_volumes_has_nothing_to_activate(environment: Environment) -> None:
    assert environment.hook("35-lvm", before="unset KDUMP_LVM_SELECT").status == 77


def test_a_volume_with_another_uuid_is_not_the_one(environment: Environment) -> None:
    environment.append("/etc/kdump/settings", f"export LV={capture.LV_UUID}-real\n")
    ended = environment.shell("assemble 35-lvm || echo given up")
    assert ended.output.endswith("given up\n")
    assert [(step.name, step.status) for step in environment.steps()] == [("35-lvm", 75)]
    assert "storage is not there after 1 s: 35-lvm" in environment.read(LOG)


CRYPT_UUID = "1f2e3d4c-5b6a-7988-1f2e-3d4c5b6a7988"
RESTORE = "/sys/kernel/config/crash_dm_crypt_keys/restore"


@pytest.fixture
def encrypted(environment: Environment) -> Environment:
    """Return an environment with a LUKS device, and a cryptsetup that writes down how it was called."""
    environment.write("/lib/kdump/hooks/33-crypt.sh", Path(resources.directory("hooks"), "33-crypt.sh").read_bytes())
    environment.write("/sys/class/block/vda/dev", "254:0\n")
    environment.write("/dev/vda", b"LUKS\xba\xbe".ljust(168, b"\0") + CRYPT_UUID.encode().ljust(344, b"\0"))
    opens = "mkdir -p /sys/block/dm-1/dm; echo CRYPT-LUKS2-x-kdump0 >/sys/block/dm-1/dm/uuid"
    environment.program("/usr/sbin/cryptsetup", f'echo "$@" >/called; {opens}')
    return environment


def crypt(environment: Environment, key: str) -> int:
    words = f"{CRYPT_UUID} kdump0 CRYPT-LUKS2-x-kdump0 {key}"
    set_all(environment, KDUMP_CRYPTSETUP="/usr/sbin/cryptsetup", KDUMP_CRYPT=words)
    return environment.hook("33-crypt").status


def test_a_device_is_opened_with_its_key_file(encrypted: Environment) -> None:
    assert crypt(encrypted, "/etc/keys/vda") == 0
    assert encrypted.read("/called").endswith(" --key-file /etc/keys/vda /dev/vda kdump0\n")


def test_a_device_is_opened_with_a_volume_key_once_that_was_restored(encrypted: Environment) -> None:
    encrypted.write(RESTORE, "0\n")
    # What matches a file of the directory is no pattern.
    assert crypt(encrypted, "%user:vk:*") == 0
    assert encrypted.read("/called").endswith(" --volume-key-keyring %user:vk:* /dev/vda kdump0\n")
    assert encrypted.read(RESTORE) == "1\n"


def test_a_volume_key_that_this_kernel_was_not_handed_ends_the_target(encrypted: Environment) -> None:
    assert crypt(encrypted, "%user:vk:vda") == 1
    assert "this kernel was handed none" in encrypted.read(LOG)
    assert not encrypted.exists("/called")


# Activates a volume where it may do so without a physical volume, and writes down how it was asked.
DEGRADED_LVM = """echo "$*" | sed -n 's/.*--activationmode \\([a-z]*\\).*/\\1/p' >>/asked
case $* in *"--activationmode degraded"*) mkdir -p /sys/block/dm-0/dm; echo "$LV" >/sys/block/dm-0/dm/uuid ;; esac"""


def test_what_is_missing_of_a_raid_volume_is_waited_for(environment: Environment) -> None:
    environment.program("/usr/sbin/lvm", DEGRADED_LVM)
    environment.append("/etc/kdump/settings", "export KDUMP_DEGRADED_AFTER_S=1 KDUMP_DEVICE_TIMEOUT_S=9\n")
    environment.shell("export KDUMP_LVM_DEGRADED=yes; assemble 35-lvm")
    (step,) = environment.steps()
    assert (step.status, 100 <= step.took_cs < 900) == (0, True)
    *first, last = environment.read("/asked").split()
    assert set(first) == {"complete"}
    assert last == "degraded"


def test_a_volume_that_needs_all_of_it_is_not_activated_in_part(environment: Environment) -> None:
    environment.program("/usr/sbin/lvm", DEGRADED_LVM)
    environment.append("/etc/kdump/settings", "export KDUMP_DEGRADED_AFTER_S=1\n")
    environment.shell("assemble 35-lvm")
    assert environment.steps()[-1].status == 75
    assert set(environment.read("/asked").split()) == {"complete"}


def test_the_target_is_given_up_when_its_device_does_not_come(environment: Environment) -> None:
    environment.write("/sys/class/block/cciss!c0d0/dev", "1:1\n")
    step = environment.hook("50-target-disk open")
    assert step.status == 1
    assert 100 <= step.took_cs < 500
    assert f"no device with file system UUID {capture.FS_UUID} after 1 s" in environment.read(LOG)
    assert "there are: cciss!c0d0" in environment.read(LOG)
    assert not environment.exists("/run/kdump/dump-directory")


def test_what_is_not_mounted_needs_no_close(environment: Environment) -> None:
    assert environment.hook("50-target-disk close").status == 77


def test_a_verb_that_is_none_is_refused(environment: Environment) -> None:
    assert environment.hook("50-target-disk frobnicate").status == 1


def test_nothing_is_put_where_no_directory_was_made(environment: Environment) -> None:
    ended = environment.shell("echo precious | target put vmcore || echo refused")
    assert ended.output.endswith("refused\n")
    assert not environment.exists("/vmcore-incomplete")


def test_the_log_of_the_crashed_kernel_is_saved(opened: Environment) -> None:
    assert opened.hook("60-dmesg").status == 0
    assert saved(opened) == {"vmcore-dmesg.txt": DMESG.encode()}


@pytest.mark.parametrize("stub", ["exit 1", "exit 0", f'{LAST}: >"$last"'])
def test_a_log_that_cannot_be_read_is_no_log(opened: Environment, stub: str) -> None:
    opened.program(MAKEDUMPFILE, stub)
    assert opened.hook("60-dmesg", before="export KDUMP_VMCORE_DMESG=").status == 1
    assert saved(opened) == {}


def test_vmcore_dmesg_reads_the_log_where_makedumpfile_cannot(opened: Environment) -> None:
    opened.program(MAKEDUMPFILE, f'{LAST}echo half >"$last"; exit 1')
    opened.program("/usr/sbin/vmcore-dmesg", "cat /dmesg")
    assert opened.hook("60-dmesg", before="export KDUMP_VMCORE_DMESG=/usr/sbin/vmcore-dmesg").status == 0
    assert saved(opened) == {"vmcore-dmesg.txt": DMESG.encode()}


# --- names and files on the target -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "",
        "CRASHTIME=",
        "CRASHTIME=0",
        "CRASHTIME=-1700000000",
        "CRASHTIME=17000000000000000000",
        "CRASHTIME=0170000000",
        "CRASHTIME=1700000000; touch /hostile",
        "CRASHTIME=$(touch /hostile)",
        "CRASHTIME=../../etc",
        "CRASHTIME=x\nCRASHTIME=1700000000",
    ],
)
def test_a_time_of_the_crash_that_is_not_sane_is_not_taken(environment: Environment, line: str) -> None:
    environment.write("/run/kdump/vmcoreinfo", f"OSRELEASE=x\n{line}\n")
    ended = environment.shell("mkdir /t; date -u +%Y%m%d; make_directory /t; crash_time +%s || echo none")
    today, none = ended.output.split()
    assert none == "none"
    (name,) = (path.name for path in environment.path("/t").iterdir())
    assert re.fullmatch(rf"{capture.HOST}-{today}T\d{{6}}Z", name)
    assert not environment.exists("/hostile")


@pytest.mark.parametrize(("seconds", "stamp"), [(CRASHTIME, STAMP), (9999999999, "22861120T174639Z")])
def test_the_directory_is_named_by_the_time_of_the_crash(environment: Environment, seconds: int, stamp: str) -> None:
    environment.write("/run/kdump/vmcoreinfo", f"CRASHTIME={seconds}\n")
    environment.shell("mkdir /t; make_directory /t")
    assert environment.read("/run/kdump/dump-directory") == f"/t/{capture.HOST}-{stamp}\n"


def test_a_directory_that_is_there_is_never_used_again(environment: Environment) -> None:
    environment.write("/run/kdump/vmcoreinfo", VMCOREINFO)
    environment.shell("mkdir /t; for i in 1 2 3; do make_directory /t; done")
    base = f"{capture.HOST}-{STAMP}"
    assert sorted(path.name for path in environment.path("/t").iterdir()) == [base, f"{base}-1", f"{base}-2"]


def test_the_thousandth_directory_of_a_name_is_the_last(environment: Environment) -> None:
    environment.write("/run/kdump/vmcoreinfo", VMCOREINFO)
    base = environment.directory / "t" / f"{capture.HOST}-{STAMP}"
    for suffix in ("", *(f"-{number}" for number in range(1, 999))):
        Path(f"{base}{suffix}").mkdir(parents=True)
    assert environment.shell("make_directory /t").status == 0
    assert environment.read("/run/kdump/dump-directory").endswith("-999\n")
    assert environment.shell("make_directory /t").status == 1


def test_where_no_directory_can_be_made_it_is_not_tried_a_thousand_times(environment: Environment) -> None:
    assert environment.shell("make_directory /missing").status == 1
    assert environment.read(LOG).count("cannot make") == 1


def test_a_file_gets_its_name_when_it_is_complete(opened: Environment) -> None:
    ended = opened.shell('echo content | target put file; ls "$(recall dump-directory)"; target commit file')
    assert ended.output == "file-incomplete\n"
    assert saved(opened) == {"file": b"content\n"}


@pytest.mark.parametrize("broken", ["dd", "put", "missing"])
def test_a_file_that_did_not_reach_the_device_stays_incomplete(opened: Environment, broken: str) -> None:
    hook = "/lib/kdump/hooks/50-target-disk.sh"
    opened.write("/content", "content\n")
    if broken == "dd":
        opened.replace(hook, "set -eu\n", "set -eu\ndd() { return 1; }\n")
    elif broken == "put":
        put = 'hashed "$2" >"$directory/$2-incomplete"'
        opened.replace("/lib/kdump/directory.sh", put, 'head -c 3 >"$directory/$2-incomplete"; exit 1')
    source = "/nothing" if broken == "missing" else "/content"
    ended = opened.shell(f"save_file file {source} && echo saved")
    assert "saved" not in ended.output
    assert (
        saved(opened)
        == {"dd": {"file-incomplete": b"content\n"}, "put": {"file-incomplete": b"con"}, "missing": {}}[broken]
    )


# --- the ladder of collectors ------------------------------------------------------------------------------------

FAILING = {
    "it exits with 1": f'{LAST}echo half >"$last"; exit 1',
    "it is killed": f'{LAST}echo "KDUMP   half" >"$last"; kill -9 $$',
    "it writes nothing": f'{LAST}: >"$last"',
    "it makes no file": "exit 0",
    "it writes garbage": f'{LAST}cat /proc/vmcore >"$last"',
    "it cannot be run": "#",
}


@pytest.mark.parametrize("stub", FAILING.values(), ids=FAILING.keys())
def test_the_copy_wins_when_makedumpfile_fails(opened: Environment, stub: str) -> None:
    set_all(opened, KDUMP_COLLECTORS="makedumpfile copy", KDUMP_COPY_COMPRESSION="none")
    opened.program(MAKEDUMPFILE, stub)
    if stub == "#":
        opened.path(MAKEDUMPFILE).unlink()
    assert opened.hook("70-vmcore").status == 0
    assert opened.read("/run/kdump/collector") == "copy\n"
    assert saved(opened) == {"vmcore": opened.path(VMCORE).read_bytes()}
    assert "collector makedumpfile failed" in opened.read(LOG)


def test_makedumpfile_wins_where_it_succeeds(opened: Environment) -> None:
    set_all(opened, KDUMP_COLLECTORS="makedumpfile copy", KDUMP_MAKEDUMPFILE_ARGUMENTS="-d 31 --message-level 22")
    opened.program(MAKEDUMPFILE, f'{LAST}echo "$*" >/arguments; {{ printf \'KDUMP   \'; cat /proc/vmcore; }} >"$last"')
    assert opened.hook("70-vmcore").status == 0
    assert opened.read("/run/kdump/collector") == "makedumpfile\n"
    assert saved(opened) == {"vmcore": b"KDUMP   " + opened.path(VMCORE).read_bytes()}
    incomplete = f"/target/{dump_directory(opened).name}/vmcore-incomplete"
    assert opened.read("/arguments") == f"-d 31 --message-level 22 /proc/vmcore {incomplete}\n"


def test_what_an_earlier_try_left_does_not_stop_makedumpfile(opened: Environment) -> None:
    set_all(opened, KDUMP_COLLECTORS="makedumpfile")
    opened.program(
        MAKEDUMPFILE, f'{LAST}[ ! -e "$last" ] || {{ echo File exists; exit 1; }}\nprintf \'KDUMP   \' >"$last"'
    )
    (dump_directory(opened) / "vmcore-incomplete").write_bytes(b"old")
    assert opened.hook("70-vmcore").status == 0
    assert saved(opened) == {"vmcore": b"KDUMP   "}


def test_a_kernel_unknown_to_makedumpfile_is_a_warning(opened: Environment) -> None:
    set_all(opened, KDUMP_COLLECTORS="makedumpfile")
    said = "The kernel version is not supported."
    opened.program(MAKEDUMPFILE, f"{LAST}echo '{said}' >&2; printf 'KDUMP   ' >\"$last\"")
    assert opened.hook("70-vmcore").status == 0
    assert record(opened)["warnings"] == ["makedumpfile does not know this kernel version"]


@pytest.mark.parametrize(("compression", "name"), [("none", "vmcore"), ("gzip", "vmcore.gz"), ("zstd", "vmcore.zst")])
def test_the_copy_is_the_core_itself(opened: Environment, compression: str, name: str) -> None:
    set_all(opened, KDUMP_COLLECTORS="copy", KDUMP_COPY_COMPRESSION=compression)
    assert opened.hook("70-vmcore").status == 0, opened.read(LOG)
    ((found, content),) = saved(opened).items()
    assert found == name
    with compression_format.reader(io.BytesIO(content), name) as unpacked:
        assert unpacked.read() == opened.path(VMCORE).read_bytes()


# A source that ends early looks complete to whoever reads it. The program is replaced by one that reads half.
TRUNCATING = 'tee() { head -c 1000 /proc/vmcore | command tee "$@"; }'


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_copy_of_half_the_core_is_refused(opened: Environment, compression: str) -> None:
    set_all(opened, KDUMP_COLLECTORS="copy", KDUMP_COPY_COMPRESSION=compression)
    opened.replace("/lib/kdump/hooks/70-vmcore.sh", "set -eu\n", f"set -eu\n{TRUNCATING}\n")
    assert opened.hook("70-vmcore").status == 1
    assert saved(opened) == {}
    assert "no collector could save the vmcore" in opened.read(LOG)


def test_the_log_alone_is_enough_where_that_was_asked_for(opened: Environment) -> None:
    set_all(opened, KDUMP_COLLECTORS="dmesg")
    assert opened.hook("70-vmcore").status == 1
    assert opened.hook("60-dmesg").status == 0
    assert opened.hook("70-vmcore").status == 0


def test_half_a_log_is_not_removed_with_half_a_core(opened: Environment) -> None:
    set_all(opened, KDUMP_COLLECTORS="dmesg")
    (dump_directory(opened) / "vmcore-dmesg.txt-incomplete").write_bytes(b"half")
    assert opened.hook("70-vmcore").status == 1
    assert saved(opened) == {"vmcore-dmesg.txt-incomplete": b"half"}


# --- room and old dumps ------------------------------------------------------------------------------------------

OLD = (f"{capture.HOST}-20200101T000000Z", f"{capture.HOST}-20200101T000000Z-2", f"{capture.HOST}-20200101T000000Z-10")
NOT_OURS = (
    *(f"other-{STAMP}", f"{capture.HOST}-x-{STAMP}", f"{capture.HOST}-{STAMP}-1x", f"{capture.HOST}-2020", "precious"),
    *(f"{capture.HOST}-20190101T000000Z-", f"{capture.HOST}-20190101T000000Zx", f"{capture.HOST}-2019010aT000000Z"),
)


def add_dump(environment: Environment, name: str, *, complete: str = "true", size: int = 8192) -> None:
    environment.write(f"/target/{name}/dump.json", f'{{\n  "schema": 1,\n  "complete": {complete},\n}}\n')
    environment.write(f"/target/{name}/vmcore", bytes(size))


@pytest.fixture
def full(opened: Environment) -> Environment:
    """Return an environment with old dumps of ours, and things that are not ours or not complete."""
    for name in (*OLD, *NOT_OURS):
        add_dump(opened, name)
    add_dump(opened, f"{capture.HOST}-20180101T000000Z", complete="false")
    add_dump(opened, "elsewhere")
    opened.path(f"/target/{capture.HOST}-20170101T000000Z").symlink_to("elsewhere")
    opened.write("/run/kdump/saved", "vmcore\ndump.json\n")
    opened.write("/run/kdump/collector", "copy\n")
    return opened


def gone(environment: Environment, run: str) -> set[str]:
    before = {path.name for path in environment.path("/target").iterdir()}
    step = environment.hook(run.rsplit(maxsplit=1)[-1], before=run.rpartition(" ")[0])
    assert step.status == 0, environment.read(LOG)
    return before - {path.name for path in environment.path("/target").iterdir()}


@pytest.mark.parametrize(("keep", "removed"), [(0, ()), (1, OLD), (2, OLD[:2]), (3, OLD[:1]), (4, ()), (5, ())])
def test_as_many_dumps_stay_as_are_to_be_kept(keep: int, removed: tuple[str, ...], full: Environment) -> None:
    assert gone(full, f"export KDUMP_KEEP={keep} KDUMP_MAX_BYTES=0; 85-retention") == set(removed)


@pytest.mark.parametrize(("limit", "removed"), [(1, OLD), (30000, OLD[:1]), (10**9, ())])
def test_dumps_take_no_more_space_together_than_they_may(
    limit: int, removed: tuple[str, ...], full: Environment
) -> None:
    assert gone(full, f"export KDUMP_KEEP=0 KDUMP_MAX_BYTES={limit}; 85-retention") == set(removed)


def test_nothing_is_removed_where_nothing_was_saved(full: Environment) -> None:
    full.path("/run/kdump/collector").unlink()
    before = full.files("/target")
    assert full.hook("85-retention", before="export KDUMP_KEEP=1 KDUMP_MAX_BYTES=0").status == 77
    assert full.files("/target") == before


def test_what_somebody_has_put_into_an_old_dump_stays(full: Environment) -> None:
    full.write(f"/target/{OLD[0]}/analysis.txt", "work")
    assert gone(full, "export KDUMP_KEEP=1 KDUMP_MAX_BYTES=0; 85-retention") == set(OLD[1:])
    assert full.read(f"/target/{OLD[0]}/analysis.txt") == "work"


def test_room_is_made_of_the_oldest_but_never_of_the_newest(full: Environment) -> None:
    assert gone(full, f"export KDUMP_MIN_FREE={1 << 60} KDUMP_SIZE_LIMIT=0; 58-room") == set(OLD[:2])


def test_no_room_is_made_where_there_is_enough(full: Environment) -> None:
    assert gone(full, "export KDUMP_MIN_FREE=1 KDUMP_SIZE_LIMIT=4711; 58-room") == set()
    assert full.read("/run/kdump/limit-bytes") == "4711\n"


def test_reserve_is_not_for_the_vmcore(opened: Environment) -> None:
    opened.hook("58-room", before="export KDUMP_MIN_FREE=0 KDUMP_SIZE_LIMIT=0")
    status = os.statvfs(opened.directory)
    reserve = max(64 << 20, status.f_blocks * status.f_frsize // 100)
    expected = status.f_bavail * status.f_frsize - reserve
    assert abs(int(opened.read("/run/kdump/limit-bytes")) - expected) < 1 << 30


ROOM = "export KDUMP_COLLECTORS='makedumpfile copy' KDUMP_MAKEDUMPFILE_ARGUMENTS='-d 1' KDUMP_COPY_COMPRESSION=none"


def test_what_does_not_fit_is_tried_with_all_left_out_that_can_be(opened: Environment) -> None:
    opened.write("/run/kdump/limit-bytes", "65536\n")
    opened.program(
        MAKEDUMPFILE, f'{LAST}printf "KDUMP   " >"$last"; [ "$2" = 31 ] || {{ cat /proc/vmcore >>"$last" || exit 1; }}'
    )
    set_all(opened, KDUMP_LEAST_ARGUMENTS="-d 31")
    opened.hook("70-vmcore", before=ROOM)
    assert opened.read("/run/kdump/collector") == "least\n"
    assert saved(opened) == {"vmcore": b"KDUMP   "}
    assert "collector makedumpfile failed: room" in opened.read(LOG)
    assert "collector copy" not in opened.read(LOG)
    found = record(opened)
    assert found["collector"] == {"name": "makedumpfile", "arguments": "-d 31"}


def test_what_cannot_become_smaller_is_not_tried_again(opened: Environment) -> None:
    opened.write("/run/kdump/limit-bytes", "65536\n")
    opened.program(MAKEDUMPFILE, f'{LAST}cat /proc/vmcore >"$last"')
    assert opened.hook("70-vmcore", before=f"{ROOM} KDUMP_LEAST_ARGUMENTS=").status == 1
    assert saved(opened) == {}
    assert opened.read(LOG).count(" failed: ") == 1


def test_copy_that_does_not_fit_is_not_half_of_one(opened: Environment) -> None:
    opened.write("/run/kdump/limit-bytes", "65536\n")
    assert opened.hook("70-vmcore", before=f"{ROOM} KDUMP_COLLECTORS=copy KDUMP_LEAST_ARGUMENTS=").status == 1
    assert saved(opened) == {}
    assert "collector copy failed: room" in opened.read(LOG)


@pytest.mark.parametrize("room", [0, -5000])
def test_no_collector_is_started_where_there_is_no_room(room: int, opened: Environment) -> None:
    opened.write("/run/kdump/limit-bytes", f"{room}\n")
    assert opened.hook("70-vmcore").status == 1
    assert "no room for a vmcore" in opened.read(LOG)
    assert opened.hook("60-dmesg").status == 0


# --- the record --------------------------------------------------------------------------------------------------


def record(environment: Environment) -> Any:
    """Return the record that the hook saves, as it is and as the product reads it."""
    assert environment.hook("80-record").status == 0, environment.read(LOG)
    content = saved(environment)["dump.json"]
    msgspec.json.decode(content, type=store.DumpRecord)
    return json.loads(content)


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


# --- what the image must hold ------------------------------------------------------------------------------------


def test_commands_are_found_where_they_can_begin() -> None:
    text = """\
    a1 && a2 || ! a3 | a4 >x; (a5 no; a6 no) # not a comment's
    if a7 no; then a8; fi
    case $x in no) a9 ;; no | no) b1 x ;; esac
    x="no $(b2 "no $(b3)" $((no))) no" 'no; no' ${x:-no} \\; no
    """
    assert shell.commands(text) == {"a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "b1", "b2", "b3"}


def test_the_applets_of_the_image_are_those_that_scripts_call(environment: Environment) -> None:
    library = [f"/lib/kdump/{name[:-3]}.sh" for name in (*scripts.LIBRARY, "target.sh")]
    paths = ["/init", *library, *(f"/lib/kdump/hooks/{name}.sh" for name in HOOKS)]
    text = "\n".join(environment.read(path) for path in paths)
    called = shell.commands(text)
    # Called by the name that the configuration gives.
    called |= set(typing.get_args(config.FinalAction)) - {"shell"}
    assert called == _applets()
    present = {
        name for name in called if environment.exists(f"/bin/{name}") or environment.path(f"/bin/{name}").is_symlink()
    }
    assert present == called


def _applets() -> set[str]:
    spec = importlib.util.spec_from_file_location("base", f"{resources.directory('hooks')}/10-base.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return set(vars(module)["_APPLETS"])
