"""Whether memory is set aside for the capture kernel, and enough of it."""

from collections.abc import Iterator

from msgspec import Struct

from kdump_initramfs.check.finding import Finding, State
from kdump_initramfs.loader.bootloader import Edit
from kdump_initramfs.loader.sizing import Estimate

_MIB = 1 << 20


class Facts(Struct, frozen=True, kw_only=True):
    # crashkernel=… of the running kernel's command line.
    asked: tuple[str, ...]
    reserved_bytes: int
    # None where there is no image to size.
    estimate: Estimate | None
    edit: Edit


def findings(facts: Facts) -> Iterator[Finding]:
    yield _asked(facts)
    yield _reserved(facts)
    if facts.reserved_bytes and facts.estimate:
        yield _enough(facts, facts.estimate)


_WHY = "the capture kernel runs in memory that was set aside when the machine booted, and in no other"


def _asked(facts: Facts) -> Finding:
    asked = " ".join(facts.asked)
    if facts.asked:
        return Finding(name="crashkernel= on the command line", state=State.OK, seen=asked, why=_WHY)
    pending = any(word.startswith("crashkernel=") for word in facts.edit.pending)
    return Finding(
        name="crashkernel= on the command line",
        # Some platforms reserve without being asked.
        state=State.OK if facts.reserved_bytes else State.BROKEN,
        seen=f"not there, but in {facts.edit.file or facts.edit.loader} for the next boot" if pending else "not there",
        why=_WHY,
        remedy="" if facts.reserved_bytes else _pending(facts.edit) if pending else str(facts.edit),
    )


def _pending(edit: Edit) -> str:
    return f"{f'run: {edit.command}; then ' if edit.command else ''}reboot"


def _reserved(facts: Facts) -> Finding:
    seen = f"{facts.reserved_bytes // _MIB} MiB"
    if facts.reserved_bytes:
        return Finding(name="reserved memory", state=State.OK, seen=seen, why=_WHY)
    if not facts.asked:
        return Finding(name="reserved memory", state=State.BROKEN, seen=seen, why=_WHY, remedy="as above; then reboot")
    return Finding(
        name="reserved memory",
        state=State.BROKEN,
        seen=f"{seen}, although {' '.join(facts.asked)} asks for it",
        why="no free stretch was large enough where it was asked for, or no range of sizes fits this machine; the "
        "kernel's log says which: dmesg | grep -i crashkernel",
        remedy=_plain(facts),
    )


def _plain(facts: Facts) -> str:
    """Return the remedy for a reservation that failed: a plain size, without a place or a range."""
    return f"ask for a size alone, without @ and without ranges: {facts.edit}"


def _enough(facts: Facts, estimate: Estimate) -> Finding:
    reserved = facts.reserved_bytes // _MIB
    needed = max(estimate.needed_bytes, estimate.root_limit_bytes) / _MIB
    measured = f"{estimate.measured_mib} MiB measured, " if estimate.measured_mib else ""
    seen = f"{reserved} MiB; {measured}{estimate.estimated_mib} MiB estimated, {needed:.0f} of them without margin"
    state = State.OK if reserved >= estimate.recommended_mib else State.WEAK if reserved >= needed else State.BROKEN
    return Finding(
        name="size of the reservation",
        state=state,
        seen=seen,
        why="a capture kernel without enough memory ends in a panic of its own, and nothing is saved; "
        "`kdump-initramfs estimate` shows every term",
        remedy="" if state is State.OK else str(facts.edit),
    )
