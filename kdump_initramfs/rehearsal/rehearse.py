"""The proof: crashes the real kernel with the real image in QEMU, and looks at what is on the disk afterwards."""

import logging
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from kdump_initramfs.config import Config
from kdump_initramfs.dumps import store
from kdump_initramfs.errors import ConfigError, RehearsalError
from kdump_initramfs.host import tools
from kdump_initramfs.host.root import Root
from kdump_initramfs.loader import kexec, proof
from kdump_initramfs.rehearsal import console, diagnose, qemu, reservation, storage, verify, victim
from kdump_initramfs.rehearsal.diagnose import Diagnosis
from kdump_initramfs.rehearsal.verify import Check, Expected

logger = logging.getLogger(__name__)

_MIB = 1 << 20
# Beside the dump, a disk holds a file system and a volume group.
_DISK_EXTRA_MIB = 256


class Options(Struct, frozen=True, kw_only=True):
    accel: Literal["auto", "kvm", "tcg"] = "auto"
    memory_mib: int = 1024
    crashkernel: str = "192M"
    # For each of the two boots.
    timeout_s: int = 300
    # Directory that keeps dump and logs; "" keeps nothing.
    keep: str = ""
    # Whether the verdict is kept beside the image, for `status`.
    is_proof: bool = True

    def with_crashkernel(self, size: str, number: int) -> "Options":
        """Return the options of one of several rehearsals, whose verdict is on the size and not on the image."""
        keep = os.path.join(self.keep, f"{number}-{size}") if self.keep else ""
        return replace(self, crashkernel=size, keep=keep, is_proof=False)


class Result(Struct, frozen=True, kw_only=True):
    kernel_release: str
    image: str
    accel: str
    crashkernel: str
    checks: tuple[Check, ...]
    # Wall time of each phase.
    seconds: dict[str, float]
    # From the record of the dump; 0 where there is none.
    memory_low_kib: int = 0
    vmcore_bytes: int = 0
    # What the capture kernel asked for that is not in the image.
    kernel_requests: tuple[str, ...] = ()
    # Why it failed, as far as the console tells; None where it did not fail.
    diagnosis: Diagnosis | None = None

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


# What the console says when a phase begins.
_MARKS = {
    "rehearsal: making the storage": "making the storage",
    "rehearsal: loading the capture kernel": "loading the capture kernel",
    "rehearsal: crashing": "crashed, booting the capture kernel",
    ": capture environment of kernel": "finding the target",
    "] 60-dmesg": "saving the log",
    "] 70-vmcore": "saving the vmcore",
    "] 80-record": "recording",
    "rehearsal: reading the dump back": "reading the dump back",
}


class _Phases:
    """Follows the console of the guest, and takes the time of what it says."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        # What the victim says when it cannot go on.
        self.failure = ""
        # What the capture kernel asks for in vain, each once.
        self.requests: dict[str, None] = {}
        self._name = ""
        self._began = time.monotonic()

    def begin(self, name: str) -> None:
        now = time.monotonic()
        if self._name:
            self.seconds[self._name] = round(self.seconds.get(self._name, 0.0) + now - self._began, 2)
        self._name, self._began = name, now
        if name:
            logger.info("%s", name)

    def hear(self, line: str) -> None:
        """Take a line of the console."""
        if "rehearsal: failed: " in line:
            self.failure = line.partition("rehearsal: failed: ")[2].strip()
        if asked := console.missing_request(line):
            self.requests[asked] = None
        for mark, name in _MARKS.items():
            if mark in line and name != self._name:
                self.begin(name)


def rehearse(root: Root, config: Config, image: str, options: Options) -> Result:
    """Hold a rehearsal of `image` and return what came of it; RehearsalError where it could not be held."""
    check_options(options)
    # On a busy machine the emulated timer may come too late for the kernel to believe in it.
    append = f"console={_machine(root).console} crashkernel={options.crashkernel} panic=1 no_timer_check"
    command = kexec.command(root, config, image, running=append.split())
    target = command.record.manifest.targets[0]
    disk_bytes = storage.disk_bytes(target) or (options.memory_mib + _DISK_EXTRA_MIB) * _MIB
    recipe = storage.recipe(target, disk_bytes)
    token = f"kdump-initramfs rehearsal {secrets.token_hex(16)}"
    settings = {
        "VICTIM_DISK_BYTES": str(disk_bytes),
        "VICTIM_RESULT_BYTES": str(disk_bytes + _MIB),
        "VICTIM_DIRECTORY": recipe.directory,
        "VICTIM_TOKEN": token,
    }
    with _directory(options.keep) as directory:
        initrd = os.path.join(directory, "victim.img")
        victim.build(root, config, command, target, recipe, settings, initrd)
        disks = _make_disks(directory, recipe, disk_bytes)
        guest = qemu.Guest(
            machine=tools.machine(root),
            kernel=command.kernel,
            initrd=initrd,
            append=append,
            memory_mib=options.memory_mib,
            disks=disks,
        )
        phases = _Phases()
        accel = _boot(guest, "crash", directory, options, phases)
        # What worked once is not tried anew: KVM that hangs costs its time only once.
        _boot(guest, "read", directory, replace(options, accel=accel), phases)
        phases.begin("")
        saved = os.path.join(directory, "saved")
        verify.unpack(disks[1].path, saved)
        expected = Expected(
            token=token,
            kernel_release=command.record.manifest.kernel.release,
            manifest_digest=command.record.digest,
        )
        result = _result(command, options, accel, phases, verify.verify(saved, expected), saved)
        if not result.passed:
            with open(_console(directory, "crash"), encoding="utf-8", errors="replace") as stream:
                result = replace(result, diagnosis=diagnose.diagnose(stream.read()))
    if options.is_proof:
        proof.write(
            image,
            proof.Proof(
                image_sha256=command.record.image_sha256,
                passed=result.passed,
                at=proof.now(),
                crashkernel=options.crashkernel,
            ),
        )
    return result


def check_options(options: Options) -> None:
    """Raise ConfigError for what no guest could be made of."""
    for name, value in (("--memory", options.memory_mib), ("--timeout", options.timeout_s)):
        if value < 1:
            raise ConfigError(f"{name} {value}: not 1 or more", hint="leave it out for the usual value")
    reservation.check(options.crashkernel, options.memory_mib)


def _machine(root: Root) -> qemu.Machine:
    machine = tools.machine(root)
    if machine not in qemu.MACHINES:
        raise RehearsalError(
            f"{machine}: no rehearsal on this architecture yet", hint=f"on: {', '.join(qemu.MACHINES)}"
        )
    return qemu.MACHINES[machine]


def _make_disks(directory: str, recipe: storage.Recipe, disk_bytes: int) -> tuple[qemu.Disk, qemu.Disk]:
    """Make the disk of the target, and the one on which the second boot hands out what it found."""
    target, result = os.path.join(directory, "target.disk"), os.path.join(directory, "result.disk")
    storage.write_disk(target, disk_bytes, recipe.partition_table)
    storage.write_disk(result, disk_bytes + _MIB, "")
    return qemu.Disk(path=target, bus=recipe.bus), qemu.Disk(path=result)


def _boot(guest: qemu.Guest, phase: str, directory: str, options: Options, phases: _Phases) -> qemu.Accel:
    """Boot the guest for one phase, to its end, and return how QEMU ran it."""
    phases.begin(f"booting the guest to {phase}")
    log = _console(directory, phase)
    outcome = qemu.run(
        replace(guest, append=f"{guest.append} VICTIM_PHASE={phase}"),
        accel=options.accel,
        timeout_s=options.timeout_s,
        console_log=log,
        on_line=phases.hear,
    )
    timed_out = outcome.ended != "exited"
    if not phases.failure and not timed_out:
        return outcome.accel
    with open(log, encoding="utf-8", errors="replace") as stream:
        text = stream.read()
    found = diagnose.diagnose(text, timed_out=timed_out) if phase == "crash" else diagnose.unread(text)
    for line in found.lines:
        logger.info("  | %s", line)
    kept = f"see {log}" if options.keep else "--keep DIR keeps the console logs"
    said = (
        f"in the guest: {phases.failure}" if phases.failure else f"the guest did not end within {options.timeout_s} s"
    )
    hint = "; ".join((found.remedy, *console.named(phases.requests), kept))
    raise RehearsalError(f"{said}: {found.cause}", hint=hint)


def _console(directory: str, phase: str) -> str:
    return os.path.join(directory, f"{phase}.console")


def _result(
    command: kexec.Command, options: Options, accel: str, phases: _Phases, checks: tuple[Check, ...], saved: str
) -> Result:
    dumps = store.find([saved])
    record = dumps[0].record if dumps else None
    requests = dict.fromkeys((*phases.requests, *(record.kernel_requests if record else ())))
    return Result(
        kernel_release=command.record.manifest.kernel.release,
        image=command.image,
        accel=accel,
        crashkernel=options.crashkernel,
        checks=checks,
        seconds=phases.seconds,
        memory_low_kib=record.memory_low_kib if record else 0,
        vmcore_bytes=sum(file.bytes for name, file in record.files.items() if name in store.VMCORES) if record else 0,
        kernel_requests=tuple(requests),
    )


@contextmanager
def _directory(keep: str) -> Iterator[str]:
    """Make the directory of the rehearsal; the dump in it is of memory, so it is nobody else's."""
    if not keep:
        with tempfile.TemporaryDirectory(prefix="kdump-rehearsal-") as directory:
            yield directory
        return
    try:
        os.makedirs(keep, mode=0o700)
    except OSError as error:
        raise RehearsalError(f"{keep}: {error.strerror}", hint="name a new directory") from error
    try:
        yield keep
    finally:
        for name in ("victim.img", "victim.img.json", "target.disk", "result.disk"):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(keep, name))


def summary(result: Result) -> Iterator[str]:
    """Yield the lines that tell a person how it went."""
    verdict = "PASSED" if result.passed else "FAILED"
    yield f"rehearsal of {result.image} with kernel {result.kernel_release}: {verdict}"
    for check in result.checks:
        detail = f": {check.detail}" if check.detail else ""
        yield f"  {'ok    ' if check.passed else 'FAILED'} {check.name}{detail}"
    if result.diagnosis is not None:
        yield from diagnose.summary(result.diagnosis)
    yield from (f"  {line}" for line in console.named(result.kernel_requests))
    yield f"under {result.accel.upper()}, crashkernel={result.crashkernel}:"
    for name, seconds in result.seconds.items():
        yield f"  {seconds:7.2f} s  {name}"
    yield f"  {result.vmcore_bytes / _MIB:7.1f} MiB in the vmcore"
    yield f"  {result.memory_low_kib / 1024:7.1f} MiB of the capture kernel's memory left at the lowest"
