"""The LUKS header: its UUID, and how much memory opening it takes (LUKS2 On-Disk Format Specification, 2.1 and 3)."""

from typing import Any

import msgspec
from msgspec import Struct

# Both versions have the magic at 0 and the UUID, as text, at 168.
MAGIC = b"LUKS\xba\xbe"
UUID_OFFSET = 168

_JSON_OFFSET = 4096
# The largest header of LUKS2, of which the JSON area is the most.
HEAD_BYTES = 4 << 20


class Luks(Struct, frozen=True, kw_only=True):
    version: int
    uuid: str
    # Memory of the most expensive keyslot (Argon2); 0 where all are PBKDF2.
    kdf_kib: int


def parse(head: bytes) -> Luks | None:
    """Return what the header says; None where `head` is none, or a damaged one."""
    if not head.startswith(MAGIC) or len(head) < 512:
        return None
    version = int.from_bytes(head[6:8], "big")
    uuid = head[UUID_OFFSET : UUID_OFFSET + 40].split(b"\0")[0].decode("ascii", "replace")
    if version == 1:
        return Luks(version=1, uuid=uuid, kdf_kib=0)
    try:
        slots = [slot["kdf"] for slot in _decode(head)["keyslots"].values()]
        return Luks(version=version, uuid=uuid, kdf_kib=max((int(kdf.get("memory", 0)) for kdf in slots), default=0))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def json_area(head: bytes) -> dict[str, object] | None:
    """Return the JSON area of a header of version 2; None where it cannot be read."""
    try:
        found = _decode(head)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _decode(head: bytes) -> Any:
    size_bytes = int.from_bytes(head[8:16], "big")
    return msgspec.json.decode(head[_JSON_OFFSET : min(size_bytes, HEAD_BYTES)].split(b"\0")[0])
