"""A dump on a device without a file system, as hooks/51-target-raw.sh writes it.

All is in units of 64 KiB. Unit 0 is the head, lines of text and then zeros:

    KDUMP-RAW 1
    id UUID          of this dump
    state STATE      writing; partial (recorded, but without a vmcore); complete; recovered
    name NAME        of its directory
    units N          how many units are in use

Files follow, one behind the other: a unit that tells of it, then its data up to the next unit.

    KDUMP-FILE 1
    id UUID          of the dump; another one is a left-over of an earlier dump
    name NAME
    bytes N

The unit that tells of a file is written when its data is on stable storage: a file that has it is whole.
"""

from collections.abc import Callable, Iterator

from msgspec import Struct

UNIT_BYTES = 65536
_HEAD = "KDUMP-RAW 1"
_FILE = "KDUMP-FILE 1"
# Lines of text take less; the rest of a unit is zeros.
_TEXT_BYTES = 4096

# Takes offset and length in bytes, returns that part of the device.
Reader = Callable[[int, int], bytes]


class Head(Struct, frozen=True, kw_only=True):
    id: str
    state: str
    name: str
    units: int


class StoredFile(Struct, frozen=True, kw_only=True):
    name: str
    # Where its data begins on the device.
    offset: int
    size_bytes: int


def read_head(read: Reader) -> Head | None:
    """Return the head of the dump on a device; None where there is none, or a damaged one."""
    values = _parse(read(0, _TEXT_BYTES), _HEAD)
    if values is None or not values.get("units", "").isdecimal():
        return None
    return Head(
        id=values.get("id", ""),
        state=values.get("state", ""),
        name=values.get("name", ""),
        units=int(values["units"]),
    )


def head_text(head: Head) -> bytes:
    """Return the unit that is the head."""
    lines = (_HEAD, f"id {head.id}", f"state {head.state}", f"name {head.name}", f"units {head.units}")
    return "".join(f"{line}\n" for line in lines).encode().ljust(UNIT_BYTES, b"\0")


def files(read: Reader, head: Head, device_bytes: int) -> Iterator[StoredFile]:
    """Yield the files of the dump, as far as they are whole and on the device."""
    offset = UNIT_BYTES
    while (values := _parse(read(offset, _TEXT_BYTES), _FILE)) is not None:
        size_text = values.get("bytes", "")
        if values.get("id") != head.id or not size_text.isdecimal():
            return
        found = StoredFile(name=values.get("name", ""), offset=offset + UNIT_BYTES, size_bytes=int(size_text))
        if found.offset + found.size_bytes > device_bytes:
            return
        yield found
        offset = found.offset + -(-found.size_bytes // UNIT_BYTES) * UNIT_BYTES


def _parse(raw: bytes, first: str) -> dict[str, str] | None:
    """Return KEY -> VALUE of the lines behind the first one; None where that is another."""
    lines = raw.split(b"\0")[0].decode("ascii", "replace").splitlines()
    if not lines or lines[0] != first:
        return None
    pairs = (line.partition(" ") for line in lines[1:])
    return {key: value for key, _, value in pairs}
