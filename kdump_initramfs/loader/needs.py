"""What the size of the reservation depends on, from the image that is built, or from what would be built."""

import os
from collections.abc import Callable

from msgspec import Struct

from kdump_initramfs.config import Config
from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import kernel_memory
from kdump_initramfs.formats.release import version
from kdump_initramfs.host import kernel_config, memory, probe, tools
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import kmod, record
from kdump_initramfs.loader import minimum, sizing
from kdump_initramfs.model import File, ImageRecord, Kernel, Module, Plan, Text
from kdump_initramfs.storage import TargetFacts, drivers_of, filesystem_of

_OSRELEASE = "/proc/sys/kernel/osrelease"
_CMA_SINCE = (6, 17)
# How much zstd makes of an image, and of a module: measured, the least that they were packed.
_PACKED_SHARE = 0.45
_MODULE_FACTOR = 4


def estimate(root: Root, config: Config, image: str, plan: Callable[[], Plan]) -> sizing.Estimate:
    """Return the estimate for an image, or where it is not there, for the one that would be built by `plan`."""
    if not os.path.exists(image):
        return sizing.estimate(of_plan(root, config, plan()))
    return of_image(root, config, image, record.read(image))


def of_image(root: Root, config: Config, image: str, described: ImageRecord) -> sizing.Estimate:
    """Return the estimate for an image whose record was read."""
    return sizing.estimate(of_record(root, config, described), minimum.read(image, described.image_sha256))


class _Image(Struct, frozen=True, kw_only=True):
    kernel: Kernel
    targets: tuple[TargetFacts, ...]
    packed_bytes: int
    unpacked_bytes: int
    modules: tuple[str, ...]
    has_volume_keys: bool


def of_record(root: Root, config: Config, described: ImageRecord) -> sizing.Needs:
    manifest = described.manifest
    image = _Image(
        kernel=manifest.kernel,
        targets=manifest.targets,
        packed_bytes=described.image_bytes,
        unpacked_bytes=described.unpacked_bytes,
        modules=tuple(kmod.module_name(file.path) for file in manifest.inputs if ".ko" in file.path),
        has_volume_keys=bool(manifest.volume_keys),
    )
    return _needs(root, config, image)


def of_plan(root: Root, config: Config, plan: Plan) -> sizing.Needs:
    unpacked = sum(_unpacked_bytes(entry) for entry in plan.entries if isinstance(entry, File | Module | Text))
    image = _Image(
        kernel=plan.kernel,
        targets=plan.targets,
        packed_bytes=unpacked if plan.compression == "none" else int(unpacked * _PACKED_SHARE),
        unpacked_bytes=unpacked,
        modules=tuple(kmod.module_name(entry.path) for entry in plan.entries if isinstance(entry, Module)),
        has_volume_keys=bool(plan.volume_keys),
    )
    return _needs(root, config, image)


def _unpacked_bytes(entry: File | Module | Text) -> int:
    if isinstance(entry, Text):
        return len(entry.content)
    size = os.stat(entry.source).st_size
    return size if entry.source.endswith(".ko") or isinstance(entry, File) else size * _MODULE_FACTOR


def _needs(root: Root, config: Config, image: _Image) -> sizing.Needs:
    head, size_bytes = _kernel_head(root, image.kernel.image)
    is_generic = config.image.mode == "generic"
    machine, kernel = tools.machine(root), kernel_memory.read(head)
    told = kernel.page_bytes if kernel else 0
    return sizing.Needs(
        machine=machine,
        release=image.kernel.release,
        kernel=kernel,
        page_bytes=told or configured_page_bytes(root, machine, image.kernel),
        kernel_file_bytes=size_bytes,
        packed_bytes=image.packed_bytes,
        unpacked_bytes=image.unpacked_bytes,
        targets=image.targets,
        has_volume_keys=image.has_volume_keys,
        cpus=config.capture.cpus,
        memory_bytes=memory.read(root).get("MemTotal", 0),
        drivers=(*_drivers_of(image.targets), *(() if is_generic else image.modules)),
        is_generic=is_generic,
        encrypts_memory=_encrypts_memory(root),
        has_cma=_has_cma(root),
    )


# Options of kernels whose pages are not of 4 KiB; where there are none the file does not tell, or they are.
_PAGES = {
    "ARM64_16K_PAGES": 16384,
    "ARM64_64K_PAGES": 65536,
    "PPC_64K_PAGES": 65536,
    "PAGE_SIZE_16KB": 16384,
    "PAGE_SIZE_64KB": 65536,
}
_PAGES_OF_4K = ("x86_64", "i686", "s390x", "riscv64")


def configured_page_bytes(root: Root, machine: str, kernel: Kernel) -> int:
    """Return the size of a page by the kernel's configuration, for images whose headers do not tell it."""
    if machine in _PAGES_OF_4K:
        return 4096
    known = kernel_config.read(root, kernel.release, os.path.dirname(kernel.image), kernel.modules_dir)
    return next((size for option, size in _PAGES.items() if known is not None and known.is_on(option)), 4096)


def _kernel_head(root: Root, path: str) -> tuple[bytes, int]:
    """Return as much of a kernel's image as tells its size in memory, and the size of the file."""
    try:
        with open(root.host(path), "rb") as stream:
            return stream.read(kernel_memory.HEAD_BYTES), os.fstat(stream.fileno()).st_size
    except OSError as error:
        hint = "mount /boot, or build for an installed kernel"
        raise HostError(f"{path}: {error.strerror}", hint=hint) from error


def _drivers_of(targets: tuple[TargetFacts, ...]) -> tuple[str, ...]:
    """Return the drivers of the targets, those that are built in too."""
    found = [filesystem.type for target in targets if (filesystem := filesystem_of(target))]
    return (*found, *(driver for target in targets for driver in drivers_of(target)))


def _encrypts_memory(root: Root) -> bool:
    """Whether this machine encrypts its memory: asked for on the command line, or a guest that must."""
    line = probe.split_cmdline(root.read_text("/proc/cmdline") or "")
    flags = (root.read_text("/proc/cpuinfo") or "").partition("flags")[2].partition("\n")[0].split()
    return "mem_encrypt=on" in line or "tdx_guest" in flags


def _has_cma(root: Root) -> bool:
    """Whether the running kernel reserves from CMA: x86, Linux 6.17 (arch/x86/kernel/setup.c), CONFIG_CMA."""
    release = root.read_word(_OSRELEASE)
    if not release or tools.machine(root) != "x86_64" or version(release) < _CMA_SINCE:
        return False
    known = kernel_config.read(root, release, "/boot", f"/lib/modules/{release}")
    return known is not None and known.is_on("CMA")
