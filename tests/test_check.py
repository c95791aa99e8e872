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
from tests.check_cases import CHANGES, IMAGE, RELEASE, TREE

_MIB = 1 << 20


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
