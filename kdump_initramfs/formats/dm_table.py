"""Tables of device-mapper: as the ioctl DM_TABLE_STATUS returns them, and as dmsetup(8) prints them.

Sources, of the kernel: include/uapi/linux/dm-ioctl.h (struct dm_ioctl, struct dm_target_spec; DM_STATUS_TABLE_FLAG asks
for tables), retrieve_status() of drivers/md/dm-ioctl.c for how the targets follow each other. A table of dm-crypt or
dm-integrity may hold a key: none is kept.
"""

import re
import struct
from collections.abc import Iterator

from msgspec import Struct

from kdump_initramfs.formats import device_number, dm_targets

# version[3], data_size, data_start, target_count, open_count, flags, event_nr, padding, dev, name, uuid, data[7].
_HEAD = struct.Struct("<3IIIIiIIIQ128s129s7x")
HEAD_BYTES = _HEAD.size
# sector_start, length, status, next, target_type.
_SPEC = struct.Struct("<QQiI16s")
# The buffer was too small: call again with a larger one.
BUFFER_FULL = 1 << 8
# The flag that asks for tables instead of states.
STATUS_TABLE = 1 << 4

_NUMBER = re.compile(r"[0-9]+:[0-9]+")
# Options that hold a device behind a colon (dm-integrity).
_OPTION = re.compile(r"meta_device:([0-9]+:[0-9]+)")
_LINE = re.compile(
    r"(?:(?P<name>\S.*?): )?(?P<start>[0-9]+) (?P<length>[0-9]+) (?P<type>[a-z][a-z0-9_-]*)(?: (?P<params>.*))?"
)
# A key as a table has it, of at least 128 bits.
_KEY = re.compile(r"[0-9a-fA-F]{32,}")
# What stands where a key was.
_NO_KEY = "-"
# The word that is a key, by type of the target.
_KEY_WORD = {"crypt": 1, "inlinecrypt": 1, "default-key": 1}
_NO_SECRET = frozenset({"verity"})


class Target(Struct, frozen=True, kw_only=True):
    """A stretch of a mapped device, in sectors of 512 bytes."""

    start: int
    length: int
    # "linear", "crypt", "snapshot-origin".
    type: str
    # As the kernel prints them, with "-" for each key.
    params: str = ""

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that it names, as "major:minor", each once."""
        found = [match[1] if match.re is _OPTION else match[0] for match in map(_device, self.params.split()) if match]
        return tuple(dict.fromkeys(found))

    @property
    def requests(self) -> tuple[str, ...]:
        """What the kernel asks modprobe for when this is loaded."""
        return dm_targets.requests(self.type, self.params.split())

    @property
    def is_known(self) -> bool:
        return self.type in dm_targets.TYPES


class Table(Struct, frozen=True, kw_only=True):
    name: str
    uuid: str
    # "major:minor".
    number: str
    targets: tuple[Target, ...]


def parse_ioctl(buffer: bytes) -> Table | None:
    """Return what DM_TABLE_STATUS has left in its buffer; None where that is no whole table."""
    if len(buffer) < HEAD_BYTES:
        return None
    *_, size_bytes, start, count, _open, flags, _event, _padding, device, name, uuid = _HEAD.unpack_from(buffer)
    if flags & BUFFER_FULL:
        return None
    targets = tuple(_specs(buffer[start : min(size_bytes, len(buffer))], count))
    if len(targets) != count:
        return None
    return Table(name=_text(name), uuid=_text(uuid), number=device_number.decode(device), targets=targets)


def parse_text(text: str) -> dict[str, tuple[Target, ...]] | None:
    """Return the tables that `dmsetup table` has printed, by name ("" of a single device); None if it is not that."""
    found: dict[str, tuple[Target, ...]] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line.rstrip())
        if match:
            target = _target(int(match["start"]), int(match["length"]), match["type"], match["params"] or "")
            found[match["name"] or ""] = (*found.get(match["name"] or "", ()), target)
        elif line.rstrip().endswith(":"):
            # A device without a table.
            found.setdefault(line.rstrip()[:-1], ())
        elif line.strip() not in {"", "No devices found"}:
            return None
    return found


def _specs(area: bytes, count: int) -> Iterator[Target]:
    """Yield the targets; `next` of each counts from the first, and the last one's may be anything."""
    position = 0
    for _ in range(count):
        if position + _SPEC.size > len(area):
            return
        start, length, _status, following, kind = _SPEC.unpack_from(area, position)
        params, end, _ = area[position + _SPEC.size :].partition(b"\0")
        if not end:
            return
        yield _target(start, length, _text(kind), params.decode("utf-8", "surrogateescape"))
        if following <= position:
            return
        position = following


def _target(start: int, length: int, kind: str, params: str) -> Target:
    words = params.split()
    key = _KEY_WORD.get(kind)
    if key is not None and len(words) > key:
        words[key] = _NO_KEY
    if kind not in _NO_SECRET:
        words = [_without_key(word) for word in words]
    return Target(start=start, length=length, type=kind, params=" ".join(words))


def _without_key(word: str) -> str:
    """Return a word without a key in it: also the third part of "journal_mac:hmac(sha256):KEY"."""
    option, algorithm, *key = word.split(":", 2) if word.count(":") > 1 else ("", "", "")
    if key and option in {"internal_hash", "journal_crypt", "journal_mac"}:
        return f"{option}:{algorithm}:{_NO_KEY}" if key[0] else word
    return _KEY.sub(_NO_KEY, word)


def _device(word: str) -> re.Match[str] | None:
    return _NUMBER.fullmatch(word) or _OPTION.fullmatch(word)


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "surrogateescape")
