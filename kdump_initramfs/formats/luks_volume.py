"""What a LUKS header says of its volume: the algorithms of data and key slots, and what must be known to open it.

Sources: LUKS On-Disk Format Specification 1.2.3 (figure 1, the header); LUKS2 On-Disk Format Specification 1.1.3,
chapter 3 (the JSON area: key slots, digests, segments, config). `requirements` and the states of a re-encryption are
those of lib/luks2/luks2_json_metadata.c and luks2_reencrypt.c of cryptsetup.
"""

from collections.abc import Iterator

from msgspec import Struct

from kdump_initramfs.formats import kernel_crypto, luks

_SLOT_OF_LUKS1_BYTES = 48
_FIRST_SLOT_OF_LUKS1 = 208
_IN_USE = 0x00AC71F3
_HEADER_OF_LUKS1_BYTES = 592

Json = dict[str, object]


class Integrity(Struct, frozen=True, kw_only=True):
    """Tags beside the sectors, which dm-integrity keeps."""

    # As dm-crypt names it: "hmac(sha256)", "aead", "poly1305".
    type: str
    journal_encryption: str = "none"
    journal_integrity: str = "none"


class Segment(Struct, frozen=True, kw_only=True):
    # "crypt", "linear"; "hw-opal" and "hw-opal-crypt" where the drive encrypts.
    type: str
    # As dm-crypt takes it: "aes-xts-plain64"; "" for a linear one.
    encryption: str
    integrity: Integrity | None = None
    # "in-reencryption", "backup-previous", "backup-final", "backup-moved-segment".
    flags: tuple[str, ...] = ()


class KeySlot(Struct, frozen=True, kw_only=True):
    # "luks2", "reencrypt"; "luks1" of version 1.
    type: str
    # Of the area that holds the key, which need not be that of the data.
    encryption: str = ""


class Volume(Struct, frozen=True, kw_only=True):
    version: int
    uuid: str
    segments: tuple[Segment, ...] = ()
    key_slots: tuple[KeySlot, ...] = ()
    # What cryptsetup must know before it may open the volume: "online-reencrypt", "offline-reencrypt".
    requirements: tuple[str, ...] = ()

    @property
    def is_being_reencrypted(self) -> bool:
        return any("reencrypt" in word for word in self.requirements) or any(each.flags for each in self.segments)

    @property
    def needs_integrity(self) -> bool:
        """Whether dm-integrity is below dm-crypt."""
        return any(each.integrity for each in self.segments)


def parse(head: bytes) -> Volume | None:
    """Return what the header says; None where `head` is none, or a damaged one."""
    if not head.startswith(luks.MAGIC) or len(head) < _HEADER_OF_LUKS1_BYTES:
        return None
    if int.from_bytes(head[6:8], "big") == 1:
        return _of_luks1(head)
    area = luks.json_area(head)
    return _of_luks2(head, area) if area is not None else None


def data_requests(volume: Volume) -> tuple[str, ...]:
    """Return what the kernel asks modprobe for when the volume is opened, whoever has its key."""
    return tuple(sorted({name for segment in volume.segments for name in _of_segment(segment)}))


def key_slot_requests(volume: Volume) -> tuple[str, ...]:
    """Return what the kernel is asked for when a key slot is opened, if cryptsetup leaves its cipher to the kernel.

    It does where its library lacks the cipher: over AF_ALG (lib/crypto_backend/crypto_cipher_kernel.c), or with a
    temporary dm-crypt device.
    """
    return tuple(
        sorted(
            {name for slot in volume.key_slots if slot.encryption for name in kernel_crypto.dm_crypt(slot.encryption)}
        )
    )


def _of_segment(segment: Segment) -> Iterator[str]:
    if segment.encryption:
        yield from kernel_crypto.dm_crypt(segment.encryption, segment.integrity.type if segment.integrity else "")
    if segment.integrity:
        journal = (segment.integrity.journal_encryption, segment.integrity.journal_integrity)
        yield from kernel_crypto.requests(*(name for name in journal if name != "none"))


# --- version 1 ---------------------------------------------------------------------------------------------------


def _of_luks1(head: bytes) -> Volume:
    cipher, mode = (_text(head, offset, 32) for offset in (8, 40))
    encryption = f"{cipher}-{mode}" if mode else cipher
    starts = range(_FIRST_SLOT_OF_LUKS1, _HEADER_OF_LUKS1_BYTES, _SLOT_OF_LUKS1_BYTES)
    used = [start for start in starts if int.from_bytes(head[start : start + 4], "big") == _IN_USE]
    slot = KeySlot(type="luks1", encryption=encryption)
    return Volume(
        version=1,
        uuid=_text(head, luks.UUID_OFFSET, 40),
        segments=(Segment(type="crypt", encryption=encryption),),
        key_slots=(slot,) * len(used),
    )


def _text(head: bytes, offset: int, size: int) -> str:
    return head[offset : offset + size].split(b"\0")[0].decode("ascii", "replace")


# --- version 2 ---------------------------------------------------------------------------------------------------


def _of_luks2(head: bytes, area: Json) -> Volume:
    requirements = _section(_section(area, "config"), "requirements")
    mandatory = requirements.get("mandatory")
    return Volume(
        version=int.from_bytes(head[6:8], "big"),
        uuid=_text(head, luks.UUID_OFFSET, 40),
        segments=tuple(_segment(each) for each in _entries(area, "segments")),
        key_slots=tuple(_key_slot(each) for each in _entries(area, "keyslots")),
        requirements=_words(mandatory),
    )


def _segment(described: Json) -> Segment:
    return Segment(
        type=_word(described, "type"),
        encryption=_word(described, "encryption"),
        integrity=_integrity(_section(described, "integrity")),
        flags=_words(described.get("flags")),
    )


def _integrity(described: Json) -> Integrity | None:
    if not _word(described, "type"):
        return None
    return Integrity(
        type=_word(described, "type"),
        journal_encryption=_word(described, "journal_encryption") or "none",
        journal_integrity=_word(described, "journal_integrity") or "none",
    )


def _key_slot(described: Json) -> KeySlot:
    return KeySlot(
        type=_word(described, "type"),
        # The area of a re-encryption holds data that is on its way, or sums of it, and no key.
        encryption=_word(_section(described, "area"), "encryption"),
    )


def _section(parent: Json, name: str) -> Json:
    found = parent.get(name)
    return found if isinstance(found, dict) else {}


def _entries(area: Json, name: str) -> list[Json]:
    return [each for each in _section(area, name).values() if isinstance(each, dict)]


def _word(parent: Json, name: str) -> str:
    found = parent.get(name)
    return found if isinstance(found, str) else ""


def _words(found: object) -> tuple[str, ...]:
    return tuple(each for each in found if isinstance(each, str)) if isinstance(found, list) else ()
