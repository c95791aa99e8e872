"""Partition tables: the UUID by which the kernel knows a partition (PARTUUID=, block/partitions of the kernel).

GPT: UEFI specification 5.3, header in the second sector (entries start at 72, their size at 84), an entry's own GUID at
16. MBR: the disk signature at 440 and the number of the partition (block/partitions/msdos.c).
"""

from collections.abc import Callable

# Takes offset and length in bytes, returns that part of the disk, or less where it cannot be read.
Reader = Callable[[int, int], bytes]

_GPT_MAGIC = b"EFI PART"
_MBR_MAGIC = b"\x55\xaa"


def part_uuid(read: Reader, number: int, sector_bytes: int) -> str:
    """Return the UUID of partition `number`, in lower case as the kernel prints it; "" where there is no table."""
    header = read(sector_bytes, 92)
    if header.startswith(_GPT_MAGIC):
        return _of_gpt(read, header, number, sector_bytes)
    table = read(0, 512)
    if table[510:] != _MBR_MAGIC or table[440:444] == bytes(4):
        return ""
    return f"{int.from_bytes(table[440:444], 'little'):08x}-{number:02x}"


def _of_gpt(read: Reader, header: bytes, number: int, sector_bytes: int) -> str:
    entries, entry_bytes = int.from_bytes(header[72:80], "little"), int.from_bytes(header[84:88], "little")
    raw = read(entries * sector_bytes + (number - 1) * entry_bytes + 16, 16)
    return _format_guid(raw) if len(raw) == 16 else ""


def _format_guid(raw: bytes) -> str:
    """Return a GUID as text: of its five parts the first three are stored with the lowest byte first."""
    parts = (raw[3::-1], raw[5:3:-1], raw[7:5:-1], raw[8:10], raw[10:])
    return "-".join(part.hex() for part in parts)
