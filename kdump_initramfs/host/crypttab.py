"""/etc/crypttab: by what an encrypted device is opened (crypttab(5))."""

from collections.abc import Iterator

from msgspec.structs import replace

from kdump_initramfs.host.root import Root
from kdump_initramfs.model import CryptEntry

_NO_KEY = ("", "none", "-")
# Where systemd looks for NAME.key for a device of which crypttab names no key, in this order.
_KEYS = ("/etc/cryptsetup-keys.d", "/run/cryptsetup-keys.d")
_SUFFIX = ".key"


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


def key_files(root: Root) -> tuple[CryptEntry, ...]:
    """Return the keys that are called by the devices that they open; sockets, which services answer on, are none."""
    found: dict[str, CryptEntry] = {}
    for directory in _KEYS:
        for file in root.list(directory):
            name, path = file.removesuffix(_SUFFIX), f"{directory}/{file}"
            if name and name != file and root.is_file(path):
                found.setdefault(name, CryptEntry(name=name, source="", key_file=path))
    return tuple(found.values())


def read(root: Root) -> tuple[CryptEntry, ...]:
    """Return the entries, each with the key by which systemd opens it.

    A device that is opened by the command line (rd.luks.name=, rd.luks.uuid=) has none: its key, if there is one, has.
    """
    return tuple(_with_keys(parse(root.read_text("/etc/crypttab") or ""), key_files(root)))


def _with_keys(entries: tuple[CryptEntry, ...], keys: tuple[CryptEntry, ...]) -> Iterator[CryptEntry]:
    paths = {key.name: key.key_file for key in keys}
    for entry in entries:
        yield entry if entry.key_file else replace(entry, key_file=paths.get(entry.name, ""))
    names = {entry.name for entry in entries}
    yield from (key for key in keys if key.name not in names)
