"""Guests in QEMU: what they say arrives, and they always end, whatever becomes of them or of us."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from kdump_initramfs.errors import RehearsalError
from kdump_initramfs.rehearsal import qemu
from kdump_initramfs.rehearsal.qemu import Bus, Disk, Guest, UserNet
from tests import kernels

INIT = Path(__file__).parent / "vm" / "tiny-init.sh"
APPLETS = ("cat", "mkdir", "mount", "reboot", "sleep")

needs_kvm = pytest.mark.skipif(not qemu.kvm_is_usable("x86_64"), reason="no /dev/kvm: nothing to fall back from")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Guest:
    """A guest that says hello and reboots."""
    roots = kernels.roots()
    # The one that boots fastest.
    release = next((release for release in roots if "cloud" in release), min(roots))
    initrd = tmp_path_factory.mktemp("tiny") / "initrd"
    _make_initrd(initrd)
    return Guest(
        kernel=f"{roots[release]}/boot/vmlinuz-{release}",
        initrd=str(initrd),
        append="console=ttyS0 panic=-1",
        memory_mib=512,
    )


def _make_initrd(initrd: Path) -> None:
    root = initrd.with_name("root")
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    shutil.copy(INIT, root / "init")
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    with initrd.open("wb") as output:
        subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names.encode(), stdout=output, check=True
        )


@pytest.fixture
def name(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A name for the guest by which its process is found; the test must not leave that process behind."""
    name = f"guest-{os.getpid()}-{tmp_path.name}"
    yield name
    assert not _processes(name)


def _processes(name: str) -> list[int]:
    def words(pid: int) -> list[str]:
        try:
            return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            return []

    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if name in words(pid)]


def _wait_until_gone(name: str) -> None:
    deadline = time.monotonic() + 10
    while _processes(name) and time.monotonic() < deadline:
        time.sleep(0.05)


def _fake_qemu(directory: Path, body: str) -> str:
    """Return the path of a program that stands in for QEMU; $real is the true one."""
    script = directory / "fake-qemu"
    script.write_text(f"#!/bin/sh\nreal={shutil.which('qemu-system-x86_64')}\n{body}\n")
    script.chmod(0o755)
    return str(script)


@pytest.mark.guest
def test_lines_arrive_and_a_reboot_ends_the_run(tiny: Guest, tmp_path: Path) -> None:
    lines: list[str] = []
    log = tmp_path / "console"
    outcome = qemu.run(tiny, accel="tcg", timeout_s=120, console_log=str(log), on_line=lines.append)
    assert (outcome.ended, outcome.accel) == ("exited", "tcg")
    assert outcome.wall_s < 120
    assert "tiny: hello" in lines
    assert log.read_text(errors="replace").replace("\r", "").rstrip("\n").split("\n") == lines


@pytest.mark.guest
def test_guest_gets_each_kind_of_disk_and_a_network(tiny: Guest, tmp_path: Path) -> None:
    buses: tuple[Bus, ...] = ("virtio-blk", "virtio-scsi", "nvme", "ahci")
    disks = tuple(Disk(path=str(tmp_path / f"disk,with a comma on {bus}"), bus=bus) for bus in buses)
    for disk in disks:
        Path(disk.path).write_bytes(bytes(1 << 20))
    guest = replace(tiny, append=f"{tiny.append} DO=pci", disks=disks, net=UserNet())
    lines: list[str] = []
    qemu.run(guest, accel="tcg", timeout_s=120, console_log=str(tmp_path / "console"), on_line=lines.append)
    found = {line.removeprefix("tiny: pci ") for line in lines if line.startswith("tiny: pci ")}
    # Transitional network, block, SCSI and entropy devices (virtio 1.0 section 4.1.2), QEMU's NVMe, an ICH9 AHCI.
    virtio = {f"0x1af4:0x{device}" for device in ("1000", "1001", "1004", "1005")}
    assert found >= virtio | {"0x1b36:0x0010", "0x8086:0x2922"}


@pytest.mark.guest
def test_a_guest_that_stays_is_killed_at_the_deadline(tiny: Guest, tmp_path: Path, name: str) -> None:
    guest = replace(tiny, append=f"{tiny.append} DO=stay", extra=("-name", name))
    outcome = qemu.run(guest, accel="tcg", timeout_s=6, console_log=str(tmp_path / "console"))
    assert outcome.ended == "timed out"
    assert 6 <= outcome.wall_s < 9


@pytest.mark.guest
def test_an_interrupt_ends_the_guest(tiny: Guest, tmp_path: Path, name: str) -> None:
    def interrupt(line: str) -> None:
        assert _processes(name)
        raise KeyboardInterrupt

    guest = replace(tiny, append=f"{tiny.append} DO=stay", extra=("-name", name))
    with pytest.raises(KeyboardInterrupt):
        qemu.run(guest, accel="tcg", timeout_s=120, console_log=str(tmp_path / "console"), on_line=interrupt)


@pytest.mark.guest
def test_the_guest_dies_with_a_parent_that_is_killed(tiny: Guest, tmp_path: Path, name: str) -> None:
    guest = replace(tiny, append=f"{tiny.append} DO=stay", extra=("-name", name))
    program = (
        "import msgspec, sys\n"
        "from kdump_initramfs.rehearsal import qemu\n"
        "guest = msgspec.json.decode(sys.argv[1], type=qemu.Guest)\n"
        "qemu.run(guest, accel='tcg', timeout_s=120, console_log=sys.argv[2], on_line=lambda line: print(flush=True))\n"
    )
    words = [sys.executable, "-c", program, msgspec.json.encode(guest).decode(), str(tmp_path / "console")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline()
        assert _processes(name)
        parent.send_signal(signal.SIGKILL)
    _wait_until_gone(name)


@needs_kvm
@pytest.mark.guest
def test_a_guest_that_hangs_in_kvm_starts_again_without(
    tiny: Guest, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    # What is on the console of a kernel that KVM enters and never brings further.
    hang = """case "$*" in *"-accel kvm"*) echo "Probing EDD (edd=off to disable)... ok"; exec sleep 600 ;; esac"""
    guest = replace(tiny, qemu=_fake_qemu(tmp_path, hang + '\nexec "$real" "$@"'), extra=("-name", name))
    lines: list[str] = []
    with caplog.at_level(logging.WARNING):
        outcome = qemu.run(guest, timeout_s=120, console_log=str(tmp_path / "console"), on_line=lines.append)
    assert (outcome.ended, outcome.accel) == ("exited", "tcg")
    assert "tiny: hello" in lines
    assert "KVM: the guest said nothing for 10 s; starting again" in caplog.text


@needs_kvm
@pytest.mark.guest
def test_kvm_that_fails_at_once_is_done_without(tiny: Guest, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fail = """case "$*" in *"-accel kvm"*) echo "failed to initialize kvm" >&2; exit 1 ;; esac"""
    guest = replace(tiny, qemu=_fake_qemu(tmp_path, fail + '\nexec "$real" "$@"'))
    outcome = qemu.run(guest, timeout_s=120, console_log=str(tmp_path / "console"))
    assert (outcome.ended, outcome.accel) == ("exited", "tcg")
    assert "KVM: failed to initialize kvm; starting again" in caplog.text


@pytest.mark.guest
def test_whatever_kvm_does_here_a_guest_comes_through(tiny: Guest, tmp_path: Path) -> None:
    lines: list[str] = []
    outcome = qemu.run(tiny, timeout_s=120, console_log=str(tmp_path / "console"), on_line=lines.append)
    assert outcome.ended == "exited"
    assert "tiny: hello" in lines


NOTHING = Guest(kernel="/nonexistent/vmlinuz", initrd="/nonexistent/initrd", append="")


def test_kvm_alone_is_not_done_without(tmp_path: Path) -> None:
    guest = replace(NOTHING, qemu=_fake_qemu(tmp_path, "echo hello; echo failed to initialize kvm >&2; exit 1"))
    with pytest.raises(RehearsalError, match=r"^QEMU: failed to initialize kvm$"):
        qemu.run(guest, accel="kvm", timeout_s=60, console_log=str(tmp_path / "console"))


def test_missing_qemu_is_named_with_its_package(tmp_path: Path) -> None:
    guest = replace(NOTHING, qemu="qemu-system-nowhere")
    with pytest.raises(RehearsalError, match=r"^qemu-system-nowhere: not found$") as caught:
        qemu.run(guest, accel="tcg", timeout_s=60, console_log=str(tmp_path / "console"))
    assert caught.value.hint == "install qemu-system-x86"


def test_what_qemu_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    guest = replace(NOTHING, extra=("-no-such-option",))
    with pytest.raises(RehearsalError, match=r"^QEMU: .*-no-such-option: invalid option"):
        qemu.run(guest, accel="tcg", timeout_s=60, console_log=str(tmp_path / "console"))


def test_qemu_that_is_killed_is_an_error(tmp_path: Path) -> None:
    guest = replace(NOTHING, qemu=_fake_qemu(tmp_path, "echo Linux; kill -KILL $$"))
    with pytest.raises(RehearsalError, match=r"^QEMU: killed by signal 9$"):
        qemu.run(guest, accel="tcg", timeout_s=60, console_log=str(tmp_path / "console"))


def test_a_console_without_end_is_bounded(tmp_path: Path) -> None:
    guest = replace(NOTHING, qemu=_fake_qemu(tmp_path, "exec head -c 64M /dev/zero"))
    log = tmp_path / "console"
    sizes: list[int] = []
    qemu.run(guest, accel="tcg", timeout_s=60, console_log=str(log), on_line=lambda line: sizes.append(len(line)))
    assert sum(sizes) == 64 << 20
    assert max(sizes) < 1 << 17
    assert log.stat().st_size < 33 << 20
