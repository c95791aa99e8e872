"""/etc/fstab: what a root that is not running will mount, format in fstab(5)."""

from msgspec import Struct

from kdump_initramfs.formats import plaintext
from kdump_initramfs.host import mounts
from kdump_initramfs.host.root import Root


class Entry(Struct, frozen=True, kw_only=True):
    # UUID=…, LABEL=…, a device, an export, or for a bind mount a directory; without quotes.
    spec: str
    # Absolute, without a slash at the end.
    mount_point: str
    fs_type: str
    options: tuple[str, ...]


def parse(text: str) -> tuple[Entry, ...]:
    """Return the entries in their order; comments, swap and lines that are not of the format are left out."""
    entries: list[Entry] = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 3 or fields[0].startswith("#") or not fields[1].startswith("/"):
            continue
        spec, mount_point, fs_type, *rest = (plaintext.from_octal(field) for field in fields)
        entries.append(
            Entry(
                spec=spec.replace('"', ""),
                mount_point=mount_point.rstrip("/"),
                fs_type=fs_type,
                options=tuple(rest[0].split(",")) if rest else (),
            )
        )
    return tuple(entries)


def holder(entries: tuple[Entry, ...], path: str) -> Entry | None:
    """Return the entry that holds `path` (absolute, symbolic links resolved): the longest, of equals the last."""
    found: Entry | None = None
    for entry in entries:
        inside = mounts.covers(entry.mount_point, path)
        if inside and (found is None or len(entry.mount_point) >= len(found.mount_point)):
            found = entry
    return found


def read(root: Root) -> tuple[Entry, ...]:
    return parse(root.read_text("/etc/fstab") or "")


def specs(root: Root) -> tuple[tuple[str, str], ...]:
    """Return what each line names, swap too, and its type."""
    fields = (line.split() for line in (root.read_text("/etc/fstab") or "").splitlines())
    return tuple(
        (plaintext.from_octal(each[0]).replace('"', ""), each[2])
        for each in fields
        if len(each) >= 3 and not each[0].startswith("#")
    )
