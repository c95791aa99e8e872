"""The capture side without a guest: the hooks of a real image, run in a chroot of it with stubs in some places."""

import importlib.util
import re
import shutil
import typing
from pathlib import Path

import pytest

from kdump_initramfs import config, resources
from kdump_initramfs.image import scripts
from tests import capture, command, shell
from tests.capture import CONSOLE, LOG, VMCORE, Environment
from tests.saving import (
    DMESG,
    HOOKS,
    LAST,
    MAKEDUMPFILE,
    RELEASE,
    VMCOREINFO,
    dump_directory,
    saved,
    set_all,
)

pytestmark = pytest.mark.skipif(not capture.can_enter(), reason="needs root that may make namespaces and device nodes")


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


# The second is cut by the end of the first 64 KiB; the third is what some 500 processors have before it.
@pytest.mark.parametrize("before", [1000, (64 << 10) - len(VMCOREINFO) // 2, 180_000])
def test_vmcoreinfo_is_read_from_the_notes(before: int, environment: Environment) -> None:
    environment.write(VMCORE, b"\x7fELF" + bytes(before) + f"VMCOREINFO\0{VMCOREINFO}".encode() + b"memory" * 50000)
    assert environment.hook("15-vmcoreinfo").status == 0
    assert environment.read("/run/kdump/vmcoreinfo") == VMCOREINFO
    assert f"crashed kernel: {RELEASE}" in environment.read(LOG)


def test_a_module_that_cannot_be_loaded_does_not_stop_the_others(environment: Environment) -> None:
    environment.write("/etc/kdump/modules", "/lib/modules/one.ko\n/lib/modules/two.ko\n")
    environment.write("/lib/modules/one.ko", "x")
    environment.write("/lib/modules/two.ko", "x")
    assert environment.hook("20-modules").status == 1
    log = environment.read(LOG)
    assert "cannot load /lib/modules/one.ko" in log
    assert "cannot load /lib/modules/two.ko" in log
    # Their memory is given back.
    assert [environment.read(f"/lib/modules/{name}.ko") for name in ("one", "two")] == ["", ""]


# --- parameters of modules --------------------------------------------------------------------------------------------


def note_insmod(environment: Environment, *, then: str = ":") -> None:
    """Have insmod leave each argument in a line of its own; as a function, since busybox's shell prefers its applet."""
    note = 'printf \'%s\\n\' "$#" "$@" >>/run/kdump/loaded'
    environment.append("/lib/kdump/modules.sh", f"insmod() {{\n{note}\n{then}\n}}\n")


def loaded(environment: Environment) -> list[list[str]]:
    """Return the arguments of each insmod, the path without its directory first."""
    lines = environment.read("/run/kdump/loaded").splitlines()
    calls: list[list[str]] = []
    while lines:
        count = int(lines.pop(0))
        calls.append([lines[0].rpartition("/")[2], *lines[1:count]])
        del lines[:count]
    return calls


@pytest.mark.parametrize(
    ("options", "cmdline", "expected"),
    [
        ("", "", []),
        ("one a=1 b=2", "ro quiet\n", ["a=1 b=2"]),
        ("", "one.a=1\n", ["a=1"]),
        ("", "one.a", ["a"]),
        # The kernel takes the last.
        ("one a=1", "one.a=2 two.a=3 one.b=4", ["a=1 a=2 b=4"]),
        ("one a=1\none b=2", "", ["a=1 b=2"]),
        # Quotes are the kernel's, wherever they begin.
        ('one a="x  y" b=2', "", ['a="x  y" b=2']),
        ("", 'one.a="x  y" one.b=2', ['a="x  y" b=2']),
        ("", '"one.a=x  y" one.b=2', ['"a=x  y" b=2']),
        ("", 'one.a="x=y.z, *"', ['a="x=y.z, *"']),
        ("", 'one.a="x y', ['a="x y"']),
        ("one a=\\134* b=$(c)", "one.d=\\n ", ["a=\\134* b=$(c) d=\\n"]),
        # No parameter of this module: of another, of none, and of init.
        ("on a=1", "onex.a=1 .one.a=1 ip=1.2 x=one.a=1 =one.a a.one.b=1 -- one.c=1", []),
        ("", '"x one.a=1" one.b=2', ["b=2"]),
    ],
)
def test_a_module_gets_its_parameters(
    options: str, cmdline: str, expected: list[str], environment: Environment
) -> None:
    note_insmod(environment)
    environment.write("/etc/kdump/modules", "/lib/modules/one.ko\n")
    environment.write("/lib/modules/one.ko", "x")
    environment.write("/proc/cmdline", cmdline)
    if options:
        environment.write("/etc/kdump/parameters", f"{options}\n")
    assert environment.hook("20-modules").status == 0, environment.read(LOG)
    assert loaded(environment) == [["one.ko", *expected]]


def test_dashes_and_underscores_of_modules_are_one(environment: Environment) -> None:
    note_insmod(environment)
    environment.write("/etc/kdump/modules", "/lib/modules/a_b_c.ko\n")
    environment.write("/lib/modules/a_b_c.ko", "x")
    environment.write("/proc/cmdline", "a-b_c.x-y=1 a-b-c.z=2 a_b.q=3\n")
    assert environment.hook("20-modules").status == 0
    assert loaded(environment) == [["a_b_c.ko", "x-y=1 z=2"]]


def test_a_module_that_its_parameters_keep_from_loading_is_loaded_without(environment: Environment) -> None:
    note_insmod(environment, then="[ $# = 1 ]")
    environment.write("/etc/kdump/modules", "/lib/modules/one.ko\n")
    environment.write("/lib/modules/one.ko", "x")
    environment.write("/proc/cmdline", "one.a=no\n")
    assert environment.hook("20-modules").status == 0
    assert loaded(environment) == [["one.ko", "a=no"], ["one.ko"]]
    assert "cannot load /lib/modules/one.ko with a=no; trying it without" in environment.read(LOG)


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


def test_a_driver_gets_its_parameters_and_none_that_the_command_line_has_blacklisted(generic: Environment) -> None:
    note_insmod(generic)
    generic.write("/etc/kdump/parameters", "libahci a=1\n")
    generic.write("/proc/cmdline", "ahci.b=2 modprobe.blacklist=x,nvme\n")
    generic.write("/sys/devices/pci1/uevent", "MODALIAS=pci:v00008086d00002922sv0sd0bc01sc08i02\n")
    assert generic.shell("run_hook 20-modules; run_hook 25-drivers").status == 0
    named = [call for call in loaded(generic) if "ahci" in call[0] or "nvme" in call[0]]
    assert named == [["libahci.ko", "a=1"], ["ahci.ko", "b=2"]]


def test_a_device_that_appears_later_gets_its_driver_too(generic: Environment) -> None:
    disk = "mkdir /sys/devices/disk; echo MODALIAS=scsi:t-0x00 >/sys/devices/disk/uevent"
    ended = generic.shell(f"run_hook 25-drivers; {disk}; wait_for 5 grep 'drivers: sd_mod$' {LOG}")
    assert ended.status == 0, generic.read(LOG)
    # What two drivers need is loaded once, or tried once more where it could not be.
    assert generic.read(LOG).count("drivers: ") == 2
    assert loads(generic)[-1] == "sd_mod"


def test_looking_for_devices_keeps_nobody_waiting(generic: Environment) -> None:
    assert generic.shell("run_bounded_hook 25-drivers", timeout_s=15).status == 0
    assert generic.steps()[-1].status == 0


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


def test_of_two_devices_with_one_luks_uuid_none_is_opened_until_one_of_them_is_held(encrypted: Environment) -> None:
    encrypted.write("/sys/class/block/vdb/dev", "254:16\n")
    encrypted.write("/dev/vdb", Path(f"{encrypted.directory}/dev/vda").read_bytes())
    for _ in range(2):
        assert crypt(encrypted, "/etc/keys/vda") == 75
        assert not encrypted.exists("/called")
    assert encrypted.read(LOG).count(f"LUKS UUID {CRYPT_UUID} is on several devices: vda vdb") == 1
    encrypted.write("/sys/class/block/vda/holders/md0", "")
    assert crypt(encrypted, "/etc/keys/vda") == 0
    assert encrypted.read("/called").endswith(" /dev/vdb kdump0\n")


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


def test_no_devices_are_none(environment: Environment) -> None:
    shutil.rmtree(environment.path("/sys/class/block"), ignore_errors=True)
    assert environment.hook("50-target-disk open").status == 1
    assert "after 1 s; there are: none" in environment.read(LOG)
    environment.path("/sys/class/block").mkdir(parents=True)
    for words in ("block_devices", "has_holder sda", "dm_exists x"):
        assert environment.shell(f"{words} || :").output == ""


SHELL = sorted(
    path
    for place in ("templates", "hooks")
    for path in (command.PROJECT / place).iterdir()
    if path.suffix in (".sh", ".j2")
)
# What is there on every Linux: its own processes.
ALWAYS = "/proc/[0-9]*/stat"
LOOP = re.compile(r"for (?P<name>\w+) in (?P<words>[^;]*/\*[^;]*); do\n(?P<body>(?:.*\n){1,6})")


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_no_pattern_is_taken_for_a_file(path: Path) -> None:
    """Where nothing matches, a shell leaves the pattern as it is: whoever goes over files looks whether they exist."""
    for loop in LOOP.finditer(path.read_text()):
        looks = re.compile(r"\[ (! )?-[ecL] \S*|2>/dev/null")
        assert loop["words"] == ALWAYS or looks.search(loop["body"]), loop[0]


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
