"""Arming: the capture kernel's command line, the kexec command, what is remembered of it, and what init systems get."""

import errno
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
from msgspec.structs import replace

from kdump_initramfs import build as spine
from kdump_initramfs import config
from kdump_initramfs.errors import ConfigError, HostError, LoadError
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.loader import cmdline, emit, kexec, refusals, state, status, syscall
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
    ("wanted", "lockdown", "secure_boot", "option"),
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
    wanted: str, lockdown: str, secure_boot: bytes, option: str, sysroot: Callable[..., Root]
) -> None:
    root = sysroot({"/sys/kernel/security/lockdown": lockdown, EFI: secure_boot})
    settings = config.load(root=root.directory, overrides=[f"kexec.syscall={wanted}"])
    assert syscall.choose(root, settings).option == option


# What the running kernel has, what it runs on, and what is to be loaded; the option, and what of its reason.
CHOICES = {
    "both system calls": ("CONFIG_KEXEC=y\nCONFIG_KEXEC_FILE=y", "x86_64", "bzImage", "-a", "nothing speaks"),
    "a configuration that tells nothing": ("CONFIG_X=y", "x86_64", "bzImage", "-a", "nothing speaks"),
    "no kexec_file_load": ("CONFIG_KEXEC=y", "x86_64", "bzImage", "-c", "no kexec_file_load"),
    "no kexec_load": ("CONFIG_KEXEC_FILE=y", "x86_64", "bzImage", "-s", "no kexec_load"),
    "enforced signatures": ("CONFIG_KEXEC_SIG_FORCE=y", "x86_64", "bzImage", "-s", "CONFIG_KEXEC_SIG_FORCE"),
    "vmlinux on x86_64": ("", "x86_64", "vmlinux", "-c", "machine_kexec_64.c"),
    "bzImage on i686": ("", "i686", "bzImage", "-c", "needs a 64-bit kernel"),
    "Image on aarch64": ("", "aarch64", "Image", "-a", "nothing speaks"),
    "vmlinux on aarch64": ("", "aarch64", "vmlinux", "-c", "arch/arm64"),
    "vmlinux on ppc64le": ("", "ppc64le", "vmlinux", "-a", "nothing speaks"),
    "an s390x kernel": ("", "s390x", "s390", "-a", "nothing speaks"),
    "vmlinux on s390x": ("", "s390x", "vmlinux", "-s", "arch/s390"),
    "Image on riscv64": ("", "riscv64", "Image", "-a", "nothing speaks"),
    "a format that is not known": ("", "x86_64", "", "-a", "nothing speaks"),
    "a machine that is not known": ("", "sparc64", "vmlinux", "-a", "nothing speaks"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_system_call_is_one_that_kernel_and_format_know(name: str, sysroot: Callable[..., Root]) -> None:
    options, machine, image_format, option, reason = CHOICES[name]
    root = sysroot({"/proc/sys/kernel/osrelease": "6.1\n", "/boot/config-6.1": options})
    choice = syscall.choose(root, config.Config(), machine=machine, image_format=image_format)
    assert choice.option == option
    assert reason in choice.reason


def test_format_that_neither_system_call_knows_is_an_error(sysroot: Callable[..., Root]) -> None:
    with pytest.raises(LoadError, match="zImage cannot be loaded by kexec on ppc64le") as caught:
        syscall.choose(sysroot({}), config.Config(), machine="ppc64le", image_format="zImage")
    assert caught.value.hint == "name one of the format vmlinux in kernel.image"


@pytest.mark.parametrize(
    ("machine", "image_format", "setting", "said", "hint"),
    [
        (
            "x86_64",
            "vmlinux",
            "file",
            r"by kexec_file_load on x86_64 \(kexec.syscall",
            "name one of the format bzImage",
        ),
        ("s390x", "vmlinux", "load", "by kexec_load on s390x", "name one of the format s390 in"),
        ("i686", "bzImage", "file", "by kexec_file_load on i686", "i686 does not have that one"),
        ("x86_64", "vmlinux", "auto", r"by kexec_file_load on x86_64 \(the kernel is locked", "bzImage"),
    ],
)
def test_format_that_the_one_system_call_does_not_know_is_an_error(
    machine: str, image_format: str, setting: str, said: str, hint: str, sysroot: Callable[..., Root]
) -> None:
    root = sysroot({"/sys/kernel/security/lockdown": "none [integrity]" if setting == "auto" else "[none]"})
    settings = config.load(root="/no/such", overrides=[f"kexec.syscall={setting}"])
    with pytest.raises(LoadError, match=said) as caught:
        syscall.choose(root, settings, machine=machine, image_format=image_format)
    assert hint in str(caught.value.hint)


def test_every_machine_with_a_length_of_command_line_has_its_formats_and_a_source() -> None:
    assert set(MAX_BYTES) <= set(syscall.READS)
    assert all(reads.reason and (reads.file or reads.load) for reads in syscall.READS.values())


@pytest.mark.parametrize(
    "place",
    [
        {"/sys/firmware/ipl/secure": "1\n"},
        {"/proc/device-tree/ibm,secureboot/os-secureboot-enforcing": b""},
        {"/proc/device-tree/ibm,secure-boot": b"\0\0\0\2"},
    ],
)
def test_secure_boot_of_other_machines_is_seen(place: dict[str, Any], sysroot: Callable[..., Root]) -> None:
    assert syscall.choose(sysroot(place), config.Config()).option == "-s"


def test_secure_boot_of_power_that_does_not_enforce_is_none(sysroot: Callable[..., Root]) -> None:
    root = sysroot({"/proc/device-tree/ibm,secure-boot": b"\0\0\0\1", "/sys/firmware/ipl/secure": "0\n"})
    assert syscall.choose(root, config.Config()).option == "-a"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("kexec.reset_vga=true", ("--reset-vga", "--console-vga")),
        ("kexec.core_headers=elf32", ("--elf32-core-headers",)),
        ("kexec.core_headers=elf64", ("--elf64-core-headers",)),
    ],
)
def test_what_kexec_tools_does_itself_is_loaded_by_kexec_load(
    setting: str, words: tuple[str, ...], machine: Root, image: str
) -> None:
    settings = config.load(root="/no/such", overrides=[setting])
    command = kexec.command(machine, settings, image).words
    assert command[3] == "-c"
    assert command[6:] == words
    both = config.load(root="/no/such", overrides=[setting, "kexec.syscall=file"])
    with pytest.raises(ConfigError, match=rf"^{setting.partition('=')[0]}: works with kexec_load alone"):
        kexec.command(machine, both, image)
    trees.make("file /sys/kernel/security/lockdown none [integrity]", Path(machine.directory))
    with pytest.raises(LoadError, match=r"works with kexec_load alone, but the kernel is locked down"):
        kexec.command(machine, settings, image)


# --- what a refusal means ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", refusals.ERRNOS)
@pytest.mark.parametrize("call", ["kexec_load failed: ", "kexec_file_load failed: ", "kexec unload failed: "])
def test_every_errno_becomes_a_sentence_with_a_remedy(name: str, call: str) -> None:
    said = ["a warning", call + os.strerror(getattr(errno, name)), "entry       = 0x1 flags = 0x3e0001"]
    assert refusals.errno_of(said) == name
    refusal = refusals.explain(said)
    assert refusal is refusals.ERRNOS[name]
    assert refusal.meaning[0].islower() or refusal.meaning.startswith("/")
    assert not refusal.meaning.endswith(".")
    assert len(refusal.remedy) > 8


def test_permission_under_lockdown_is_one_of_signatures() -> None:
    said = ["kexec_file_load failed: Operation not permitted"]
    assert refusals.explain(said, is_locked_down=True) is refusals.LOCKED_DOWN
    assert refusals.explain(["kexec_file_load failed: No such device"], is_locked_down=True) is refusals.UNKNOWN


# What do_kexec_file_load() of kexec-tools counts as a refused signature, and verify_pefile_signature() returns beside.
SIGNATURE_ERRNOS = {"ELIBBAD", "EKEYREJECTED", "ENOPKG", "ENOKEY", "EBADMSG", "EMSGSIZE", "ENODATA", "EKEYEXPIRED"}


def test_errnos_of_the_manual_page_are_all_there() -> None:
    """ERRORS of kexec_load(2), and those of a signature."""
    manual = {"EADDRNOTAVAIL", "EBADF", "EBUSY", "EINVAL", "ENOEXEC", "ENOMEM", "EPERM"}
    assert manual | SIGNATURE_ERRNOS <= set(refusals.ERRNOS)


def test_other_system_call_is_never_tried_after_a_refused_signature() -> None:
    for name in (*SIGNATURE_ERRNOS, "EPERM", "EACCES"):
        assert not refusals.may_try_other([f"kexec_file_load failed: {os.strerror(getattr(errno, name))}"])
    assert refusals.may_try_other(["kexec_file_load failed: Cannot assign requested address"])
    assert not refusals.may_try_other(["Cannot determine the file type of /boot/x"])
    assert not refusals.may_try_other([])


def test_words_of_kexec_are_those_of_the_real_program() -> None:
    """Those of other architectures, and what getopt says, are not in it."""
    programs.need("kexec")
    program = Path(str(shutil.which("kexec"))).read_bytes()
    elsewhere = {"unrecognized option", "No device tree available"}
    assert {words for words in refusals.WORDS if words.encode() not in program} == elsewhere


def test_words_of_the_real_kexec_are_understood(tmp_path: Path) -> None:
    programs.need("kexec")
    nothing = tmp_path / "kernel"
    nothing.write_text("no kernel")
    ended = subprocess.run(["kexec", "-p", str(nothing)], capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert refusals.explain((ended.stderr or ended.stdout).splitlines()) is not refusals.UNKNOWN


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        (["Cannot determine the file type of /boot/vmlinuz"], "does not know the format"),
        (["Could not find a free area of memory of 0x3000 bytes...", "locate_hole failed"], "do not fit"),
        (["BzImage is not relocatable. Can't be used as capture kernel."], "runs at a fixed address"),
        (["kexec_load failed: Success of a kind that nobody knows"], "not known here"),
        (["kexec_file_load(unload) failed", ": Operation not permitted"], "lets nothing be loaded"),
        ([], "not known here"),
    ],
)
def test_words_without_an_errno_are_explained(said: list[str], meaning: str) -> None:
    assert meaning in refusals.explain(said).meaning


def test_what_is_for_a_load_is_nothing_to_unload(machine: Root) -> None:
    trees.make("file /sys/kernel/security/lockdown none [integrity]", Path(machine.directory))
    assert kexec.unload_words(machine)[1:] == ("-p", "-u", "-s")


# --- loading -----------------------------------------------------------------------------------------------------

LOADED_FILES = ("/sys/kernel/kexec_crash_loaded", "/sys/kernel/kexec/crash_loaded")
KEXEC = """\
#!/bin/sh
echo "$@" >>"$0.calls"
"""


def arrange(machine: Root, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the kexec of a machine a script, armed as it is, and let `load` run it for a tree of files."""
    stub = Path(machine.host("/usr/sbin/kexec"))
    stub.write_text(KEXEC + script.replace("LOADED", machine.host("/sys/kernel/kexec_crash_loaded")))
    stub.chmod(0o755)
    trees.make(f"file {LOADED_FILES[0]} 1", Path(machine.directory))
    monkeypatch.setattr(kexec, "_check_may_load", lambda _: None)
    return stub


def calls(stub: Path) -> list[str]:
    return [line.split(" ")[2] for line in Path(f"{stub}.calls").read_text().splitlines()]


def command_of(machine: Root, image: str, stub: Path, *options: str) -> kexec.Command:
    settings = config.load(root="/no/such", overrides=options)
    command = kexec.command(machine, settings, image)
    return replace(command, words=(str(stub), *command.words[1:]))


FREES = "echo 0 >LOADED\n"


@pytest.mark.parametrize(
    ("script", "expected", "left"),
    [
        ("echo 'Cannot determine the file type of it' >&2; exit 1", "does not know the format", "still is"),
        (
            FREES + "echo 'kexec_file_load failed: Key was rejected by service' >&2; exit 1",
            "not accepted",
            "not armed now",
        ),
        ("echo 'kexec_file_load failed: Operation not permitted' >&2; exit 1", "lets nothing be loaded", "still is"),
        (FREES + "exit 3", "exit status 3", "not armed now"),
    ],
)
def test_failed_load_says_what_is_loaded_afterwards(
    script: str, expected: str, left: str, machine: Root, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = arrange(machine, script, monkeypatch)
    state.write(machine, image=image, described=record.read(image), words=("kexec",))
    with pytest.raises(LoadError, match=expected) as caught:
        kexec.load(machine, command_of(machine, image, stub))
    assert left in str(caught.value)
    assert caught.value.hint
    assert len(calls(stub)) == 1
    assert (state.read(machine) is not None) == (left == "still is")


def test_what_cannot_fit_is_not_tried(machine: Root, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = arrange(machine, "", monkeypatch)
    command = command_of(machine, image, stub)
    size = Path(command.kernel).stat().st_size + Path(image).stat().st_size
    trees.make(f"file /sys/kernel/kexec_crash_size {size - 1}", Path(machine.directory))
    with pytest.raises(LoadError, match=": 1 MiB with its kernel, but 0 MiB are reserved"):
        kexec.load(machine, command)
    trees.make(
        f"file /sys/kernel/kexec_crash_size {size}\nfile /sys/kernel/crash_elfcorehdr_size 1", Path(machine.directory)
    )
    with pytest.raises(LoadError, match="MiB are reserved"):
        kexec.load(machine, command)
    assert not Path(f"{stub}.calls").exists()
    trees.make(f"file /sys/kernel/kexec_crash_size {size + 1}", Path(machine.directory))
    kexec.load(machine, command)


NO_PLACE = 'case "$3" in -a) echo "kexec_file_load failed: Cannot assign requested address" >&2; exit 1 ;; esac\n'


def test_other_system_call_is_tried_where_it_may_do(machine: Root, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = arrange(machine, NO_PLACE, monkeypatch)
    kexec.load(machine, command_of(machine, image, stub))
    assert [line.split(" ")[2] for line in Path(f"{stub}.calls").read_text().splitlines()] == ["-a", "-c"]
    loaded = state.read(machine)
    assert loaded is not None
    assert "-c" in loaded.words


@pytest.mark.parametrize(
    "script",
    [
        'echo "kexec_file_load failed: Key was rejected by service" >&2; exit 1',
        'echo "kexec_file_load failed: Required key not available" >&2; exit 1',
        'echo "kexec_file_load failed: Permission denied" >&2; exit 1',
    ],
)
def test_refused_signature_is_the_end(script: str, machine: Root, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = arrange(machine, script, monkeypatch)
    with pytest.raises(LoadError):
        kexec.load(machine, command_of(machine, image, stub))
    assert calls(stub) == ["-a"]


def test_system_call_that_was_configured_is_the_only_one(
    machine: Root, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = arrange(machine, NO_PLACE.replace("-a)", "-s)"), monkeypatch)
    with pytest.raises(LoadError, match="do not fit into the reserved memory"):
        kexec.load(machine, command_of(machine, image, stub, "kexec.syscall=file"))
    assert calls(stub) == ["-s"]


# --- what is remembered, and what it tells -----------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("files", "followed"),
    [
        ("", ()),
        ("file /sys/devices/system/cpu/crash_hotplug 1\nfile /sys/devices/system/memory/crash_hotplug 0", ("cpu",)),
        (
            "file /sys/devices/system/cpu/crash_hotplug 1\nfile /sys/devices/system/memory/crash_hotplug 1",
            ("cpu", "memory"),
        ),
    ],
)
def test_armed_machine_tells_which_hot_plugging_the_kernel_follows(
    files: str, followed: tuple[str, ...], machine: Root, image: str
) -> None:
    arm(machine, image)
    trees.make(files, Path(machine.directory))
    assert status.read(machine, config.Config()).follows_hotplug == followed


PLUGGED = {
    "memory": ("dir /sys/devices/system/memory/memory1", "memory: 1 blocks were there when it was loaded, 2 are now"),
    "cpu": ("file /sys/devices/system/cpu/present 0-3", "processors: 0-1 were there when it was loaded, 0-3 are now"),
}


@pytest.mark.parametrize("kind", PLUGGED)
@pytest.mark.parametrize("follows", [False, True], ids=["the kernel does not follow", "the kernel follows"])
def test_what_is_plugged_in_later_is_not_in_the_core_header(
    kind: str, *, follows: bool, machine: Root, image: str
) -> None:
    before = "dir /sys/devices/system/memory/memory0\nfile /sys/devices/system/cpu/present 0-1"
    trees.make(before, Path(machine.directory))
    arm(machine, image)
    assert status.read(machine, config.Config()).stale == ()
    change, said = PLUGGED[kind]
    trees.make(f"{change}\nfile /sys/devices/system/{kind}/crash_hotplug {follows:d}", Path(machine.directory))
    expected = () if follows else (f"{said}; run: kdump-initramfs load",)
    assert status.read(machine, config.Config()).stale == expected


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
    return replace(command, words=(str(stub), *command.words[1:]))


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
