"""From what a guest has said on its console to why no dump came of it, and what to try: pure, as text goes in."""

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

_LINES = 20
_MAX_LINE = 200
# What victim.sh says before it crashes the kernel, and what each kernel says first.
_CRASHING = "rehearsal: crashing"
_START = re.compile(r"Linux version [0-9]")
# Not what a terminal would obey: colours, movements and titles.
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Diagnosis(Struct, frozen=True, kw_only=True):
    cause: str
    # What to try.
    remedy: str
    # The last lines of the console.
    lines: tuple[str, ...] = ()


class _Sign(Struct, frozen=True):
    """A word of the console, and what it means; {0} is what its group has matched."""

    pattern: re.Pattern[str]
    cause: str
    remedy: str


def _sign(pattern: str, cause: str, remedy: str) -> _Sign:
    return _Sign(re.compile(pattern), cause, remedy)


_MORE_MEMORY = "reserve more: --crashkernel here, and on the machine (`kdump-initramfs estimate` tells how much)"
_MEMORY = "the capture kernel ran out of memory"
_LOOK = "read the lines before it: --keep DIR keeps the console logs"

# The first that is found is the cause; what follows from others comes behind them. The words are those of the kernel's
# mm/oom_kill.c, mm/page_alloc.c, init/initramfs.c, init/do_mounts.c, init/main.c and kernel/panic.c, and our scripts'.
_CAPTURE = (
    _sign(r"System is deadlocked on memory", _MEMORY, _MORE_MEMORY),
    _sign(r"Out of memory(?!\w)|invoked oom-killer|out_of_memory|Killed process \d+", _MEMORY, _MORE_MEMORY),
    _sign(r"page allocation failure|Cannot allocate memory|can't fork", _MEMORY, _MORE_MEMORY),
    _sign(
        r"Initramfs unpacking failed: write error|rootfs image is not initramfs \(write error\)",
        f"{_MEMORY} while it unpacked the image",
        _MORE_MEMORY,
    ),
    _sign(
        r"Initramfs unpacking failed: (.+)",
        "the capture kernel cannot unpack the image: {0}",
        "build it with another image.compression (nearly every kernel can unpack gzip), and reserve more if that is no "
        "help",
    ),
    _sign(
        r"Unable to mount root fs|No working init found|Failed to execute /init",
        "the capture kernel found no /init in the image",
        "see that CONFIG_BLK_DEV_INITRD and CONFIG_RD_* for image.compression are set (`kdump-initramfs check`), and "
        "reserve more",
    ),
    _sign(
        r"the kernel asked for (.+?), which is not in this image",
        "the kernel asked for {0}, which is not in the image",
        "include the module: --set 'image.extra_modules=[\"NAME\"]', and build again",
    ),
    _sign(
        r"no device with (.+?) after (?:\d+) s",
        "the device of the target did not appear: no device with {0}",
        "see that its driver is in the image (`kdump-initramfs plan -v`); image.extra_modules adds one, and "
        "capture.device_timeout_s waits longer",
    ),
    _sign(
        r"no room for a vmcore|No space left on device|collector \w+ failed: room",
        "the vmcore did not fit on the target",
        "make room on the target, or leave more out (vmcore.dump_level, vmcore.compression)",
    ),
    _sign(
        r"cannot mount (.+)",
        "the target could not be mounted: {0}",
        "see the kernel's messages in the lines before",
    ),
    _sign(
        r"the deadline of (\d+) s has passed",
        "the capture did not end before its deadline of {0} s",
        "raise capture.deadline_s, or see in the lines before what it waited for",
    ),
    _sign(
        r"target \d+ has not come to an end within (\d+) s",
        "the target was not done within {0} s",
        "raise budget_s of the target or capture.deadline_s, or see in the lines before what it waited for",
    ),
    _sign(
        r"kdump: (?:\[[0-9.]+\] )?nothing could be saved: (?!see the console)(.+)",
        "{0}",
        _LOOK,
    ),
    _sign(r"collector (\w+) failed: (?:error|stall|stuck)", "the collector {0} failed", _LOOK),
    _sign(
        r"Kernel panic - not syncing: (.+)",
        "the capture kernel panicked: {0}",
        "try another kernel (kernel.version), or other parameters for it (kernel.append, kernel.remove)",
    ),
    _sign(
        r"BUG: (.+)|Oops: (.+)|general protection fault",
        "the capture kernel has a fault: {0}",
        "try another kernel (kernel.version), or other parameters for it (kernel.append, kernel.remove)",
    ),
)

_BEFORE = (
    _sign(
        r"crashkernel reservation failed(.*)|Memory reservation for crashkernel failed|cannot reserve crashkernel",
        "the guest could not reserve the memory{0}",
        "lower --crashkernel, or raise --memory",
    ),
    _sign(
        r"Could not find a free area of memory|Cannot assign requested address|Could not allocate memory",
        "the capture kernel and its image do not fit into what is reserved",
        _MORE_MEMORY,
    ),
    _sign(
        r"System is deadlocked on memory|Out of memory(?!\w)|invoked oom-killer",
        "the guest ran out of memory",
        "raise --memory",
    ),
    _sign(r"Kernel panic - not syncing: (.+)", "the guest's kernel panicked before the crash: {0}", "raise --memory"),
)


def diagnose(console: str, *, timed_out: bool = False) -> Diagnosis:
    """Return why there is no dump (or no whole one), as far as the console of the crash tells."""
    lines = [_printable(line) for line in console.splitlines()]
    before, after = _split(lines)
    if after is None:
        return _of(before, _BEFORE) or _unknown(
            before, "the guest did not come to the crash", "raise --memory or --timeout"
        )
    start = next((number for number, line in enumerate(after) if _START.search(line)), None)
    if start is None:
        return _silent(after, timed_out=timed_out)
    capture = after[start:]
    found = _of(capture, _CAPTURE)
    if found is not None:
        return found
    if timed_out:
        return _unknown(
            capture,
            "the capture did not end in time",
            "raise --timeout; the last lines tell how far it came",
        )
    return _unknown(capture, "the console does not tell", _LOOK)


def unread(console: str) -> Diagnosis:
    """Return what is to be said where the second boot, which reads the dump back, has failed."""
    lines = [_printable(line) for line in console.splitlines()]
    return _unknown(lines, "the storage could not be read back after the capture", "raise --timeout or --memory")


def _split(lines: Sequence[str]) -> tuple[Sequence[str], Sequence[str] | None]:
    """Return what was said before the crash, and since then: None where it did not come to that."""
    for number, line in enumerate(lines):
        if _CRASHING in line:
            return lines[:number], lines[number:]
    return lines, None


def _of(lines: Sequence[str], signs: Sequence[_Sign]) -> Diagnosis | None:
    for sign in signs:
        for line in lines:
            if match := sign.pattern.search(line):
                what = next((group for group in match.groups() if group), "").strip()
                return _unknown(lines, sign.cause.format(what).rstrip(" :"), sign.remedy)
    return None


def _silent(lines: Sequence[str], *, timed_out: bool) -> Diagnosis:
    """Return what it means that nothing was said after the panic: early, a kernel that lacks memory has no console."""
    how = "and did not end" if timed_out else "and ended"
    return _unknown(
        lines,
        f"the capture kernel did not start, or said nothing {how}: too little memory is the usual reason",
        f"{_MORE_MEMORY}; if that is no help, look at its command line (`kdump-initramfs load --print`, kernel.append)",
    )


def _unknown(lines: Sequence[str], cause: str, remedy: str) -> Diagnosis:
    return Diagnosis(cause=cause, remedy=remedy, lines=tuple(line for line in lines if line.strip())[-_LINES:])


def _printable(line: str) -> str:
    return _CONTROL.sub("", line.replace("\t", " "))[:_MAX_LINE]


def summary(found: Diagnosis) -> Iterator[str]:
    """Yield the lines that tell a person."""
    yield f"likely cause: {found.cause}"
    yield f"try: {found.remedy}"
    if found.lines:
        yield "the last lines of the console:"
        yield from (f"  | {line}" for line in found.lines)
