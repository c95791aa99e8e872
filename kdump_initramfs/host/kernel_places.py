"""Where distributions put kernel images, and which of those that are there is the image of a release.

A name that has the release in it is believed unless the image says otherwise; behind any other name the image itself
must say so. What is read of an image is formats/kernel_image.py.
"""

import errno
import fnmatch
import glob
import logging
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from msgspec import Struct

from kdump_initramfs import regular
from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import kernel_image, kernel_payload
from kdump_initramfs.host import fstab, mounts
from kdump_initramfs.host.root import Root

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


def said(error: Exception, path: str) -> str:
    """Return what is wrong with a path, in a few words without the path itself."""
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error).removeprefix(f"{path}: ")
    return text[:1].lower() + text[1:]


class Place(Struct, frozen=True):
    """A path, in each of its parts perhaps a *, and whose habit it is.

    {boot} is a file system of the boot loader, {modules} a directory with the modules of the release; {release},
    {machine} and {package} are words.
    """

    path: str
    whose: str

    @property
    def names_the_kernel(self) -> bool:
        return any(key in self.path for key in ("{release}", "{modules}", "{package}"))


PLACES = (
    Place("{boot}/vmlinuz-{release}", "Debian, Ubuntu, Fedora, openSUSE, Void, Gentoo's installkernel"),
    Place("{boot}/vmlinux-{release}", "Debian and openSUSE on ppc64le"),
    Place("{modules}/vmlinuz", "Fedora, Arch, openSUSE, Debian 14, Gentoo, and what ostree deploys"),
    Place("{modules}/Image", "openSUSE on aarch64 and riscv64"),
    Place("{modules}/image", "openSUSE on s390x"),
    Place("{modules}/vmlinux", "openSUSE on ppc64le"),
    Place("{modules}/bzImage", "kernels built by hand"),
    Place("{boot}/Image-{release}", "openSUSE on aarch64 and riscv64"),
    Place("{boot}/image-{release}", "openSUSE on s390x"),
    Place("{boot}/kernel-{release}", "Gentoo"),
    Place("{boot}/bzImage-{release}", "Gentoo"),
    Place("{boot}/kernel-genkernel-{machine}-{release}", "Gentoo's genkernel"),
    Place("{boot}/kernel-{machine}-{release}", "the same, by its KERNEL_FILENAME"),
    Place("{boot}/*/{release}/linux", "kernel-install(8): entries by the Boot Loader Specification"),
    Place("{boot}/*/{release}/linux-*", "openSUSE's sdbootutil, which puts a digest behind it"),
    Place("{boot}/ostree/*/vmlinuz-{release}", "ostree: Fedora CoreOS, Silverblue, Endless"),
    Place("{boot}/vmlinuz-{package}", "Arch: named by the package, which pkgbase beside the modules tells"),
    Place("{boot}/EFI/*/*-{release}.efi", "Gentoo's efistub (EFI/Gentoo), and unified kernel images"),
    Place("{boot}/EFI/*/*-{release}+*.efi", "unified kernel images with a counter of attempts to boot"),
    Place("{boot}/EFI/*/vmlinu*-{release}", "EFI stubs without a suffix"),
    Place("{boot}/EFI/*/kernel*-{release}", "EFI stubs without a suffix"),
    Place("{boot}/vmlinu*-{release}.efi", "Gentoo's installkernel, of a unified kernel image"),
    Place("{boot}/kernel*-{release}.efi", "the same, run by kernel-install"),
    Place("/System/Kernel/Boot/kernel-{release}", "GoboLinux"),
    Place("{boot}/vmlinu*-{release}.old", "Gentoo's installkernel, of a build that was made again"),
    Place("{boot}/kernel*-{release}.old", "the same, by the older name"),
    Place("{boot}/vmlinu*-{release}.efi.old", "the same, of a unified kernel image"),
    Place("{boot}/EFI/*/*-{release}-old.efi", "the same, of its efistub"),
    Place("{boot}/vmlinuz-*", "Alpine: named by the flavour"),
    Place("{boot}/Image", "Arch on ARM, and U-Boot"),
    Place("{boot}/vmlinuz", "Slackware, and links of others"),
    Place("{boot}/bzImage", "kernels built by hand"),
    Place("{boot}/kernel*", "the Raspberry Pi's firmware: kernel8.img"),
    Place("/run/booted-system/kernel", "NixOS: what it booted"),
    Place("/run/current-system/kernel", "NixOS: what it will boot"),
    Place("/nix/var/nix/profiles/*/kernel", "NixOS: its generations, also where it does not run"),
    Place("/run/booted-system/kernel/*Image", "Guix: what it booted"),
    Place("/run/current-system/kernel/*Image", "Guix: what it will boot"),
    Place("/var/guix/profiles/*/kernel/*Image", "Guix: its generations, also where it does not run"),
    Place("{boot}/kernels/*", "NixOS with GRUB"),
    Place("{boot}/nixos/*", "NixOS with extlinux"),
    Place("{boot}/limine/kernels/*", "NixOS with Limine"),
    Place("{boot}/*/vmlinuz*", "Flatcar, and images with a slot A and B"),
    Place("/usr/boot/vmlinuz*", "Flatcar: what its updates copy"),
    Place("{boot}/EFI/*/*.efi", "unified kernel images, Pop!_OS, NixOS with systemd-boot, EFI stubs"),
    Place("{boot}/EFI/*/*linu*", "EFI stubs, Slackware"),
    Place("{boot}/EFI/*/kernel*", "clr-boot-manager: Clear Linux, Solus"),
    Place("/usr/lib/kernel/*.*", "the same: what it copies from"),
    Place("{boot}/EFI/*/*Image*", "EFI stubs"),
    Place("{modules}/*.efi", "unified kernel images of the distribution: kernel-uki-virt"),
)

# Where the file systems are mounted that the boot loader reads; others are known by their type.
BOOT = ("/boot", "/efi", "/boot/efi", "/esp", "/boot/EFI", "/boot/esp", "/boot/firmware")
# The file system of an ESP, and where those are mounted that are carried about.
_FAT = ("vfat", "msdos")
_REMOVABLE = ("/media/", "/run/media/", "/mnt/")
_MODULES = ("/usr/lib/modules/{release}", "/lib/modules/{release}")
_DENIED = said(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "")
# What an error names in any case.
_USUAL = ("/boot", _MODULES[0], "/boot/EFI/Linux", "/efi/EFI/Linux", "/boot/efi/EFI/Linux")


def find(root: Root, release: str, machine: str, leaving_out: Sequence[str] = ()) -> str:
    """Return the path of the bootable image; HostError tells where it was looked for, and what was passed over.

    A place that cannot be read is passed over, too, whatever is wrong with it. `leaving_out`: files and directories
    that are about to go.
    """
    seen = _Places(root, release, machine)
    going = [root.resolve(gone) for gone in leaving_out]
    for path, is_named in seen.candidates():
        if any(f"{root.resolve(path)}/".startswith(f"{gone}/") for gone in going):
            continue
        reason = _contradiction(root, path, release, is_named=is_named)
        if not reason:
            logger.debug("%s: is the image of kernel %s", path, release)
            return path
        logger.debug("%s: %s", path, reason)
        if is_named or reason != kernel_image.NO_KERNEL:
            seen.passed_over[path] = reason
    looked = ", ".join(seen.directories())
    over = ", ".join(f"{path} ({reason})" for path, reason in seen.passed_over.items())
    found = f"; passed over: {over}" if over else ""
    raise HostError(f"kernel {release}: no bootable image in {looked}{found}", hint=_remedy(root, seen.boot))


def is_image_of(root: Root, path: str, release: str) -> bool:
    """Tell whether a file is the image of a kernel, as far as that says itself which it is."""
    return not _contradiction(root, path, release, is_named=True)


def is_mounted_on_demand(root: Root, path: str) -> bool:
    """Tell whether a file is on a file system that the system does not mount by itself (noauto in fstab(5))."""
    entry = fstab.holder(fstab.read(root), root.resolve(path))
    return entry is not None and "noauto" in entry.options


class _Places:
    """What is in the places of one release; what cannot be read there is remembered with the reason."""

    def __init__(self, root: Root, release: str, machine: str) -> None:
        self._root = root
        self._release = release
        self.passed_over: dict[str, str] = {}
        package = self._look(f"/usr/lib/modules/{release}/pkgbase", root.read_word, "")
        self._words = {"{release}": release, "{machine}": machine, "{package}": package}
        self.boot = tuple(self._boot_filesystems())

    def _look(self, path: str, read: Callable[[str], _T], otherwise: _T) -> _T:
        """Return what `read` gives for a path; `otherwise` where it cannot be read, which is remembered."""
        try:
            return read(path)
        except (FileNotFoundError, NotADirectoryError):
            return otherwise
        except (OSError, ValueError, HostError) as error:
            self.passed_over[path] = said(error, path)
            return otherwise

    def _mode(self, path: str) -> int:
        return self._look(path, lambda each: os.stat(self._root.host(each)).st_mode, 0)

    def _is_file(self, path: str) -> bool:
        return stat.S_ISREG(self._mode(path))

    def _names(self, directory: str) -> list[str]:
        return self._look(directory, lambda each: list(self._root.list(each)), [])

    def _boot_filesystems(self) -> Iterator[str]:
        """Yield the directories where file systems of the boot loader may be, as far as they are there."""
        entries = fstab.parse(self._look("/etc/fstab", self._root.read_text, None) or "")
        mounted = mounts.parse(self._look("/proc/self/mountinfo", self._root.read_text, None) or "")
        told = [each.mount_point for each in entries if each.fs_type in _FAT]
        told += [each.mount_point for each in mounted if each.fs_type in _FAT]
        for directory in dict.fromkeys((*BOOT, *told)):
            if directory and not directory.startswith(_REMOVABLE) and self._is_alive(directory):
                yield directory

    def _is_alive(self, directory: str) -> bool:
        """Whether a directory is there, be it that we may not list it; a dead mount is passed over as a whole."""
        if not stat.S_ISDIR(self._mode(directory)):
            return False
        self._names(directory)
        return directory not in self.passed_over or self.passed_over[directory] == _DENIED

    def directories(self) -> Iterable[str]:
        """Return where was looked: what is usual, and what is there beside it."""
        paths = (path for place in PLACES for path in self._paths(place, self.boot))
        parents = (path.rpartition("/")[0].replace("{release}", self._release) for path in paths)
        there = (each for each in parents if "*" not in each and stat.S_ISDIR(self._mode(each)))
        return dict.fromkeys((*(each.replace("{release}", self._release) for each in _USUAL), *there))

    def candidates(self) -> Iterator[tuple[str, bool]]:
        """Yield each image that is there, and whether something names it as that of the release; those first."""
        seen: set[str] = set()
        for path, is_named in self._all():
            if path not in seen:
                seen.add(path)
                yield path, is_named

    def _all(self) -> Iterator[tuple[str, bool]]:
        """Yield the candidates, each as it is found: the first one will mostly do."""
        yield from ((path, True) for path in self._placed(is_named=True))
        entries = list(self._entries())
        yield from (entry for entry in entries if entry[1])
        yield from ((path, False) for path in self._booted())
        yield from ((path, False) for path, _ in entries)
        yield from ((path, False) for path in self._placed(is_named=False))

    def _placed(self, *, is_named: bool) -> Iterator[str]:
        for place in PLACES:
            if place.names_the_kernel == is_named and (self._words["{package}"] or "{package}" not in place.path):
                for path in self._paths(place, self.boot):
                    parts = [(self._filled(part), "*" in part) for part in path.split("/")[1:]]
                    yield from (found for found in self._matches("", parts) if self._is_file(found))

    def _paths(self, place: Place, boot: Sequence[str]) -> Iterator[str]:
        """Yield the paths of a place on each of the file systems of the boot loader, in each directory of modules."""
        for key, directories in (("{boot}", boot), ("{modules}", _MODULES)):
            if key in place.path:
                yield from (place.path.replace(key, directory) for directory in directories)
                return
        yield place.path

    def _filled(self, part: str) -> str:
        for key, value in self._words.items():
            literally = glob.escape(value) if "*" in part else value
            part = part.replace(key, literally)
        return part

    def _matches(self, directory: str, parts: Sequence[tuple[str, bool]]) -> Iterator[str]:
        """Yield the paths that match the parts, each a name or a pattern, in the order of their names."""
        if not parts:
            yield directory
            return
        (first, is_pattern), *rest = parts
        names = fnmatch.filter(self._names(directory or "/"), first) if is_pattern else [first]
        for name in names:
            yield from self._matches(f"{directory}/{name}", rest)

    def _entries(self) -> Iterator[tuple[str, bool]]:
        """Yield what the boot loader's entries name, and whether for this release (Boot Loader Specification, #1)."""
        for directory in (f"{boot}/loader/entries" for boot in self.boot):
            for name in self._names(directory):
                text = self._look(f"{directory}/{name}", self._root.read_text, None) if name.endswith(".conf") else None
                keys = _entry(text or "")
                image = keys.get("linux") or keys.get("uki") or keys.get("efi") or ""
                if image:
                    is_named = keys.get("version") == self._release
                    yield from ((path, is_named) for path in self._on_boot_filesystems(image))

    def _booted(self) -> Iterator[str]:
        """Yield what the boot loader says that it has loaded; GRUB puts the name of its device before the path."""
        line = self._look("/proc/cmdline", self._root.read_text, None)
        match = re.search(r"(?:^|\s)BOOT_IMAGE=(?:\([^)]*\))?(/\S+)", line or "")
        if match:
            yield from self._on_boot_filesystems(match[1])

    def _on_boot_filesystems(self, path: str) -> Iterator[str]:
        """Yield where a path lies that is told from the root of the boot loader's file system."""
        places = (f"{directory}/{path.lstrip('/')}" for directory in (*self.boot, ""))
        yield from (place for place in places if self._is_file(place))


def unreadable(root: Root, paths: Iterable[str]) -> Iterator[str]:
    """Yield which of the paths cannot be looked at, though they may be there, each with the reason."""
    for path in paths:
        try:
            os.stat(root.host(path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, HostError) as error:
            yield f"{path} ({said(error, path)})"


def _entry(text: str) -> dict[str, str]:
    fields = (line.split(None, 1) for line in text.splitlines() if not line.startswith("#"))
    return {field[0]: field[1].strip() for field in fields if len(field) == 2}


def _contradiction(root: Root, path: str, release: str, *, is_named: bool) -> str:
    """Return why an image that is there is not the one, or ""."""
    try:
        with open(root.host(path), "rb", opener=regular.opener) as stream:
            image = kernel_image.read(stream, path)
            asks_inside = not is_named or image.uname
            found = kernel_payload.release(stream, image, path) if asks_inside else image.release
    except (OSError, HostError) as error:
        return said(error, path)
    if found and found != release:
        return f"is kernel {found}"
    return "" if found or is_named else "does not say which kernel it is"


def _remedy(root: Root, boot: Sequence[str]) -> str:
    """Return what to do: a file system that is not mounted is the usual reason."""
    try:
        mounted = {mount.mount_point for mount in mounts.read(root)} if mounts.are_known(root) else None
        known = {entry.mount_point for entry in fstab.read(root)}
    except HostError as error:
        logger.debug("%s", error)
        mounted, known = None, set()
    missing = [each for each in dict.fromkeys((*BOOT, *boot)) if mounted is not None and each in known - mounted]
    if missing:
        return f"{missing[0]} is in /etc/fstab and not mounted: mount {missing[0]}"
    return "mount /boot, or name the image with --set kernel.image=PATH"
