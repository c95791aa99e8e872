"""What lies on a block device: as udev has recorded it, or as the device itself says."""

from collections.abc import Mapping

from kdump_initramfs.formats import blkid_types, luks, luks_volume, md_superblock, plaintext, superblock
from kdump_initramfs.host.root import Root
from kdump_initramfs.storage import Content, LuksHeader

# Of udev's links, by the word with which mount(8) names a device by them.
_LINKS = {
    "UUID": "/dev/disk/by-uuid",
    "LABEL": "/dev/disk/by-label",
    "PARTUUID": "/dev/disk/by-partuuid",
    "PARTLABEL": "/dev/disk/by-partlabel",
}
# The kernel's algorithms for programs: AF_ALG, which cryptsetup falls back to (crypto_cipher_kernel.c there).
_USER_INTERFACE = ("net-pf-38", "algif_skcipher")


def read(root: Root, name: str, number: str, size_bytes: int) -> Content:
    """Return what lies on the device `name` ("major:minor" in `number`).

    udev may have recorded nothing of a device that is there: it passes over one that another program has locked, and
    looks at it again when that has closed it.
    """
    recorded = udev(root, number)
    kind, uuid = recorded.get("ID_FS_TYPE", ""), recorded.get("ID_FS_UUID", "") or links(root, "UUID").get(name, "")
    was_read = not (kind and uuid) and bool(head(root, name, 1))
    if was_read:
        found = _identify(root, name, size_bytes)
        kind, uuid = kind or found.type, uuid or found.uuid
    return Content(type=kind, uuid=uuid, was_read=was_read, luks=_luks(root, name))


def udev(root: Root, number: str) -> Mapping[str, str]:
    """Return the properties of a block device in udev's database (sd-device: E:KEY=VALUE lines); none without udev."""
    lines = (root.read_text(f"/run/udev/data/b{number}") or "").splitlines()
    pairs = (line[2:].partition("=") for line in lines if line.startswith("E:"))
    return {key: value for key, _, value in pairs}


def links(root: Root, key: str) -> dict[str, str]:
    """Return kernel name -> value, from udev's links; `key` is UUID, LABEL, PARTUUID or PARTLABEL."""
    directory = _LINKS[key]
    return {
        root.resolve(f"{directory}/{link}").removeprefix("/dev/"): plaintext.from_hex(link)
        for link in root.list(directory)
    }


def head(root: Root, name: str, size_bytes: int) -> bytes:
    """Return the first bytes of a device; nothing where it may not be read, or is not there."""
    return part(root, name, 0, size_bytes)


def part(root: Root, name: str, offset: int, size_bytes: int) -> bytes:
    """Return some bytes of a device; nothing where it may not be read, or is not there."""
    try:
        with open(root.host(f"/dev/{name}"), "rb") as stream:
            stream.seek(offset)
            return stream.read(size_bytes)
    except OSError:
        return b""


def _luks(root: Root, name: str) -> LuksHeader | None:
    """Return what the LUKS header on the device `name` asks for; None where there is none, or it may not be read."""
    if head(root, name, len(luks.MAGIC)) != luks.MAGIC:
        return None
    raw = head(root, name, luks.HEAD_BYTES)
    volume, found = luks_volume.parse(raw), luks.parse(raw)
    if volume is None or found is None:
        return LuksHeader(problem="has a header that cannot be read")
    return LuksHeader(
        kdf_kib=found.kdf_kib,
        requests=tuple(sorted({*luks_volume.data_requests(volume), *_of_key_slots(volume)})),
        problem=_luks_problem(volume),
    )


def _of_key_slots(volume: luks_volume.Volume) -> tuple[str, ...]:
    """Return what cryptsetup has the kernel decrypt key slots with, where its own library lacks the cipher."""
    is_common = all(slot.encryption.startswith("aes-") for slot in volume.key_slots if slot.encryption)
    return (*luks_volume.key_slot_requests(volume), *(() if is_common else _USER_INTERFACE))


def _luks_problem(volume: luks_volume.Volume) -> str:
    if volume.is_being_reencrypted:
        return "is being reencrypted, which must finish first"
    if any(segment.type.startswith("hw-opal") for segment in volume.segments):
        return "is encrypted by the drive itself (OPAL), which is not unlocked after a crash"
    # cryptsetup would make a second device below, whose journal must be replayed in the memory of the capture kernel.
    return "has integrity (dm-integrity), which is not opened after a crash" if volume.needs_integrity else ""


def _identify(root: Root, name: str, size_bytes: int) -> Content:
    # First, since a member of a mirror begins like what is on the mirror.
    if uuid := md_superblock.array_uuid(lambda offset, size: part(root, name, offset, size), size_bytes):
        return Content(type="linux_raid_member", uuid=uuid)
    if found := superblock.identify(head(root, name, superblock.HEAD_BYTES)):
        return Content(type=found[0], uuid=found[1])
    return Content(type=blkid_types.identify(lambda offset, size: part(root, name, offset, size), size_bytes))
