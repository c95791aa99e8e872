"""Programs of the machine that a capture image may take along, and what they can do, read from their files."""

from collections.abc import Iterator

from kdump_initramfs.formats import elf
from kdump_initramfs.formats import makedumpfile as dumper
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import Tools

DIRECTORIES = (
    *("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"),
    # NixOS: what the system has, what the machine's users share, and the system's profile where it does not run.
    *("/run/current-system/sw/bin", "/nix/var/nix/profiles/default/bin", "/nix/var/nix/profiles/system/sw/bin"),
    # Guix, likewise.
    *("/run/current-system/profile/sbin", "/run/current-system/profile/bin"),
    *("/var/guix/profiles/system/profile/sbin", "/var/guix/profiles/system/profile/bin"),
    # GoboLinux.
    "/System/Index/bin",
)

# What makedumpfile compresses with is decided when it is compiled, and its libraries tell: Debian's 1.7.2 accepts -p
# and -z without them and writes uncompressed. Each name follows a NUL in the table of strings for the dynamic linker.
_COMPRESSION_LIBRARIES = {
    b"\0liblzo2.so": "lzo",
    b"\0libsnappy.so": "snappy",
    b"\0libzstd.so": "zstd",
    b"\0libz.so": "zlib",
}

# busybox holds the names of its applets, sorted, each ending in NUL, in one table (applets/applet_tables.c); these two
# names come first in it.
_APPLETS_START = b"[\0[[\0"

# cryptsetup holds the names of its options as they are (src/cryptsetup_arg_list.h); this one is that of 2.7.
_VOLUME_KEY_OPTION = b"volume-key-keyring"


def read(root: Root) -> Tools:
    """Return what this machine has of the tools that we know; a missing one is ""."""
    busybox, makedumpfile, cryptsetup = (find(root, name) for name in ("busybox", "makedumpfile", "cryptsetup"))
    return Tools(
        busybox=busybox,
        busybox_applets=parse_applets(root.read_bytes(busybox) or b"") if busybox else (),
        makedumpfile=makedumpfile,
        makedumpfile_compressions=_compressions(root, makedumpfile) if makedumpfile else (),
        makedumpfile_blind_from=dumper.blind_from(root.read_bytes(makedumpfile) or b"") if makedumpfile else "",
        vmcore_dmesg=find(root, "vmcore-dmesg"),
        zstd=find(root, "zstd"),
        age=find(root, "age"),
        dmsetup=find(root, "dmsetup"),
        lvm=find(root, "lvm"),
        mdadm=find(root, "mdadm"),
        cryptsetup=cryptsetup,
        cryptsetup_takes_volume_keys=_VOLUME_KEY_OPTION in (root.read_bytes(cryptsetup) or b"")
        if cryptsetup
        else False,
    )


def machine(root: Root) -> str:
    """Return what `uname -m` says on machines that run this root, from the ELF header of its shell; "" if unknown."""
    shells = (f"{directory}/sh" for directory in DIRECTORIES)
    for path in ("/bin/sh", "/bin/busybox", "/usr/bin/env", *shells):
        content = root.read_bytes(path) if root.is_file(path) else None
        if content and content.startswith(elf.MAGIC):
            return elf.machine(content, path)
    return ""


def find(root: Root, name: str) -> str:
    """Return the path of the program `name` in the root, or ""."""
    return next((path for path in _candidates(name) if root.is_file(path)), "")


def _candidates(name: str) -> Iterator[str]:
    if name.startswith("/"):
        yield name
    else:
        yield from (f"{directory}/{name}" for directory in DIRECTORIES)


def parse_applets(content: bytes) -> tuple[str, ...]:
    """Return the applets that a busybox binary was built with, from the table of names in its data."""
    start = content.find(_APPLETS_START)
    end = content.find(b"\0\0", start)
    if start < 0 or end < 0:
        return ()
    names = content[start:end].split(b"\0")
    return tuple(name.decode("ascii", "replace") for name in names)


def _compressions(root: Root, path: str) -> tuple[str, ...]:
    content = root.read_bytes(path) or b""
    return tuple(kind for library, kind in _COMPRESSION_LIBRARIES.items() if library in content)
