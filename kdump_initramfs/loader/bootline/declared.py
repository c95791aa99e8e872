"""Systems whose command line is no file to be edited: ostree, NixOS, Guix, and the entries of an EFI firmware.

rpm-ostree(1), ostree-admin-kargs(1); the manuals of NixOS (boot.kernelParams) and of Guix (kernel-arguments);
efibootmgr(8), and the UEFI Specification 2.10, 3.1.3 (load options) and 10.3 (device paths).
"""

import re
import shlex
import struct
import uuid
from collections.abc import Iterator, Sequence

from msgspec import Struct, structs

from kdump_initramfs.loader.bootline import grub, text, words
from kdump_initramfs.loader.bootline.source import Reader, Source, unclear


def exclusive(reader: Reader, effect: Sequence[str] | None) -> list[Source]:
    """Return the sources of a system that makes all else anew: an edit of what it has made would have no effect."""
    names = words.names(effect or ())
    if "ostree" in names or reader.exists("/run/ostree-booted"):
        return list(_ostree(reader)) or [_unseen("ostree", "/boot/loader/entries")]
    if reader.is_file("/etc/NIXOS"):
        return [_nixos(reader)]
    if "gnu.system" in names:
        return [_guix(reader)]
    return []


def _unseen(loader: str, place: str) -> Source:
    return Source(loader=loader, is_first=True, files={}, evaluate=unclear(f"{place}: nothing that can be read"))


# --- ostree ------------------------------------------------------------------------------------------------------


def _ostree(reader: Reader) -> Iterator[Source]:
    make = _rpm_ostree if reader.has("rpm-ostree") else _ostree_admin
    for path in grub.entry_files(reader, ("/boot",)):
        yield Source(
            loader="ostree",
            is_first=True,
            files=reader.texts([path]),
            evaluate=text.evaluate(grub.ENTRY, variables=lambda: grub.environment(reader)),
            make=make,
            added=grub.BY_LOADER,
        )


def _rpm_ostree(wanted: Sequence[str], given: Sequence[str]) -> str:
    old = [word for word in given if words.name(word) in words.names(wanted) and word not in wanted]
    options = [f"--delete-if-present={word}" for word in old] + [f"--append-if-missing={word}" for word in wanted]
    return " ".join(("rpm-ostree kargs", *(shlex.quote(option) for option in options)))


def _ostree_admin(wanted: Sequence[str], given: Sequence[str]) -> str:
    old = [word for word in given if words.name(word) in words.names(wanted) and word not in wanted]
    options = [f"--delete={word}" for word in old] + [f"--append-if-missing={word}" for word in wanted]
    return " ".join(("ostree admin kargs edit-in-place", *(shlex.quote(option) for option in options)))


# --- NixOS and Guix ----------------------------------------------------------------------------------------------


def _nixos(reader: Reader) -> Source:
    return Source(
        loader="NixOS",
        is_first=True,
        files=reader.texts(["/run/booted-system/kernel-params"]),
        evaluate=lambda files: words.split(" ".join(files.values())),
        advise=lambda wanted: (
            f"add {_strings(wanted)} to boot.kernelParams in /etc/nixos/configuration.nix; then run: nixos-rebuild boot"
        ),
        added=(*grub.BY_LOADER, "init"),
    )


def _guix(reader: Reader) -> Source:
    return Source(
        loader="Guix",
        is_first=True,
        files=reader.texts(["/run/booted-system/parameters"]),
        evaluate=lambda files: _arguments(" ".join(files.values())),
        advise=lambda wanted: (
            f"add {_strings(wanted)} to the kernel-arguments of your operating-system; "
            "then run: guix system reconfigure, with its file"
        ),
        added=(*grub.BY_LOADER, "root", "gnu.system", "gnu.load"),
    )


def _strings(wanted: Sequence[str]) -> str:
    return " ".join(f'"{word}"' for word in wanted)


def _arguments(parameters: str) -> tuple[str, ...]:
    match = re.search(r"\(kernel-arguments\s*\(([^()]*)\)", parameters)
    return words.split(" ".join(re.findall(r'"((?:[^"\\]|\\.)*)"', match[1]))) if match else ()


# --- EFI ---------------------------------------------------------------------------------------------------------

_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_VARIABLES = "/sys/firmware/efi/efivars"
# Types and subtypes of the nodes of a device path.
_PARTITION, _FILE, _END = (4, 1), (4, 4), (0x7F, 0xFF)


class _Entry(Struct, frozen=True, kw_only=True):
    """One entry of the firmware's menu."""

    label: str
    options: str
    loader: str = ""
    partition: int = 0
    partuuid: str = ""


def efi_stub(reader: Reader) -> Iterator[Source]:
    """Yield the entry that has booted, where its options are for a kernel."""
    if not reader.has("efibootmgr"):
        return
    entry = _booted(reader)
    if entry and entry.options:
        yield Source(
            loader="EFI stub",
            files={},
            evaluate=lambda _: words.split(entry.options),
            make=lambda wanted, given: _create(reader, entry, words.replaced(given, wanted)),
        )


def unknown_stub(reader: Reader, effect: Sequence[str]) -> Iterator[Source]:
    """Yield an entry of which nothing is known, where nothing else has booted."""
    if not reader.has("efibootmgr") or not reader.is_dir("/sys/firmware/efi") or _booted(reader):
        return
    running = words.without(effect, ("BOOT_IMAGE",))
    entry = _Entry(label="Linux", options="", loader="\\KERNEL")
    yield Source(
        loader="EFI stub",
        files={},
        evaluate=lambda _: running,
        make=lambda wanted, given: (
            f"{_create(reader, entry, words.replaced(given, wanted))} "
            "(DISK, N and KERNEL as `efibootmgr --verbose` shows them)"
        ),
        added=("BOOT_IMAGE",),
    )


def _create(reader: Reader, entry: _Entry, given: Sequence[str]) -> str:
    """Return what makes the entry anew, since efibootmgr does not change one."""
    parts = {
        "--disk": _disk(reader, entry.partuuid),
        "--part": str(entry.partition or "N"),
        "--label": entry.label,
        "--loader": entry.loader,
        "--unicode": " ".join(given),
    }
    return " ".join(("efibootmgr --create", *(f"{option} {shlex.quote(value)}" for option, value in parts.items())))


def _booted(reader: Reader) -> _Entry | None:
    current = _variable(reader, "BootCurrent")
    if len(current) < 2:
        return None
    return _parse(_variable(reader, f"Boot{int.from_bytes(current[:2], 'little'):04X}"))


def _variable(reader: Reader, name: str) -> bytes:
    """Return the value of a variable: what follows four bytes of attributes."""
    return reader.bytes(f"{_VARIABLES}/{name}-{_GLOBAL}")[4:]


def _parse(option: bytes) -> _Entry | None:
    """Return what a load option says: attributes, length of the paths, label, paths, and options for what is loaded."""
    if len(option) < 8:
        return None
    (length,) = struct.unpack_from("<H", option, 4)
    end = next((at for at in range(6, len(option) - 1, 2) if option[at : at + 2] == b"\0\0"), None)
    if end is None or len(option) < end + 2 + length:
        return None
    label = option[6:end].decode("utf-16-le", "replace")
    paths, options = option[end + 2 : end + 2 + length], option[end + 2 + length :]
    entry = _Entry(label=label, options=options.decode("utf-16-le", "replace").rstrip("\0"))
    return _with_path(entry, paths)


def _with_path(entry: _Entry, paths: bytes) -> _Entry:
    loader, partition, partuuid = "", 0, ""
    at = 0
    while at + 4 <= len(paths):
        kind, subtype, length = struct.unpack_from("<BBH", paths, at)
        node = paths[at + 4 : at + length]
        if (kind, subtype) == _PARTITION and len(node) >= 38:
            partition, partuuid = int.from_bytes(node[:4], "little"), str(uuid.UUID(bytes_le=node[20:36]))
        elif (kind, subtype) == _FILE:
            loader += node.decode("utf-16-le", "replace").rstrip("\0")
        elif (kind, subtype) == _END or length < 4:
            break
        at += length
    return structs.replace(entry, loader=loader, partition=partition, partuuid=partuuid)


def _disk(reader: Reader, partuuid: str) -> str:
    """Return the disk that holds a partition, or a word for it."""
    link = f"/dev/disk/by-partuuid/{partuuid}"
    if not partuuid or not reader.exists(link):
        return "DISK"
    name = reader.resolve(link).rpartition("/")[2]
    place = reader.resolve(f"/sys/class/block/{name}")
    return f"/dev/{place.split('/')[-2]}" if reader.is_file(f"{place}/partition") else "DISK"
