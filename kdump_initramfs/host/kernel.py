"""The kernel to capture with: its image, its modules and what its configuration says."""

import logging
import os
from typing import Literal

from kdump_initramfs import regular
from kdump_initramfs.config import KernelSection
from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import kernel_image, kernel_payload
from kdump_initramfs.formats.kernel_image import KernelImage
from kdump_initramfs.host import kernel_config, kernel_places, mounts
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import Kernel

logger = logging.getLogger(__name__)

# Where the directories of all releases are.
_MODULES = (
    *("/lib/modules", "/usr/lib/modules"),
    # NixOS: what it booted, what it will boot, and its profile where it does not run.
    *("/run/booted-system/kernel-modules/lib/modules", "/run/current-system/kernel-modules/lib/modules"),
    "/nix/var/nix/profiles/system/kernel-modules/lib/modules",
    # Guix, likewise.
    *("/run/booted-system/kernel/lib/modules", "/run/current-system/kernel/lib/modules"),
    "/var/guix/profiles/system/kernel/lib/modules",
    # GoboLinux.
    "/System/Kernel/Modules",
)
_OSRELEASE = "/proc/sys/kernel/osrelease"
# Of a configuration: such a kernel loads no module, and has everything built in.
_NO_MODULES = "# CONFIG_MODULES is not set"


def read(root: Root, wanted: KernelSection, machine: str) -> Kernel:
    """Return the kernel that `wanted` names (by default the running one); raise HostError where a part is missing."""
    release = wanted.version or _only_installed(root) or running_release(root)
    modules_dir = _modules_dir(root, release, wanted.modules_dir)
    path = wanted.image or _find_image(root, release, machine, modules_dir)
    image = _read_image(root, path, release)
    found = kernel_config.read_text(root, release, os.path.dirname(path), modules_dir)
    config = found[1] if found else _built_in_config(root, path, image)
    modular = _NO_MODULES not in (config or "").splitlines()
    if modular:
        _check_modules(root, release, modules_dir, wanted.modules_dir)
    return Kernel(
        release=release,
        image=path,
        image_format=image.format if image else "",
        modules_dir=modules_dir,
        initramfs_compressions=_compressions(config),
        hands_over_volume_keys="CONFIG_CRASH_DM_CRYPT=y" in (config or "").splitlines(),
        copied_because=_why_copied(root, path, image),
        modular=modular,
    )


def _only_installed(root: Root) -> str:
    """Return the kernel of a root that is not running, where it has no other; else ""."""
    is_running = root.exists(_OSRELEASE) or mounts.are_known(root)
    installed = _releases(root)
    return installed[0] if len(installed) == 1 and not is_running else ""


def running_release(root: Root) -> str:
    release = root.read_word(_OSRELEASE)
    if not release:
        raise HostError(
            f"{root.directory}: no running kernel to be seen ({_OSRELEASE})",
            hint=f"name the kernel, for example `kdump-initramfs build 6.1.0-56-amd64`; {_installed(root)}",
        )
    return release


def _modules_dir(root: Root, release: str, wanted: str) -> str:
    """Return the directory of the kernel's modules; it may not be there."""
    if "/" in release or release in (".", ".."):
        raise HostError(f"{release}: not the name of a kernel release", hint=_installed(root))
    places = _places(release, wanted)
    lists = (place for place in places if root.is_file(f"{place}/modules.dep"))
    return next(lists, "") or next((place for place in places if root.is_dir(place)), places[0])


def _places(release: str, wanted: str) -> list[str]:
    return [wanted] if wanted else [f"{directory}/{release}" for directory in _MODULES]


def _find_image(root: Root, release: str, machine: str, modules_dir: str) -> str:
    """Return the image of a kernel; where its modules are missing too, that is what is said of it."""
    try:
        return kernel_places.find(root, release, machine)
    except HostError:
        _check_modules(root, release, modules_dir, wanted="")
        raise


def _check_modules(root: Root, release: str, directory: str, wanted: str) -> None:
    """Raise an error where a kernel that loads modules has no list of them."""
    if root.is_file(f"{directory}/modules.dep"):
        return
    if root.is_dir(directory):
        raise HostError(f"{directory}: has no modules.dep", hint=f"run: depmod {release}")
    passed_over = ", ".join(kernel_places.unreadable(root, _places(release, wanted)))
    over = f"; passed over: {passed_over}" if passed_over else ""
    raise HostError(f"{wanted or f'/lib/modules/{release}'}: no such kernel is installed{over}", hint=_installed(root))


def _releases(root: Root) -> list[str]:
    found = ((directory, name) for directory in _MODULES for name in _names(root, directory))
    return list(dict.fromkeys(name for directory, name in found if root.is_file(f"{directory}/{name}/modules.dep")))


def _names(root: Root, directory: str) -> list[str]:
    """Return what a directory has; nothing where it cannot be read, as others may be."""
    try:
        return list(root.list(directory))
    except HostError as error:
        logger.debug("%s", error)
        return []


def _installed(root: Root) -> str:
    releases = _releases(root)
    return f"installed kernels: {', '.join(releases)}" if releases else "install a kernel with its modules"


def _read_image(root: Root, path: str, release: str) -> KernelImage | None:
    """Return what the image says of itself; None of one that the administrator named, in a format not known here."""
    try:
        with open(root.host(path), "rb", opener=regular.opener) as stream:
            image = kernel_image.read(stream, path)
            found = kernel_payload.release(stream, image, path) if image.uname else image.release
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint="run as root, or name a readable kernel image") from error
    except HostError as error:
        logger.warning("%s; it is taken as it is, since it was named", error)
        return None
    if found and found != release:
        raise HostError(f"{path}: is kernel {found}, not {release}", hint="name the right image in kernel.image")
    return image


# What kexec cannot take as it is, or should not.
_UNPACKED = {
    "zboot": "kexec_file_load(2) does not unpack it; kexec-tools does since 2.0.27 (gzip) and 2.0.31 (zstd)",
    "uki": "kexec-tools reads it since 2.0.30 (aarch64) and 2.0.31 (x86_64), and loads the initramfs that is inside",
    "packed": "kexec_file_load(2) does not unpack it; kexec-tools does as far as it was built with zlib and liblzma",
}


def _why_copied(root: Root, path: str, image: KernelImage | None) -> Literal["", "packed", "unmounted"]:
    """Return why kexec gets a copy of the image: there is something to unpack, or it may not be there at boot."""
    if image is not None and image.format in _UNPACKED:
        logger.debug("%s: %s is unpacked: %s", path, image.format, _UNPACKED[image.format])
        return "packed"
    if kernel_places.is_mounted_on_demand(root, path):
        logger.debug("%s: is copied: its file system has noauto in /etc/fstab", path)
        return "unmounted"
    return ""


def _built_in_config(root: Root, path: str, image: KernelImage | None) -> str | None:
    """Return the configuration that the image itself holds (CONFIG_IKCONFIG)."""
    if image is None:
        return None
    try:
        with open(root.host(path), "rb", opener=regular.opener) as stream:
            return kernel_payload.config(stream, image, path)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", hint="reinstall the kernel's package") from error


def _compressions(config: str | None) -> tuple[str, ...] | None:
    if config is None:
        return None
    options = set(config.splitlines())
    return tuple(kind for kind in ("zstd", "gzip", "xz") if f"CONFIG_RD_{kind.upper()}=y" in options)
