"""Runs one guest in QEMU: kernel and initramfs given directly, console on a serial line, an end that always comes.

Software emulation (TCG) is the ground on which everything works; KVM only makes it faster. The options are those of
qemu(1), present since QEMU 5.0.
"""

import logging
import math
import os
import platform
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Literal, cast

from msgspec import Struct

from kdump_initramfs.errors import RehearsalError
from kdump_initramfs.rehearsal.console import Console, OnLine

logger = logging.getLogger(__name__)

Accel = Literal["kvm", "tcg"]
Bus = Literal["virtio-blk", "virtio-scsi", "nvme", "ahci", "usb-storage"]

# A kernel speaks within a second under KVM. Nested KVM of some hosts opens and yet runs no guest: QEMU aborts, or stays
# with nothing on the console but the few lines of the real-mode setup code (arch/x86/boot).
KVM_SILENCE_S = 10.0
_SPEECH_BYTES = 256
# From the end of the console to the end of the process; QEMU then has only to unmap the guest.
_EXIT_S = 10.0


class Machine(Struct, frozen=True, kw_only=True):
    """How QEMU plays one architecture."""

    # Program, and the Debian package that holds it.
    qemu: str
    package: str
    # -machine
    type: str
    # -cpu; `max` is all that KVM or TCG can offer.
    cpu: Mapping[Accel, str]
    # What the kernel calls the first serial line, for console=.
    console: str


MACHINES = {
    "x86_64": Machine(
        qemu="qemu-system-x86_64",
        package="qemu-system-x86",
        type="q35,sata=off,smbus=off",
        # Where a processor has ERMS, kernel and libc copy and clear by `rep movsb` and `rep stosb`, which TCG executes
        # byte by byte: without it a guest moves memory at four times the speed.
        cpu={"kvm": "max", "tcg": "max,-erms"},
        console="ttyS0",
    ),
}


class Disk(Struct, frozen=True, kw_only=True):
    # A raw image.
    path: str
    bus: Bus = "virtio-blk"
    # What the guest sees below /dev/disk/by-id; virtio-blk cuts it at 20 bytes.
    serial: str = ""
    readonly: bool = False


class UserNet(Struct, frozen=True, kw_only=True):
    """QEMU's own network (10.0.2.0/24, host at .2), which needs no privilege."""

    # TCP ports: (on 127.0.0.1 of this machine, in the guest).
    forwards: tuple[tuple[int, int], ...] = ()


class Guest(Struct, frozen=True, kw_only=True):
    """All that QEMU must know about one guest."""

    # A key of MACHINES.
    machine: str = "x86_64"
    kernel: str
    initrd: str
    # The kernel's command line, console= included.
    append: str
    memory_mib: int = 1024
    cpus: int = 1
    disks: tuple[Disk, ...] = ()
    net: UserNet | None = None
    # Further words for QEMU.
    extra: tuple[str, ...] = ()
    # The QEMU program; "" for the usual one of this machine.
    qemu: str = ""


class Outcome(Struct, frozen=True, kw_only=True):
    # Powered off or rebooted, or killed at the deadline.
    ended: Literal["exited", "timed out"]
    accel: Accel
    # Duration of the attempt that counts; one that KVM left hanging is not in it.
    wall_s: float


class _SilentError(Exception):
    """KVM did not bring this guest to its first message."""


def run(
    guest: Guest,
    *,
    accel: Literal["auto", "kvm", "tcg"] = "auto",
    timeout_s: float,
    console_log: str,
    on_line: OnLine | None = None,
) -> Outcome:
    """Run the guest until it ends, at most `timeout_s`, with its console in `console_log`; an exception ends it too.

    `on_line` gets each line as it arrives and may raise to stop the guest. With "auto", KVM is used where it can be
    opened and TCG where it cannot or where KVM leaves the console empty.
    """
    if accel == "auto" and kvm_is_usable(guest.machine):
        try:
            return _attempt(guest, "kvm", timeout_s, console_log, on_line, silence_s=KVM_SILENCE_S)
        except _SilentError as silence:
            logger.warning("KVM: %s; starting again under software emulation", silence)
    chosen: Accel = "kvm" if accel == "kvm" else "tcg"
    logger.debug("running the guest under %s", chosen)
    return _attempt(guest, chosen, timeout_s, console_log, on_line)


def kvm_is_usable(machine: str) -> bool:
    """Whether this user may run guests of that architecture by KVM, as far as that shows without running one."""
    if machine != platform.machine():
        return False
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        logger.debug("no KVM: %s", error)
        return False
    return True


# --- the command -------------------------------------------------------------------------------------------------


def command(guest: Guest, accel: Accel) -> list[str]:
    """Return QEMU's words for this guest."""
    machine = MACHINES[guest.machine]
    return [
        _program(guest, machine),
        *("-machine", machine.type),
        *("-accel", "tcg,thread=multi" if accel == "tcg" else "kvm"),
        *("-cpu", machine.cpu[accel]),
        *("-smp", str(guest.cpus)),
        *("-m", f"{guest.memory_mib}M"),
        *("-nodefaults", "-no-user-config"),
        *("-display", "none"),
        *("-monitor", "none"),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        # Without a source of entropy a guest under TCG may wait for minutes at its first key.
        *("-device", "virtio-rng-pci"),
        *("-kernel", guest.kernel, "-initrd", guest.initrd, "-append", guest.append),
        *(word for number, disk in enumerate(guest.disks) for word in _disk(number, disk)),
        *_net(guest.net),
        "-no-reboot",
        *guest.extra,
    ]


def _program(guest: Guest, machine: Machine) -> str:
    name = guest.qemu or machine.qemu
    path = shutil.which(name)
    if path is None:
        raise RehearsalError(f"{name}: not found", hint=f"install {machine.package}")
    return path


def _disk(number: int, disk: Disk) -> Iterator[str]:
    """Yield the words for one disk; it sits on a controller of its own, so that the order on the bus is ours."""
    name = f"disk{number}"
    path = disk.path.replace(",", ",,")
    flags = ",readonly=on" * disk.readonly
    # cache=unsafe: a guest that crashes leaves what it wrote in the host's page cache, and the host does not crash.
    yield from ("-drive", f"id={name},if=none,file={path},format=raw,cache=unsafe{flags}")
    serial = f",serial={disk.serial}" if disk.serial else ""
    match disk.bus:
        case "virtio-blk":
            yield from ("-device", f"virtio-blk-pci,drive={name}{serial}")
        case "virtio-scsi":
            yield from ("-device", f"virtio-scsi-pci,id={name}-bus")
            yield from ("-device", f"scsi-hd,bus={name}-bus.0,drive={name}{serial}")
        case "nvme":
            # This device refuses to be without a serial number.
            yield from ("-device", f"nvme,drive={name},serial={disk.serial or name}")
        case "ahci":
            yield from ("-device", f"ahci,id={name}-bus")
            yield from ("-device", f"ide-hd,bus={name}-bus.0,drive={name}{serial}")
        case "usb-storage":
            yield from ("-device", f"qemu-xhci,id={name}-bus")
            yield from ("-device", f"usb-storage,bus={name}-bus.0,drive={name}{serial}")


def _net(net: UserNet | None) -> Iterator[str]:
    if net is None:
        return
    forwards = "".join(f",hostfwd=tcp:127.0.0.1:{outside}-:{inside}" for outside, inside in net.forwards)
    yield from ("-netdev", f"user,id=net{forwards}")
    # No boot ROM: it is another package, and nothing boots from the network here.
    yield from ("-device", "virtio-net-pci,netdev=net,romfile=")


# --- the process -------------------------------------------------------------------------------------------------


def _attempt(
    guest: Guest,
    accel: Accel,
    timeout_s: float,
    console_log: str,
    on_line: OnLine | None,
    *,
    silence_s: float = math.inf,
) -> Outcome:
    """Run the guest once; `silence_s` is how long the console may stay empty."""
    begin = time.monotonic()
    with (
        open(console_log, "wb") as log,
        tempfile.TemporaryFile() as stderr,
        _process(command(guest, accel), stderr) as process,
    ):
        console = Console(log, on_line)
        ended = _listen(process, console, begin + timeout_s, begin + silence_s)
        failure = _failure(process, stderr) if ended == "exited" else ""
    if silence_s < timeout_s and _is_silent(console) and (failure or ended == "timed out"):
        raise _SilentError(failure or f"the guest said nothing for {silence_s:.0f} s")
    if failure:
        raise RehearsalError(f"QEMU: {failure}")
    return Outcome(ended=ended, accel=accel, wall_s=time.monotonic() - begin)


@contextmanager
def _process(words: list[str], stderr: IO[bytes]) -> Iterator["subprocess.Popen[bytes]"]:
    """Start QEMU in a process group of its own (^C is for us, who then end it); it is gone when the block is left."""
    leash = os.path.join(os.path.dirname(os.path.abspath(__file__)), "leash.py")
    with subprocess.Popen(
        [sys.executable, "-I", "-S", leash, str(os.getpid()), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        process_group=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _listen(
    process: "subprocess.Popen[bytes]", console: Console, deadline: float, silence_deadline: float
) -> Literal["exited", "timed out"]:
    """Feed the console until QEMU closes it or time is up."""
    with selectors.DefaultSelector() as selector, cast("IO[bytes]", process.stdout) as pipe:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            limit = min(deadline, silence_deadline) if _is_silent(console) else deadline
            left_s = limit - time.monotonic()
            if left_s <= 0:
                return "timed out"
            if not selector.select(left_s):
                continue
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                console.flush()
                return "exited"
            console.feed(data)


def _is_silent(console: Console) -> bool:
    return console.received_bytes < _SPEECH_BYTES


def _failure(process: "subprocess.Popen[bytes]", stderr: IO[bytes]) -> str:
    """Return why QEMU itself failed, or "": whatever a guest does, QEMU's status is 0."""
    status = process.wait(_EXIT_S)
    if not status:
        return ""
    stderr.seek(0)
    lines = stderr.read(1 << 16).decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"killed by signal {-status}" if status < 0 else f"exit status {status}"
