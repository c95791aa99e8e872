"""What the kernel must have been built with: options of its configuration, each with its reason.

Documentation/admin-guide/kdump/kdump.rst ("System kernel config options", "Dump-capture kernel config options"), and
what the capture environment calls.
"""

from collections.abc import Iterator

from msgspec import Struct

from kdump_initramfs.check.finding import Finding, State
from kdump_initramfs.host.kernel_config import KernelConfig
from kdump_initramfs.model import ImageRecord


class Option(Struct, frozen=True):
    # Any of them will do.
    names: tuple[str, ...]
    # What it is without.
    missing: State
    why: str
    # `uname -m` of those that need it; all, if none.
    machines: tuple[str, ...] = ()


_X86 = ("x86_64", "i686")

OPTIONS = (
    Option(("KEXEC", "KEXEC_FILE"), State.BROKEN, "loads the capture kernel"),
    Option(
        ("KEXEC_FILE",),
        State.WEAK,
        "loads a capture kernel under Secure Boot and lockdown",
        ("x86_64", "aarch64", "ppc64le", "s390x", "riscv64"),
    ),
    Option(("KEXEC_CORE",), State.BROKEN, "is what both system calls stand on"),
    Option(("CRASH_DUMP",), State.BROKEN, "starts the capture kernel at a panic, and lets it see the crashed memory"),
    Option(("PROC_VMCORE",), State.BROKEN, "offers the crashed memory as /proc/vmcore"),
    Option(
        ("RELOCATABLE",),
        State.BROKEN,
        "lets the same kernel run in the reserved memory",
        (*_X86, "ppc64le", "ppc64", "riscv64"),
    ),
    Option(("BLK_DEV_INITRD",), State.BROKEN, "unpacks the capture image"),
    Option(("SYSFS",), State.BROKEN, "tells devices, and what is reserved and loaded"),
    Option(("PROC_FS",), State.BROKEN, "has /proc/vmcore and the command line"),
    Option(("DEVTMPFS",), State.BROKEN, "has the nodes of devices in the capture image, which has no udev"),
    Option(("BINFMT_ELF",), State.BROKEN, "runs programs"),
    Option(("BINFMT_SCRIPT",), State.BROKEN, "runs /init, which is a script"),
    Option(
        ("TMPFS",), State.WEAK, "limits the root file system, so that a full one fails instead of taking all memory"
    ),
    Option(("PRINTK",), State.WEAK, "is the log that is saved first"),
    Option(("MAGIC_SYSRQ",), State.WEAK, "crashes on demand, and reboots where everything else hangs"),
    Option(("PROC_KCORE",), State.WEAK, "lets crash, drgn and `makedumpfile --mem-usage` look at the running kernel"),
    Option(("DEBUG_INFO",), State.WEAK, "a vmlinux with debug info is what a dump is read with"),
    Option(
        ("DEBUG_INFO_BTF",),
        State.UNKNOWN,
        "type information inside of the kernel, which some tools read where no debug info is at hand",
    ),
)

# Where nothing can be said without the image: what the record of the image asks for.
_INITRAMFS = {"gzip": "RD_GZIP", "xz": "RD_XZ", "zstd": "RD_ZSTD"}
# "CONFIG_PHYSICAL_START might need to be greater than 2 MiB, try 16 MiB" (Gentoo wiki, Kernel Crash Dumps).
_PHYSICAL_START = 0x1000000


def findings(config: KernelConfig | None, machine: str, release: str, image: ImageRecord | None) -> Iterator[Finding]:
    """Yield what the configuration says of every option that counts on this machine."""
    if config is None:
        yield _unknown(release)
        return
    for option in OPTIONS:
        if not option.machines or machine in option.machines:
            yield _option(config, option)
    if machine in _X86:
        yield from _physical_start(config)
    if image is not None:
        yield from _of_image(config, image)


def _unknown(release: str) -> Finding:
    return Finding(
        name="kernel configuration",
        state=State.UNKNOWN,
        seen=f"none for kernel {release}",
        why="whether the kernel can be loaded, and can capture, shows in it before the crash",
        remedy=f"copy it to /boot/config-{release}",
    )


def _option(config: KernelConfig, option: Option) -> Finding:
    name = f"CONFIG_{option.names[0]}"
    found = next((each for each in option.names if config.is_on(each)), "")
    if found:
        seen = config.options[found] if found == option.names[0] else f"CONFIG_{found}={config.options[found]}"
        return Finding(name=name, state=State.OK, seen=seen, why=option.why)
    return Finding(
        name=name,
        state=option.missing,
        seen=f"not set in {config.path}",
        why=option.why,
        remedy="" if option.missing is State.UNKNOWN else _set(name),
    )


def _set(name: str) -> str:
    return f"build the kernel anew with {name}=y, or take one of the distribution"


def _physical_start(config: KernelConfig) -> Iterator[Finding]:
    value = config.options.get("PHYSICAL_START", "")
    if not value:
        return
    low = int(value, 0) < _PHYSICAL_START
    yield Finding(
        name="CONFIG_PHYSICAL_START",
        state=State.WEAK if low else State.OK,
        seen=value,
        why="firmware of some boards overwrites low memory while the capture kernel starts; it is where an x86 kernel "
        "without RELOCATABLE runs, and the least place of one with it",
        remedy="build the kernel anew with CONFIG_PHYSICAL_START=0x1000000" if low else "",
    )


def _of_image(config: KernelConfig, image: ImageRecord) -> Iterator[Finding]:
    if image.compression in _INITRAMFS:
        why = f"unpacks the capture image, which is {image.compression}"
        yield _option(config, Option((_INITRAMFS[image.compression],), State.BROKEN, why))
    if image.manifest.volume_keys:
        yield _option(config, Option(("CRASH_DM_CRYPT",), State.BROKEN, "hands over the volume key of the dump target"))
