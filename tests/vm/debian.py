"""Runs a script in a Debian 12 guest over as many boots as it takes; tests/vm/debian-root makes the guest's disk.

The script gets BOOT (1, 2, ...) and REPORT, a directory whose files come back here when it ends. It and the files
beside it go in, and the report comes out, as bare tar archives on disks of their own: that needs no more of a guest
than a block driver, and works whatever has become of its file systems.
"""

import io
import os
import re
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import replace

from kdump_initramfs.rehearsal.console import OnLine
from kdump_initramfs.rehearsal.qemu import MACHINES, Bus, Disk, Guest, run
from tests import kernels

MACHINE = "x86_64"
DATA_DISK_BYTES = 1 << 30
MEMORY_MIB = 640
_REPORT_DISK_BYTES = 256 << 20
_TAIL_LINES = 60
# More than any script takes.
_MAX_BOOTS = 8
# Nothing of Debian needs AVX, and under software emulation its code is slower than what is there besides: 31 s instead
# of 34 for a guest that builds and loads.
_CPU = ("-cpu", "max,-erms,-avx,-avx2")

# What starts the script: systemd as on any Debian, or guest-init of tests/vm/rootfs, which runs udev and little else.
# The script begins after 8 s instead of 40 (slow machine, software emulation); storage knows no difference.
Init = Literal["systemd", "quick"]
_INITRD: Mapping[Init, str] = {"systemd": "initrd.img-{}", "quick": "quick-{}.img"}


class LostGuestError(Exception):
    """The guest brought no report: no verdict of the script, but a broken guest or a crash that it did not survive."""


class Hardware(Struct, frozen=True, kw_only=True):
    """What a guest has beside the disk of its system, and how it starts."""

    # Blank disks: serial number -> bus. One on virtio-blk is /dev/disk/by-id/virtio-SERIAL.
    disks: Mapping[str, Bus] = field(default_factory=lambda: {"data": "virtio-blk"})
    cpus: int = 1
    memory_mib: int = MEMORY_MIB
    # Further words for QEMU, and those of what comes and goes: asked for at each boot.
    extra: tuple[str, ...] = ()
    plugged: Callable[[], tuple[str, ...]] = tuple
    accel: Literal["auto", "tcg"] = "auto"
    # Gets each line of the console as it arrives.
    on_line: OnLine | None = None
    init: Init = "quick"
    # Whether the kernel is unpacked before: a firmware could not check it, and it has no KASLR.
    has_unpacked_kernel: bool = True


class Report(Struct, frozen=True, kw_only=True):
    # Exit status of the script, in the boot in which it ended.
    status: int
    # What it left in $REPORT: by name, and all of it as a tar archive.
    files: Mapping[str, bytes]
    disk: str
    # All that the guest said, over all boots.
    console: str
    wall_s: float


def releases() -> list[str]:
    """Return the kernels of the guest; none if tests/run has not made one."""
    boot = os.environ.get("KDUMP_TEST_DEBIAN")
    return (
        sorted(name.removeprefix("vmlinuz-") for name in os.listdir(f"{boot}/boot") if "vmlinuz-" in name)
        if boot
        else []
    )


def kernel_config(release: str) -> list[str]:
    """Return the lines of the configuration of a kernel of the guest."""
    return Path(os.environ["KDUMP_TEST_DEBIAN"], f"boot/config-{release}").read_text().splitlines()


def run_script(
    release: str,
    script: Path,
    directory: Path,
    *,
    files: Mapping[str, str] | None = None,
    hardware: Hardware | None = None,
    append: str = "",
    timeout_s: float = 600,
) -> Report:
    """Boot that kernel, on a machine with blank disks, until the script ends."""
    hardware = hardware or Hardware()
    _write_payload(directory / "payload", {"script": script.read_text(), **(files or {})})
    _make_blank(directory / "report", _REPORT_DISK_BYTES)
    for serial in hardware.disks:
        _make_blank(directory / serial, DATA_DISK_BYTES)
    _make_overlay(f"{os.environ['KDUMP_TEST_DEBIAN']}/root.img", directory / "root")
    guest = _guest(release, directory, hardware, append)
    begin = time.monotonic()
    said = ""
    accel: Literal["auto", "kvm", "tcg"] = hardware.accel
    for boot in range(1, _MAX_BOOTS + 1):
        console = directory / f"console-{boot}"
        outcome = run(
            replace(guest, extra=(*guest.extra, *hardware.plugged())),
            accel=accel,
            timeout_s=begin + timeout_s - time.monotonic(),
            console_log=str(console),
            on_line=hardware.on_line,
        )
        accel = outcome.accel
        said += console.read_text(errors="replace")
        if "status" in (came_back := _read_report(directory / "report")):
            wall_s = time.monotonic() - begin
            disk = str(directory / "report")
            return Report(status=int(came_back.pop("status")), files=came_back, disk=disk, console=said, wall_s=wall_s)
        if outcome.ended == "timed out" or "reboot: Power down" in said:
            break
    tail = "\n".join(_plain(said).splitlines()[-_TAIL_LINES:])
    raise LostGuestError(f"no report from the guest after {time.monotonic() - begin:.0f} s; it said last:\n{tail}")


def _guest(release: str, directory: Path, hardware: Hardware, append: str) -> Guest:
    """Return a guest that ends where it would boot again.

    The next boot is another process, as if the power had been off: QEMU's software emulation keeps what it has made of
    the code of the kernels before, in whose memory the next is twice as slow.
    """
    root = os.environ["KDUMP_TEST_DEBIAN"]
    kernel = f"{root}/boot/vmlinuz-{release}"
    if hardware.has_unpacked_kernel:
        kernel = kernels.unpacked(kernel, f"{root}/unpacked")
    overlay = ("-drive", f"id=root,if=none,file={directory / 'root'},format=qcow2,cache=unsafe")
    return Guest(
        machine=MACHINE,
        kernel=kernel,
        initrd=f"{root}/boot/{_INITRD[hardware.init].format(release)}",
        append=_command_line(append),
        memory_mib=hardware.memory_mib,
        cpus=hardware.cpus,
        disks=(
            Disk(path=str(directory / "payload"), serial="payload", readonly=True),
            Disk(path=str(directory / "report"), serial="report"),
            *(Disk(path=str(directory / serial), serial=serial, bus=bus) for serial, bus in hardware.disks.items()),
        ),
        extra=(*_CPU, *overlay, "-device", "virtio-blk-pci,drive=root,serial=root", *hardware.extra),
    )


def _command_line(append: str) -> str:
    # systemd's running lights make half of the console; nobody runs guests in this guest, and kvm takes 4 s to load.
    quiet = f"{kernels.FRUGAL} systemd.show_status=no modprobe.blacklist=kvm,kvm_amd,kvm_intel"
    return f"root=/dev/disk/by-id/virtio-root rw console={MACHINES[MACHINE].console} {quiet} {append}"


def _write_payload(path: Path, files: Mapping[str, str]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content.encode())
            archive.addfile(info, io.BytesIO(content.encode()))


def _make_blank(path: Path, size: int) -> None:
    with path.open("wb") as disk:
        disk.truncate(size)


def _make_overlay(image: str, path: Path) -> None:
    """Make a disk that has the content of a raw image and keeps what the guest writes over all boots."""
    backing = ("-b", image, "-F", "raw")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, path], check=True)


def _read_report(path: Path) -> dict[str, bytes]:
    # Not a look for a compressed one: a blank disk would be read through to its end, 33 s of it.
    with tarfile.open(path, "r:") as archive:
        members = [member for member in archive if os.path.dirname(member.name) == "."]
        files = [(member.name.removeprefix("./"), archive.extractfile(member)) for member in members]
        return {name: file.read() for name, file in files if file}


def _plain(text: str) -> str:
    """Return the text without the terminal's control sequences (ECMA-48)."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")
