"""Where distributions put kernel images, and which of those that are there is the image of a release.

A name that has the release in it is believed unless the image says otherwise; behind any other name the image itself
must say so. What is read of an image is formats/kernel_image.py.
"""

import fnmatch
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from msgspec import Struct

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import kernel_image, kernel_payload
from kdump_initramfs.host import fstab, mounts
from kdump_initramfs.host.root import Root

logger = logging.getLogger(__name__)


class Place(Struct, frozen=True):
    """A path with {release}, {machine} and {package}, and in each of its parts perhaps a *; and whose habit it is."""

    path: str
    whose: str

    @property
    def names_the_kernel(self) -> bool:
        return "{" in self.path


PLACES = (
    Place("/boot/vmlinuz-{release}", "Debian, Ubuntu, Fedora, openSUSE, Gentoo's installkernel"),
    Place("/boot/vmlinux-{release}", "Debian and openSUSE on ppc64le"),
    Place("/usr/lib/modules/{release}/vmlinuz", "Fedora, Arch, openSUSE, Debian 14, and what ostree deploys"),
    Place("/lib/modules/{release}/vmlinuz", "the same where /lib is a directory of its own"),
    Place("/usr/lib/modules/{release}/Image", "openSUSE on aarch64 and riscv64"),
    Place("/usr/lib/modules/{release}/image", "openSUSE on s390x"),
    Place("/usr/lib/modules/{release}/vmlinux", "openSUSE on ppc64le"),
    Place("/boot/Image-{release}", "openSUSE on aarch64 and riscv64"),
    Place("/boot/image-{release}", "openSUSE on s390x"),
    Place("/boot/kernel-{release}", "Gentoo"),
    Place("/boot/bzImage-{release}", "Gentoo"),
    Place("/boot/kernel-genkernel-{machine}-{release}", "Gentoo's genkernel"),
    Place("/boot/*/{release}/linux", "kernel-install(8): entries by the Boot Loader Specification"),
    Place("/efi/*/{release}/linux", "kernel-install(8), with the ESP at /efi"),
    Place("/boot/efi/*/{release}/linux", "kernel-install(8), with the ESP at /boot/efi"),
    Place("/boot/ostree/*/vmlinuz-{release}", "ostree: Fedora CoreOS, Silverblue, Endless"),
    Place("/boot/vmlinuz-{package}", "Arch: named by the package, which pkgbase beside the modules tells"),
    Place("/boot/vmlinuz-{release}.old", "Gentoo's installkernel, of a build that was made again"),
    Place("/boot/vmlinuz-*", "Alpine: named by the flavour"),
    Place("/boot/Image", "Arch on ARM, and U-Boot"),
    Place("/boot/vmlinuz", "Slackware, and links of others"),
    Place("/boot/bzImage", "kernels built by hand"),
    Place("/run/booted-system/kernel", "NixOS: what it booted"),
    Place("/run/current-system/kernel", "NixOS: what it will boot"),
    Place("/boot/kernels/*", "NixOS with GRUB"),
    Place("/boot/EFI/nixos/*", "NixOS with systemd-boot"),
    Place("/boot/EFI/Linux/*.efi", "unified kernel images"),
    Place("/efi/EFI/Linux/*.efi", "unified kernel images, with the ESP at /efi"),
    Place("/boot/efi/EFI/Linux/*.efi", "unified kernel images, with the ESP at /boot/efi"),
    Place("/usr/lib/modules/{release}/*.efi", "unified kernel images of the distribution: kernel-uki-virt"),
)

# File systems that only the boot loader needs, and that are therefore often not mounted.
_BOOT_MOUNTS = ("/boot", "/efi", "/boot/efi")
_ENTRIES = tuple(f"{directory}/loader/entries" for directory in _BOOT_MOUNTS)


def find(root: Root, release: str, machine: str) -> str:
    """Return the path of the bootable image; HostError tells where it was looked for, and what was passed over."""
    passed_over: list[str] = []
    for path, names_the_kernel in _candidates(root, release, machine):
        reason = _contradiction(root, path, release, is_named=names_the_kernel)
        if not reason:
            logger.debug("%s: is the image of kernel %s", path, release)
            return path
        logger.debug("%s: %s", path, reason)
        passed_over.append(f"{path} ({reason})")
    looked = ", ".join(dict.fromkeys(_directory(place, release) for place in PLACES))
    found = f"; passed over: {', '.join(passed_over)}" if passed_over else ""
    raise HostError(f"kernel {release}: no bootable image in {looked}{found}", hint=_remedy(root))


def is_mounted_on_demand(root: Root, path: str) -> bool:
    """Tell whether a file is on a file system that the system does not mount by itself (noauto in fstab(5))."""
    entry = fstab.holder(fstab.read(root), root.resolve(path))
    return entry is not None and "noauto" in entry.options


def _candidates(root: Root, release: str, machine: str) -> Iterator[tuple[str, bool]]:
    """Yield each image that is there, and whether something names it as that of the release; those first."""
    named = [*_placed(root, release, machine, is_named=True), *_entries(root, release)]
    others = [*_booted(root), *_placed(root, release, machine, is_named=False)]
    yield from dict.fromkeys((path, True) for path in named)
    yield from dict.fromkeys((path, False) for path in others if path not in named)


def _placed(root: Root, release: str, machine: str, *, is_named: bool) -> Iterator[str]:
    package = root.read_word(f"/usr/lib/modules/{release}/pkgbase")
    values = {"{release}": release, "{machine}": machine, "{package}": package}
    for place in PLACES:
        if place.names_the_kernel == is_named and (package or "{package}" not in place.path):
            parts = [(_filled(part, values), "*" in part) for part in place.path.split("/")[1:]]
            yield from (path for path in _matches(root, "", parts) if root.is_file(path))


def _filled(part: str, values: Mapping[str, str]) -> str:
    for key, value in values.items():
        part = part.replace(key, value)
    return part


def _matches(root: Root, directory: str, parts: Sequence[tuple[str, bool]]) -> Iterator[str]:
    """Yield the paths that match the parts, each a name or a pattern, in the order of their names."""
    if not parts:
        yield directory
        return
    (first, is_pattern), *rest = parts
    names = fnmatch.filter(root.list(directory or "/"), first) if is_pattern else [first]
    for name in names:
        yield from _matches(root, f"{directory}/{name}", rest)


def _entries(root: Root, release: str) -> Iterator[str]:
    """Yield what the entries of the boot loader name for this release (the Boot Loader Specification, type #1)."""
    for directory in _ENTRIES:
        for name in root.list(directory):
            keys = _entry(root.read_text(f"{directory}/{name}") or "") if name.endswith(".conf") else {}
            image = keys.get("linux") or keys.get("uki") or keys.get("efi") or ""
            if image and keys.get("version") == release:
                yield from _on_boot_filesystems(root, image)


def _entry(text: str) -> dict[str, str]:
    fields = (line.split(None, 1) for line in text.splitlines() if not line.startswith("#"))
    return {field[0]: field[1].strip() for field in fields if len(field) == 2}


def _booted(root: Root) -> Iterator[str]:
    """Yield what the boot loader says that it has loaded; GRUB puts the name of its device before the path."""
    match = re.search(r"(?:^|\s)BOOT_IMAGE=(?:\([^)]*\))?(/\S+)", root.read_text("/proc/cmdline") or "")
    if match:
        yield from _on_boot_filesystems(root, match[1])


def _on_boot_filesystems(root: Root, path: str) -> Iterator[str]:
    """Yield where a path lies that is told from the root of the boot loader's file system."""
    places = (f"{directory}/{path.lstrip('/')}" for directory in (*_BOOT_MOUNTS, ""))
    yield from (place for place in places if root.is_file(place))


def _contradiction(root: Root, path: str, release: str, *, is_named: bool) -> str:
    """Return why an image that is there is not the one, or ""."""
    with _opened(root, path) as stream:
        try:
            image = kernel_image.read(stream, path)
            found = image.release if is_named else kernel_payload.release(stream, image, path)
        except HostError as error:
            return str(error).removeprefix(f"{path}: ")
    if found and found != release:
        return f"is kernel {found}"
    return "" if found or is_named else "does not say which kernel it is"


def _opened(root: Root, path: str) -> BinaryIO:
    try:
        return open(root.host(path), "rb")
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint="run as root, or name a readable kernel image") from error


def _directory(place: Place, release: str) -> str:
    return place.path.replace("{release}", release).rpartition("/")[0]


def _remedy(root: Root) -> str:
    """Return what to do: a file system that is not mounted is the usual reason."""
    if mounts.are_known(root):
        known = {entry.mount_point for entry in fstab.read(root)}
        mounted = {mount.mount_point for mount in mounts.read(root)}
        missing = [directory for directory in _BOOT_MOUNTS if directory in known - mounted]
    else:
        missing = []
    if missing:
        return f"{missing[0]} is in /etc/fstab and not mounted: mount {missing[0]}"
    return "mount /boot, or name the image with --set kernel.image=PATH"
