"""`check`: every finding in every state it can have, on trees of files; and what fleets rely on."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from kdump_initramfs import build as spine
from kdump_initramfs import config
from kdump_initramfs.check import diagnosis, options, settings, show
from kdump_initramfs.check.finding import Finding, Report, State, attempt, report
from kdump_initramfs.errors import ImageError
from kdump_initramfs.host import kernel_config
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.loader import kexec, proof, state
from tests import command, trees

_MIB = 1 << 20
RELEASE = "6.1.0-35-amd64"
IMAGE = f"/var/lib/kdump-initramfs/initrd-{RELEASE}.img"
SYSCTLS = "".join(f"file /proc/sys/kernel/{setting.name} {setting.advised}\n" for setting in settings.SETTINGS)
CONFIG = "".join(f"| CONFIG_{name}=y\n" for option in options.OPTIONS for name in option.names)

# A machine on which nothing is left to be done.
TREE = f"""
file /boot/config-{RELEASE}
{CONFIG}| CONFIG_RD_GZIP=y
| CONFIG_RD_ZSTD=y
| CONFIG_PHYSICAL_START=0x1000000
| CONFIG_RANDOMIZE_BASE=y
| CONFIG_KEXEC_SIG=y
{SYSCTLS}file /proc/sys/kernel/nmi_watchdog 1
file /proc/sys/kernel/kexec_load_disabled 0
file /sys/module/kernel/parameters/crash_kexec_post_notifiers N
file /sys/kernel/kexec_crash_loaded 1
file /proc/meminfo
| MemTotal:        4096000 kB
| MemFree:         3900000 kB
| Cached:            50000 kB
| AnonPages:         50000 kB
file /etc/default/grub GRUB_CMDLINE_LINUX="quiet"
file /usr/sbin/update-grub
file /etc/local.d/kdump.start #!/bin/sh
file /etc/os-release ID=debian
file /usr/lib/debug/boot/vmlinux-{RELEASE}
"""


@pytest.fixture
def machine(host_root: Callable[[str], Root]) -> Root:
    """Return a machine that is armed with a proven image."""
    root = host_root("debian-lvm-ext4")
    base = Path(root.directory)
    trees.make(TREE, base)
    kernel = base / f"boot/vmlinuz-{RELEASE}"
    head = bytearray(kernel.read_bytes())
    struct.pack_into("<I", head, 0x260, 64 * _MIB)
    kernel.write_bytes(bytes(head))
    with open(base / "usr/bin/makedumpfile", "ab") as stream:
        stream.write(b"\0makedumpfile: version 1.7.9 (released on 1 Jan 2026)\n\0")
    described = spine.build(root, config.Config())
    image = root.host(IMAGE)
    state.write(root, image=image, described=described, words=kexec.command(root, config.Config(), image).words)
    proof.write(image, proof_of(described.image_sha256, passed=True, crashkernel="256M"))
    return root


def proof_of(image_sha256: str, *, passed: bool, crashkernel: str) -> proof.Proof:
    return proof.Proof(image_sha256=image_sha256, passed=passed, at=proof.now(), crashkernel=crashkernel)


def check(root: Root, *overrides: str) -> Report:
    return diagnosis.read(root, config.load(root=root.directory, overrides=overrides), root.host(IMAGE))


def finding(found: Report, name: str) -> Finding:
    return next(each for each in found.findings if each.name == name)


# --- the whole ---------------------------------------------------------------------------------------------------


def test_machine_without_fault_is_fine(machine: Root) -> None:
    found = check(machine)
    assert [each for each in found.findings if each.state is not State.OK] == []
    assert (found.state, found.exit_code) == (State.OK, 0)


def test_every_finding_says_why_and_every_fault_what_to_do(machine: Root) -> None:
    trees.make(
        "remove /proc/sys\nremove /usr/sbin/kexec\nfile /sys/kernel/kexec_crash_loaded 0", Path(machine.directory)
    )
    trees.make(f"file /boot/config-{RELEASE}\nfile /proc/sys/kernel/osrelease {RELEASE}", Path(machine.directory))
    found = check(machine)
    assert len({each.name for each in found.findings}) == len(found.findings)
    for each in found.findings:
        assert each.why
        assert each.seen
        assert each.remedy or each.state not in (State.WEAK, State.BROKEN), each


# A change, then a finding, its state, and what is said: of what was seen, and as remedy.
CHANGES: dict[str, tuple[str, str, State, str, str]] = {
    "an option that is needed": (
        "file /boot/config-{release} CONFIG_KEXEC=y",
        "CONFIG_CRASH_DUMP",
        State.BROKEN,
        "not set in /boot/config",
        "CONFIG_CRASH_DUMP=y",
    ),
    "an option that is of use": (
        "file /boot/config-{release} CONFIG_KEXEC=y",
        "CONFIG_MAGIC_SYSRQ",
        State.WEAK,
        "not set",
        "CONFIG_MAGIC_SYSRQ=y",
    ),
    "KEXEC_FILE is enough": (
        "file /boot/config-{release} CONFIG_KEXEC_FILE=y",
        "CONFIG_KEXEC",
        State.OK,
        "CONFIG_KEXEC_FILE=y",
        "",
    ),
    "a kernel that cannot unpack the image": (
        "file /boot/config-{release} CONFIG_KEXEC=y",
        "CONFIG_RD_ZSTD",
        State.BROKEN,
        "not set",
        "CONFIG_RD_ZSTD=y",
    ),
    "no configuration": (
        "remove /boot/config-{release}",
        "kernel configuration",
        State.UNKNOWN,
        "none",
        "copy it to /boot/config-",
    ),
    "a configuration beside the modules": (
        "remove /boot/config-{release}\nfile /lib/modules/{release}/build/.config CONFIG_KEXEC=y",
        "CONFIG_SYSFS",
        State.BROKEN,
        "/build/.config",
        "CONFIG_SYSFS=y",
    ),
    "a kernel that starts low": (
        "file /boot/config-{release} CONFIG_PHYSICAL_START=0x200000",
        "CONFIG_PHYSICAL_START",
        State.WEAK,
        "0x200000",
        "0x1000000",
    ),
    "no crashkernel=": (
        "file /proc/cmdline quiet\nfile /sys/kernel/kexec_crash_size 0",
        "crashkernel= on the command line",
        State.BROKEN,
        "not there",
        'make the line: GRUB_CMDLINE_LINUX="quiet crashkernel=',
    ),
    "crashkernel= that waits for a reboot": (
        (
            "file /proc/cmdline quiet\nfile /sys/kernel/kexec_crash_size 0\n"
            'file /etc/default/grub GRUB_CMDLINE_LINUX="crashkernel=1G"'
        ),
        "crashkernel= on the command line",
        State.BROKEN,
        "in /etc/default/grub for the next boot",
        "run: update-grub; then reboot",
    ),
    "a platform that reserves unasked": (
        "file /proc/cmdline quiet",
        "crashkernel= on the command line",
        State.OK,
        "not there",
        "",
    ),
    "a reservation that failed": (
        "file /sys/kernel/kexec_crash_size 0",
        "reserved memory",
        State.BROKEN,
        "crashkernel=256M asks for it",
        "a size alone",
    ),
    "nothing reserved": (
        "file /proc/cmdline quiet\nfile /sys/kernel/kexec_crash_size 0",
        "reserved memory",
        State.BROKEN,
        "0 MiB",
        "reboot",
    ),
    "the new place in sysfs": (
        "remove /sys/kernel/kexec_crash_size\nfile /sys/kernel/kexec/crash_size 268435456",
        "reserved memory",
        State.OK,
        "256 MiB",
        "",
    ),
    "a reservation that is a little small": (
        "file /sys/kernel/kexec_crash_size 104857600",
        "size of the reservation",
        State.WEAK,
        "100 MiB",
        "crashkernel=",
    ),
    "a reservation that is too small": (
        "file /sys/kernel/kexec_crash_size 67108864",
        "size of the reservation",
        State.BROKEN,
        "64 MiB",
        "crashkernel=",
    ),
    "no kexec": ("remove /usr/sbin/kexec", "kexec", State.BROKEN, "no such program", "kexec-tools"),
    "not loaded": ("file /sys/kernel/kexec_crash_loaded 0", "armed", State.BROKEN, "no", "kdump-initramfs load"),
    "not built": (
        "file /sys/kernel/kexec_crash_loaded 0\nremove /var/lib/kdump-initramfs",
        "armed",
        State.BROKEN,
        "no",
        "kdump-initramfs build && kdump-initramfs load",
    ),
    "no image": ("remove /var/lib/kdump-initramfs", "image", State.BROKEN, "no such file", "kdump-initramfs build"),
    "loaded by another tool": ("remove /run", "what is loaded", State.WEAK, "not loaded by", "kdump-initramfs build"),
    "what is loaded is old": (
        "elf /usr/sbin/lvm soname=new",
        "what is loaded",
        State.WEAK,
        "/usr/sbin/lvm: has changed",
        "kdump-initramfs build && kdump-initramfs load",
    ),
    "not armed at boot": (
        "remove /etc/local.d",
        "armed at boot",
        State.WEAK,
        "nothing loads it then",
        "kdump-initramfs enable",
    ),
    "no kernel": (
        "remove /boot/vmlinuz-{release}",
        "kernel",
        State.BROKEN,
        "no bootable image",
        "mount /boot",
    ),
    "never rehearsed": (
        f"remove {IMAGE}.proof.json",
        "rehearsal",
        State.UNKNOWN,
        "none",
        "kdump-initramfs rehearse",
    ),
    "/boot that is not mounted at boot": (
        "file /etc/fstab LABEL=boot /boot ext4 noauto 0 2",
        "place of the kernel",
        State.WEAK,
        "noauto",
        "/etc/fstab",
    ),
    "/boot that is mounted when it is looked at": (
        "file /etc/fstab LABEL=boot /boot ext4 noauto,x-systemd.automount 0 2",
        "place of the kernel",
        State.OK,
        "/boot/vmlinuz",
        "",
    ),
    "lockdown": (
        "file /sys/kernel/security/lockdown none [integrity] confidentiality",
        "Secure Boot and lockdown",
        State.OK,
        "[integrity]",
        "",
    ),
    "lockdown for confidentiality": (
        "file /sys/kernel/security/lockdown none integrity [confidentiality]",
        "Secure Boot and lockdown",
        State.WEAK,
        "[confidentiality]",
        "lockdown=integrity",
    ),
    "lockdown without signatures": (
        (
            "file /sys/kernel/security/lockdown none [integrity] confidentiality\n"
            "file /boot/config-{release} CONFIG_KEXEC_FILE=y"
        ),
        "Secure Boot and lockdown",
        State.BROKEN,
        "without CONFIG_KEXEC_SIG",
        "CONFIG_KEXEC_SIG=y",
    ),
    "no makedumpfile": (
        "remove /usr/bin/makedumpfile",
        "makedumpfile",
        State.WEAK,
        "no such program",
        "install makedumpfile",
    ),
    "no directory": ("remove /var/crash", "target", State.BROKEN, "no such directory", "mkdir -m 0700 -p /var/crash"),
    "a driver that this kernel lacks": (
        "modules /usr/lib/modules/{release}\n| kernel/fs/ext4/ext4.ko:",
        "drivers of /var/crash",
        State.BROKEN,
        "no virtio_blk",
        "modules",
    ),
    "a mount that is read-only": (
        (
            "file /proc/self/mountinfo\n| 28 1 254:1 / / rw - ext4 /dev/vda1 rw\n"
            "| 96 28 253:1 / /var/crash ro,relatime - ext4 /dev/mapper/x rw\n"
        ),
        "mount of /var/crash",
        State.WEAK,
        "read-only",
        "read-write",
    ),
    "a dump that is larger than its target": (
        "file /proc/meminfo MemTotal: 999000000000 kB",
        "room on /var/crash",
        State.WEAK,
        "MiB may be used",
        "larger target",
    ),
    "dumps that will fill the target": (
        "file /proc/meminfo MemTotal: 999000000000 kB",
        "retention",
        State.WEAK,
        "less than three dumps",
        "retention.keep",
    ),
    "no debug info of the distribution": (
        "remove /usr/lib/debug",
        "debug info",
        State.OK,
        "the distribution has it",
        "apt install linux-image-{release}-dbg",
    ),
    "no debug info of a kernel of one's own": (
        "remove /usr/lib/debug\nfile /etc/os-release ID=gentoo",
        "debug info",
        State.WEAK,
        "no vmlinux",
        "cp /usr/src/linux/vmlinux",
    ),
    "notifiers first": (
        "file /sys/module/kernel/parameters/crash_kexec_post_notifiers Y",
        "crash_kexec_post_notifiers",
        State.WEAK,
        "Y",
        "command line",
    ),
    "loading disabled too early": (
        "file /proc/sys/kernel/kexec_load_disabled 1\nfile /sys/kernel/kexec_crash_loaded 0",
        "kernel.kexec_load_disabled",
        State.BROKEN,
        "1",
        "/etc/sysctl.d",
    ),
    "loading disabled afterwards": (
        "file /proc/sys/kernel/kexec_load_disabled 1",
        "kernel.kexec_load_disabled",
        State.OK,
        "after a capture kernel was loaded",
        "",
    ),
    "loads used up": (
        "file /proc/sys/kernel/kexec_load_limit_panic 0\nfile /sys/kernel/kexec_crash_loaded 0",
        "kernel.kexec_load_limit_panic",
        State.BROKEN,
        "0",
        "/etc/sysctl.d",
    ),
    "loads without limit": (
        "file /proc/sys/kernel/kexec_load_limit_panic -1",
        "kernel.kexec_load_limit_panic",
        State.OK,
        "-1",
        "",
    ),
    "no NMI watchdog": (
        "file /proc/sys/kernel/nmi_watchdog 0",
        "kernel.nmi_watchdog",
        State.WEAK,
        "0",
        "kernel.nmi_watchdog = 1",
    ),
    "no NMI watchdog in a virtual machine": (
        "file /proc/sys/kernel/nmi_watchdog 0\nfile /proc/cpuinfo flags\t\t: fpu hypervisor",
        "kernel.nmi_watchdog",
        State.UNKNOWN,
        "virtual machine",
        "virsh inject-nmi",
    ),
    "not running": ("remove /proc/sys/kernel", "sysctls", State.UNKNOWN, "none", ""),
}


@pytest.mark.parametrize(("tree", "name", "expected", "seen", "remedy"), CHANGES.values(), ids=CHANGES.keys())
def test_what_changes_is_found(tree: str, name: str, expected: State, seen: str, remedy: str, machine: Root) -> None:
    base = Path(machine.directory)
    trees.make(tree.format(release=RELEASE), base)
    if "remove /proc/sys" in tree:
        # The release is what nothing can be said without.
        trees.make("remove /sys/module/kernel", base)
        words = [f"kernel.version={RELEASE}"]
    else:
        words = []
    found = finding(check(machine, *words), name)
    assert found.state is expected, found
    assert seen.format(release=RELEASE) in found.seen
    assert remedy.format(release=RELEASE) in found.remedy
    assert bool(found.remedy) or not remedy


@pytest.mark.parametrize("setting", settings.SETTINGS, ids=lambda each: str(each.name))
def test_each_sysctl_that_keeps_a_hang_from_being_a_panic_is_weak(setting: settings.Setting) -> None:
    values = {each.name: str(each.advised) for each in settings.SETTINGS}
    wrong = "1" if setting.advised == 0 else "0"
    for value, expected in ((values[setting.name], State.OK), (wrong, State.WEAK)):
        found = settings.findings({**values, setting.name: value}, is_virtual=False, is_armed=True)
        one = next(each for each in found if each.name == f"kernel.{setting.name}")
        assert one.state is expected
        assert (f"kernel.{setting.name} = {setting.advised}" in one.remedy) is (expected is State.WEAK)
    rest = {name: value for name, value in values.items() if name != setting.name}
    without = settings.findings(rest, is_virtual=False, is_armed=True)
    assert next(each for each in without if each.name == f"kernel.{setting.name}").state is State.UNKNOWN


@pytest.mark.parametrize(("value", "good"), [("1", True), ("438", False), ("176", False), ("8", True), ("504", True)])
def test_sysrq_is_a_mask(value: str, *, good: bool) -> None:
    found = settings.findings({"sysrq": value}, is_virtual=False, is_armed=True)
    assert (next(each for each in found if each.name == "kernel.sysrq").state is State.OK) is good


def test_failed_rehearsal_is_broken(machine: Root) -> None:
    image = machine.host(IMAGE)
    loaded = state.read(machine)
    assert loaded is not None
    proof.write(image, proof_of(loaded.image_sha256, passed=False, crashkernel="192M"))
    found = finding(check(machine), "rehearsal")
    assert found.state is State.BROKEN
    assert "failed in a guest 0 days ago, with crashkernel=192M" in found.seen


@pytest.mark.parametrize(("word", "expected"), [("load", State.BROKEN), ("auto", State.OK), ("file", State.OK)])
def test_syscall_that_lockdown_refuses_is_broken(word: str, expected: State, machine: Root) -> None:
    trees.make("file /sys/kernel/security/lockdown none [integrity] confidentiality", Path(machine.directory))
    assert finding(check(machine, f"kexec.syscall={word}"), "Secure Boot and lockdown").state is expected


@pytest.mark.parametrize("option", options.OPTIONS, ids=lambda each: "_or_".join(each.names))
def test_each_option_that_is_missing_is_found(option: options.Option) -> None:
    machine = option.machines[0] if option.machines else "s390x"
    known = {name: "y" for each in options.OPTIONS for name in each.names if name not in option.names}
    found = options.findings(kernel_config.KernelConfig(path="/c", options=known), machine, RELEASE, None)
    one = next(each for each in found if each.name == f"CONFIG_{option.names[0]}" and each.why == option.why)
    assert one.state is option.missing


def test_volume_key_needs_a_kernel_that_hands_it_over(machine: Root) -> None:
    image = record.read(machine.host(IMAGE))
    with_key = replace(image, manifest=replace(image.manifest, volume_keys=("kdump:x",)))
    for known, expected in (({}, State.BROKEN), ({"CRASH_DM_CRYPT": "y"}, State.OK)):
        config_of = kernel_config.KernelConfig(path="/c", options=known)
        found = options.findings(config_of, "x86_64", RELEASE, with_key)
        assert next(each for each in found if each.name == "CONFIG_CRASH_DM_CRYPT").state is expected


def test_what_may_not_be_read_is_unknown() -> None:
    def read() -> None:
        raise ImageError("/i: Permission denied", hint="run as root") from PermissionError(13, "Permission denied")

    value, (found,) = attempt("image", "why", read)
    assert (value, found.state, found.remedy) == (None, State.UNKNOWN, "run as root")


# --- what fleets rely on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "worst", "code"),
    [
        ([], State.OK, 0),
        ([State.OK, State.UNKNOWN], State.OK, 0),
        ([State.OK, State.WEAK, State.UNKNOWN], State.WEAK, 3),
        ([State.WEAK, State.BROKEN, State.OK], State.BROKEN, 4),
    ],
)
def test_exit_status_is_that_of_the_worst(states: list[State], worst: State, code: int) -> None:
    found = report("h", "r", [Finding(name=str(n), state=each, seen="s", why="w") for n, each in enumerate(states)])
    assert (found.state, found.exit_code) == (worst, code)


def test_json_is_stable(machine: Root) -> None:
    result = command.run("check", "--root", machine.directory, "--json")
    assert result.returncode == 0
    found = json.loads(result.stdout)
    assert set(found) == {"schema", "hostname", "kernel_release", "state", "findings"}
    assert (found["schema"], found["hostname"], found["kernel_release"], found["state"]) == (
        1,
        "crashbox",
        RELEASE,
        "ok",
    )
    assert all(set(each) == {"name", "state", "seen", "why", "remedy"} for each in found["findings"])


def test_what_is_printed_names_state_reason_and_remedy(machine: Root) -> None:
    trees.make("remove /usr/sbin/kexec\nfile /proc/sys/kernel/panic 0", Path(machine.directory))
    result = command.run("check", "--root", machine.directory)
    assert result.returncode == 4
    assert "BROKEN   kexec: no such program\n         why: " in result.stdout
    assert "         remedy: install the package kexec-tools\n" in result.stdout
    assert re.search(r"^weak     kernel.panic: 0$", result.stdout, re.MULTILINE)
    assert result.stdout.splitlines()[-1].startswith(f"crashbox, kernel {RELEASE}: not armed, or would not work (")


def test_machine_that_cannot_be_checked_is_an_error(sysroot: Callable[..., Root]) -> None:
    problem, _ = command.complaint(command.run("check", "--root", sysroot({"/etc/hostname": "x"}).directory))
    assert "no running kernel" in problem


def test_everything_has_its_reason_with_v(machine: Root) -> None:
    found = check(machine)
    assert "why" not in "\n".join(show.lines(found))
    assert sum("why: " in line for line in show.lines(found, everything=True)) == len(found.findings)
