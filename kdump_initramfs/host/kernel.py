"""The kernel to capture with: its image, its modules and what its configuration says."""

import os

from kdump_initramfs.config import KernelSection
from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import bzimage
from kdump_initramfs.host import kernel_config, mounts
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import Kernel

# Where distributions put the image (kernel-install(8), Debian, Gentoo installkernel and genkernel).
_IMAGES = (
    "/boot/vmlinuz-{release}",
    "/usr/lib/modules/{release}/vmlinuz",
    "/lib/modules/{release}/vmlinuz",
    "/boot/vmlinux-{release}",
    "/boot/kernel-{release}",
    "/boot/bzImage-{release}",
    "/boot/Image-{release}",
    "/boot/kernel-genkernel-{machine}-{release}",
)
_MODULES = ("/lib/modules/{release}", "/usr/lib/modules/{release}")
_OSRELEASE = "/proc/sys/kernel/osrelease"
_HEADER_BYTES = 0x10000


def read(root: Root, wanted: KernelSection, machine: str) -> Kernel:
    """Return the kernel that `wanted` names (by default the running one); raise HostError where a part is missing."""
    release = wanted.version or _only_installed(root) or running_release(root)
    modules_dir = _find_modules(root, release, wanted.modules_dir)
    image = wanted.image or _find_image(root, release, machine)
    _check_release(root, image, release)
    _, config = kernel_config.read_text(root, release, os.path.dirname(image), modules_dir) or ("", None)
    return Kernel(
        release=release,
        image=image,
        modules_dir=modules_dir,
        initramfs_compressions=_compressions(config),
        hands_over_volume_keys="CONFIG_CRASH_DM_CRYPT=y" in (config or "").splitlines(),
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


def _find_modules(root: Root, release: str, wanted: str) -> str:
    if "/" in release or release in (".", ".."):
        raise HostError(f"{release}: not the name of a kernel release", hint=_installed(root))
    for directory in [wanted] if wanted else [pattern.format(release=release) for pattern in _MODULES]:
        if root.is_file(f"{directory}/modules.dep"):
            return directory
        if root.is_dir(directory):
            raise HostError(f"{directory}: has no modules.dep", hint=f"run: depmod {release}")
    raise HostError(f"{wanted or f'/lib/modules/{release}'}: no such kernel is installed", hint=_installed(root))


def _releases(root: Root) -> list[str]:
    return [name for name in root.list("/lib/modules") if root.is_file(f"/lib/modules/{name}/modules.dep")]


def _installed(root: Root) -> str:
    releases = _releases(root)
    return f"installed kernels: {', '.join(releases)}" if releases else "install a kernel with its modules"


def _find_image(root: Root, release: str, machine: str) -> str:
    candidates = [pattern.format(release=release, machine=machine) for pattern in _IMAGES]
    for path in candidates:
        if root.is_file(path):
            return path
    raise HostError(
        f"kernel {release}: no bootable image at {', '.join(candidates[:3])} or the other usual places",
        hint="mount /boot, or name the image with --set kernel.image=PATH",
    )


def _check_release(root: Root, image: str, release: str) -> None:
    """Refuse an image that says of itself that it is another kernel."""
    try:
        with open(root.host(image), "rb") as stream:
            found = bzimage.release(stream.read(_HEADER_BYTES))
    except OSError as error:
        raise HostError(f"{image}: {error.strerror}", hint="run as root, or name a readable kernel image") from error
    if found is not None and found != release:
        raise HostError(f"{image}: is kernel {found}, not {release}", hint="name the right image in kernel.image")


def _compressions(config: str | None) -> tuple[str, ...] | None:
    if config is None:
        return None
    options = set(config.splitlines())
    return tuple(kind for kind in ("zstd", "gzip", "xz") if f"CONFIG_RD_{kind.upper()}=y" in options)
