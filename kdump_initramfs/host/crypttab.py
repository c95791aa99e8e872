"""/etc/crypttab: by what an encrypted device is opened (crypttab(5))."""

from kdump_initramfs.host.root import Root
from kdump_initramfs.model import CryptEntry

_NO_KEY = ("", "none", "-")


def parse(text: str) -> tuple[CryptEntry, ...]:
    """Return the entries; lines with fewer than two fields, and comments, are left out."""
    entries: list[CryptEntry] = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 2 or fields[0].startswith("#"):
            continue
        name, source, key, options = (*fields, "", "")[:4]
        entries.append(
            CryptEntry(
                name=name,
                source=source,
                key_file="" if key in _NO_KEY else key,
                options=tuple(option for option in options.split(",") if option),
            )
        )
    return tuple(entries)


def read(root: Root) -> tuple[CryptEntry, ...]:
    return parse(root.read_text("/etc/crypttab") or "")
