"""Arming: the capture kernel's command line, the kexec command, what is remembered of it, and what init systems get."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs import build as spine
from kdump_initramfs import config
from kdump_initramfs.errors import HostError, LoadError
from kdump_initramfs.host.root import Root
from kdump_initramfs.loader import cmdline, emit, kexec, state, status
from kdump_initramfs.loader.cmdline import APPENDED, MAX_BYTES, REMOVED
from tests import programs, trees
from tests.test_enable import OPENRC_WORDS

# --- the command line --------------------------------------------------------------------------------------------


def capture(*running: str, machine: str = "x86_64", **more: Any) -> list[str]:
    return cmdline.capture(running, machine=machine, **more).split(" ")


def test_every_rule_has_a_reason_and_is_there_once() -> None:
    assert all(rule.reason for rule in (*REMOVED, *APPENDED))
    for rules in (REMOVED, APPENDED):
        names = [rule.parameter for rule in rules]
        assert len(names) == len(set(names))


def test_no_rule_appends_what_another_removes_without_replacing_it() -> None:
    kept = {"panic", "cma", "hugetlb_cma", "swiotlb", "vmcp_cma"}
    removed = {rule.parameter for rule in REMOVED}
    assert {rule.parameter.partition("=")[0] for rule in APPENDED} & removed <= kept


@pytest.mark.parametrize("rule", [rule for rule in REMOVED if not rule.machines], ids=lambda rule: str(rule.parameter))
def test_what_hurts_is_removed_on_every_machine(rule: cmdline.Rule) -> None:
    given_one = f"{rule.parameter}x=1" if rule.parameter.endswith(".") else f"{rule.parameter}=was-here"
    for machine in MAX_BYTES:
        line = capture("before", given_one, "after", machine=machine)
        assert given_one not in line
        assert line[:2] == ["before", "after"]


@pytest.mark.parametrize(
    "kept",
    [
        "console=ttyS0,115200n8",
        "roots=1",
        "rooted",
        "iommu=pt",
        "rdx.y=1",
        "memory=1",
        "mem_sleep_default=deep",
        "r",
        "=x",
    ],
)
def test_what_only_looks_alike_is_kept(kept: str) -> None:
    assert kept in capture(kept)


@pytest.mark.parametrize(
    "removed",
    ["softlockup-panic=1", "softlockup_panic=1", "log-buf-len=1M", '"root=/dev/a b"', 'init="/bin/sh -c x"', "ro"],
)
def test_dash_and_underscore_and_quotes_make_no_difference(removed: str) -> None:
    assert cmdline.capture([removed, "x"], machine="x86_64") == cmdline.capture(["x"], machine="x86_64")


def test_what_follows_two_dashes_is_not_for_the_kernel() -> None:
    line = capture("a", "--", "single", "b")
    assert line[0] == "a"
    assert not {"--", "single", "b"} & set(line)


def test_only_the_machines_that_know_a_parameter_get_it() -> None:
    lines = {machine: set(capture(machine=machine)) for machine in MAX_BYTES}
    assert {"irqpoll", "nokaslr", "mce=off", "reset_devices"} <= lines["x86_64"]
    assert "reset_devices" in lines["aarch64"]
    assert not {"irqpoll", "nokaslr", "mce=off", "numa=off"} & lines["aarch64"]
    assert not {"reset_devices", "irqpoll", "nokaslr"} & lines["s390x"]
    assert "vmcp_cma=0" in lines["s390x"]
    assert all("panic=10" in line and "nr_cpus=1" in line for line in lines.values())


def test_parameter_of_one_machine_is_kept_on_others() -> None:
    assert "prot_virt=1" not in capture("prot_virt=1", machine="s390x")
    assert "prot_virt=1" in capture("prot_virt=1", machine="x86_64")


@pytest.mark.parametrize(
    ("machine", "cpus", "apicid", "expected"),
    [
        ("x86_64", 1, 0, ["nr_cpus=1"]),
        ("x86_64", 4, 0, ["nr_cpus=4", "disable_cpu_apicid=0"]),
        ("x86_64", 4, 12, ["nr_cpus=4", "disable_cpu_apicid=12"]),
        ("x86_64", 4, None, ["nr_cpus=4"]),
        ("aarch64", 4, 0, ["nr_cpus=4"]),
    ],
)
def test_several_cpus_leave_out_the_one_that_booted(
    machine: str, cpus: int, apicid: int | None, expected: list[str]
) -> None:
    assert capture(machine=machine, cpus=cpus, boot_apicid=apicid)[-len(expected) :] == expected


def test_configured_parameters_are_removed_and_come_last() -> None:
    line = capture("console=tty0", "x=1", remove=["console"], append=["panic=0", 'y="a b"'])
    assert "console=tty0" not in line
    assert " ".join(line).endswith('nr_cpus=1 panic=0 y="a b"')


@pytest.mark.parametrize("machine", sorted(MAX_BYTES))
def test_longest_line_that_fits_is_taken_and_one_more_byte_is_not(machine: str) -> None:
    free = MAX_BYTES[machine] - 64 - len(cmdline.capture((), machine=machine)) - 2
    assert cmdline.capture(["x" * free], machine=machine)
    with pytest.raises(LoadError, match=f"a {machine} kernel takes less than {MAX_BYTES[machine]}") as caught:
        cmdline.capture(["x" * (free + 1)], machine=machine)
    assert "kernel.remove" in str(caught.value.hint)


def test_length_is_counted_in_bytes() -> None:
    with pytest.raises(LoadError):
        cmdline.capture(["é" * 900], machine="x86_64")


@given(st.lists(st.binary(min_size=1, max_size=8), max_size=8))
def test_any_command_line_gives_one(running: list[bytes]) -> None:
    words = [word.decode("utf-8", "surrogateescape") for word in running]
    assert " panic=10 " in cmdline.capture(words, machine="x86_64")


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(host_root: Callable[[str], Root]) -> Root:
    return host_root("debian-lvm-ext4")


@pytest.fixture
def image(machine: Root, tmp_path: Path) -> str:
    path = str(tmp_path / "it's an image.img")
    spine.build(machine, config.Config(), output=path)
    return path


def test_command_names_kernel_image_and_command_line(machine: Root, image: str) -> None:
    settings = config.load(root="/no/such", overrides=["kexec.extra_args=['--reset-vga']", "capture.cpus=2"])
    words = kexec.command(machine, settings, image).words
    assert words[:4] == ("/usr/sbin/kexec", "-p", "/boot/vmlinuz-6.1.0-35-amd64", "-a")
    assert words[4] == f"--initrd={image}"
    assert words[5].startswith("--append=console=ttyS0,115200n8 reset_devices")
    assert words[5].endswith("nr_cpus=2 disable_cpu_apicid=0")
    assert words[6:] == ("--reset-vga",)


def test_printed_command_is_one_that_a_shell_takes(machine: Root, image: str) -> None:
    command = kexec.command(machine, config.Config(), image, running=["a=$(id)", "b='c"])
    assert tuple(shlex.split(str(command))) == command.words


EFI = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


@pytest.mark.parametrize(
    ("syscall", "lockdown", "secure_boot", "option"),
    [
        ("auto", "", b"", "-a"),
        ("auto", "[none] integrity confidentiality\n", b"", "-a"),
        ("auto", "none [integrity] confidentiality\n", b"", "-s"),
        ("auto", "none integrity [confidentiality]\n", b"", "-s"),
        ("auto", "", b"\6\0\0\0\1", "-s"),
        ("auto", "", b"\6\0\0\0\0", "-a"),
        ("auto", "", b"\6\0", "-a"),
        ("file", "", b"", "-s"),
        ("load", "none [integrity] confidentiality\n", b"", "-c"),
    ],
)
def test_system_call_is_the_one_that_the_machine_allows(
    syscall: str, lockdown: str, secure_boot: bytes, option: str, sysroot: Callable[..., Root]
) -> None:
    root = sysroot({"/sys/kernel/security/lockdown": lockdown, EFI: secure_boot})
    settings = config.load(root=root.directory, overrides=[f"kexec.syscall={syscall}"])
    assert kexec.syscall_option(root, settings) == (option,)


# --- what is remembered, and what it tells -----------------------------------------------------------------------

LOADED_FILES = ("/sys/kernel/kexec_crash_loaded", "/sys/kernel/kexec/crash_loaded")


def arm(root: Root, image: str, *, loaded_file: str = LOADED_FILES[0]) -> None:
    """Make the machine look as after a successful load."""
    trees.make(f"file {loaded_file} 1", Path(root.directory))
    command = kexec.command(root, config.Config(), image)
    state.write(root, image=image, described=command.record, words=command.words)


@pytest.mark.parametrize("loaded_file", LOADED_FILES)
def test_armed_machine_says_with_what(loaded_file: str, machine: Root, image: str) -> None:
    arm(machine, image, loaded_file=loaded_file)
    found = status.read(machine, config.Config())
    assert (found.armed, found.stale, found.exit_code, found.reserved_bytes) == (True, (), 0, 256 << 20)
    assert found.loaded is not None
    assert (found.loaded.image, found.loaded.kernel_release) == (image, "6.1.0-35-amd64")


def test_machine_that_is_not_armed_is_status_4_whatever_is_remembered(machine: Root, image: str) -> None:
    arm(machine, image)
    trees.make(f"file {LOADED_FILES[0]} 0", Path(machine.directory))
    found = status.read(machine, config.Config())
    assert (found.armed, found.loaded, found.exit_code) == (False, None, 4)


def test_machine_without_kexec_support_is_not_armed(sysroot: Callable[..., Root]) -> None:
    assert status.read(sysroot({}), config.Config()).exit_code == 4


def test_what_another_tool_loaded_is_armed_and_weak(machine: Root) -> None:
    trees.make(f"file {LOADED_FILES[0]} 1", Path(machine.directory))
    found = status.read(machine, config.Config())
    assert (found.stale, found.exit_code) == (("not loaded by kdump-initramfs; run: kdump-initramfs load",), 3)


STALE = {
    "the kernel": ("file /boot/vmlinuz-6.1.0-35-amd64 new", "/boot/vmlinuz-6.1.0-35-amd64: has changed"),
    "a program": ("elf /usr/sbin/lvm soname=new", "/usr/sbin/lvm: has changed"),
    "a program that is gone": ("remove /usr/sbin/lvm", "/usr/sbin/lvm: has changed"),
    "a module": (
        "module /usr/lib/modules/6.1.0-35-amd64/kernel/fs/ext4/ext4.ko name=new",
        "kernel/fs/ext4/ext4.ko: has changed",
    ),
}


@pytest.mark.parametrize(("tree", "reason"), STALE.values(), ids=STALE.keys())
def test_changed_input_makes_what_is_loaded_stale(tree: str, reason: str, machine: Root, image: str) -> None:
    arm(machine, image)
    trees.make(tree, Path(machine.directory))
    found = status.read(machine, config.Config())
    assert found.exit_code == 3
    assert len(found.stale) == 1
    assert reason in found.stale[0]


def test_image_that_was_built_again_is_stale(machine: Root, image: str) -> None:
    arm(machine, image)
    spine.build(machine, config.load(root="/no/such", overrides=["capture.deadline_s=7"]), output=image)
    reason = f"{image}: was built again since it was loaded; run: kdump-initramfs load"
    assert status.read(machine, config.Config()).stale == (reason,)


def test_image_that_is_gone_is_stale(machine: Root, image: str) -> None:
    arm(machine, image)
    os.unlink(image)
    reason = f"{image}: no such file; run: kdump-initramfs load --rebuild"
    assert status.read(machine, config.Config()).stale == (reason,)


def test_what_is_remembered_is_for_root_alone_and_forgotten_on_request(machine: Root, image: str) -> None:
    arm(machine, image)
    file = Path(machine.directory) / "run/kdump-initramfs/loaded.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    state.forget(machine)
    state.forget(machine)
    assert state.read(machine) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}'])
def test_broken_memory_is_named_with_the_command_that_mends_it(content: str, sysroot: Callable[..., Root]) -> None:
    root = sysroot({"/run/kdump-initramfs/loaded.json": content})
    with pytest.raises(HostError, match=r"^/run/kdump-initramfs/loaded\.json: ") as caught:
        state.read(root)
    assert caught.value.hint == "run: kdump-initramfs load"


# --- files for init systems --------------------------------------------------------------------------------------


@pytest.fixture
def awkward(machine: Root, image: str, tmp_path: Path) -> kexec.Command:
    """Return a command whose kexec writes down its words, and whose command line has all that must be quoted."""
    stub = tmp_path / "a dir" / "kexec"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" >{shlex.quote(str(tmp_path / "argv"))}\n')
    stub.chmod(0o755)
    settings = config.load(root="/no/such", overrides=['kernel.append=[\'x="a $(id) `id` %i b\\\\"\', "it\'s"]'])
    command = kexec.command(machine, settings, image)
    return kexec.Command(words=(str(stub), *command.words[1:]), image=image, record=command.record)


def called(tmp_path: Path) -> list[str]:
    return (tmp_path / "argv").read_text().split("\0")[:-1]


@pytest.mark.parametrize("form", ["local.d", "sh"])
@pytest.mark.parametrize("shell", ["sh", "dash", "busybox sh", "bash"])
def test_script_runs_the_very_command(shell: str, form: str, awkward: kexec.Command, tmp_path: Path) -> None:
    program, *rest = shell.split()
    programs.need(program)
    words = [str(shutil.which(program)), *rest]
    script = tmp_path / "kdump.start"
    script.write_text(emit.FORMS[form](awkward))
    assert subprocess.run([*words, "-n", str(script)], check=False).returncode == 0
    subprocess.run([*words, str(script)], cwd="/", env={"PATH": "/nowhere"}, check=True)
    assert called(tmp_path) == list(awkward.words[1:])


def test_openrc_script_runs_the_very_command_and_takes_it_back(awkward: kexec.Command, tmp_path: Path) -> None:
    script = tmp_path / "kdump"
    script.write_text(emit.openrc(awkward))
    for action, expected in (("start", list(awkward.words[1:])), ("stop", ["-p", "-u", "-a"])):
        text = f"{OPENRC_WORDS}\n. {shlex.quote(str(script))}\n{action}"
        subprocess.run(["/bin/sh", "-eu", "-c", text], cwd="/", env={"PATH": "/nowhere"}, check=True)
        assert called(tmp_path) == expected


def unit_words(unit: str, key: str) -> list[str]:
    """Return the words of a command of a unit, as systemd.service(5) reads them."""
    line = next(line for line in unit.splitlines() if line.startswith(f"{key}="))
    assert not {"%", "$"} & set(line.replace("%%", "").replace("$$", ""))
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line.partition("=")[2])]


def test_unit_runs_the_very_command_and_takes_it_back(awkward: kexec.Command, tmp_path: Path) -> None:
    unit = emit.systemd(awkward)
    assert unit_words(unit, "ExecStart") == list(awkward.words)
    assert unit_words(unit, "ExecStop") == [awkward.words[0], "-p", "-u", "-a"]
    programs.need("systemd-analyze")
    place = tmp_path / "kdump.service"
    place.write_text(unit)
    ended = subprocess.run(["systemd-analyze", "verify", str(place)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
