"""What a superblock says that a mount needs besides its device: algorithms, further devices, features of the kernel.

Each type has a module of its own with the places and their sources; here is what they have in common.
"""

from collections.abc import Callable, Collection, Mapping

from msgspec import Struct

# Takes offset and length, and returns less where there is not so much.
Reader = Callable[[int, int], bytes]


class External(Struct, frozen=True, kw_only=True):
    """A further device that the file system lies on."""

    # "journal", "log", "realtime", "member".
    role: str
    # Of what is on that device, as blkid(8) prints it; "" where the superblock does not name it.
    uuid: str = ""
    # Where it was when it was made; "" where that is not recorded. Names change.
    path: str = ""
    # "major:minor" at the last mount; "" where that is not recorded.
    number: str = ""
    # The mount option that names it; "" where there is none, or the kernel finds the device by itself.
    option: str = ""


class Filesystem(Struct, frozen=True, kw_only=True):
    # As superblock.identify() says it: "ext4" for all of ext.
    type: str
    uuid: str
    # What the kernel asks modprobe for at a mount, besides fs-TYPE.
    requests: tuple[str, ...] = ()
    # By the names of the file system's own tools, sorted.
    features: tuple[str, ...] = ()
    # Incompatible features that have no name here, as "incompat bit 20": an old kernel refuses them.
    unknown: tuple[str, ...] = ()
    external: tuple[External, ...] = ()
    # How many devices it is on, as far as it counts them itself.
    devices: int = 1
    # A device that holds the journal of another file system is none itself, though it begins like one.
    is_mountable: bool = True


def named(value: int, names: Mapping[int, str], word: str) -> tuple[set[str], tuple[str, ...]]:
    """Sort the bits of a mask by whether they have a name; `word` stands before the number of one that has none."""
    bits = [bit for bit in range(value.bit_length()) if value >> bit & 1]
    known = {names[bit] for bit in bits if bit in names}
    return known, tuple(f"{word} bit {bit}" for bit in bits if bit not in names)


def feature_requests(features: Collection[str]) -> set[str]:
    """Return what ext4 and f2fs have asked for features that both have: utf8_load(), find_quota_format()."""
    names = {"casefold": "utf8data", "quota": "quota_v2"}
    return {request for feature, request in names.items() if feature in features}


def little(raw: bytes, offset: int, size: int) -> int:
    return int.from_bytes(raw[offset : offset + size], "little")


def big(raw: bytes, offset: int, size: int) -> int:
    return int.from_bytes(raw[offset : offset + size], "big")
