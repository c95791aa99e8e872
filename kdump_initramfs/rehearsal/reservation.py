"""crashkernel= of a guest, looked at before the guest is made: what its kernel would not take, or could not keep free.

The grammar is that of parse_crashkernel() (kernel/crash_reserve.c) and memparse() (lib/cmdline.c).
"""

import re

from kdump_initramfs.errors import ConfigError

_UNITS = {unit: 1 << 10 * power for power, unit in enumerate("kmgtpe", start=1)}
_MIB = 1 << 20
_SIZE = r"(?:0x[0-9a-f]{1,16}|[0-9]{1,20})[kmgtpe]?"
_RANGE = rf"{_SIZE}-(?:{_SIZE})?:{_SIZE}"
_FORMS = re.compile(
    rf"(?P<plain>{_SIZE})(?:@{_SIZE}|,(?:high|low|cma))?|(?P<ranges>{_RANGE}(?:,{_RANGE})*)(?:@{_SIZE})?",
    re.IGNORECASE | re.ASCII,
)
_WORD = "crashkernel="


def check(asked: str, memory_mib: int) -> None:
    """Raise ConfigError where a guest of that memory would reserve nothing for crashkernel=`asked`."""
    sizes = [_reserved(word, asked, memory_mib << 20) for word in asked.split(f" {_WORD}")]
    if sum(sizes) >= memory_mib << 20:
        raise ConfigError(
            f"--crashkernel {asked}: does not fit into a guest of {memory_mib} MiB",
            hint="raise --memory, or lower --crashkernel",
        )


def _reserved(word: str, asked: str, memory_bytes: int) -> int:
    match = _FORMS.fullmatch(word)
    if match is None:
        raise ConfigError(f"--crashkernel {asked}: not a value that the kernel accepts", hint="give a size, as 192M")
    found = _bytes(match["plain"]) if match["plain"] else _of_ranges(match["ranges"], memory_bytes)
    if found == 0:
        raise ConfigError(
            f"--crashkernel {asked}: reserves nothing in a guest of {memory_bytes >> 20} MiB",
            hint="give a size, as 192M",
        )
    if found < _MIB:
        raise ConfigError(f"--crashkernel {asked}: that is {found} bytes", hint=f"give a unit: {word}M")
    return found


def _of_ranges(text: str, memory_bytes: int) -> int:
    """Return what the first range in which the memory lies reserves; 0 if none."""
    for part in text.split(","):
        limits, _, size = part.partition(":")
        start, _, end = limits.partition("-")
        if _bytes(start) <= memory_bytes and (not end or memory_bytes < _bytes(end)):
            return _bytes(size)
    return 0


def _bytes(text: str) -> int:
    digits, unit = (text[:-1], text[-1].lower()) if text[-1].lower() in _UNITS and not _is_hex(text) else (text, "")
    return int(digits, 16 if digits[:2].lower() == "0x" else 10) * _UNITS.get(unit, 1)


def _is_hex(text: str) -> bool:
    """Whether the last letter may be a digit: e of hexadecimal numbers."""
    return text[:2].lower() == "0x" and text[-1].lower() == "e"
