"""Whether a dump of this kernel can be read: a vmlinux with debug info, and where the kernel runs (KASLR)."""

from collections.abc import Iterator, Sequence

from kdump_initramfs.check.finding import Finding, State
from kdump_initramfs.host.kernel_config import KernelConfig
from kdump_initramfs.host.root import Root

# Where packages put it: Debian and Ubuntu, Fedora and RHEL, openSUSE, Arch, and a kernel built here (Gentoo).
_PLACES = (
    "/usr/lib/debug/boot/vmlinux-{release}",
    "/usr/lib/debug/boot/vmlinux-{release}.debug",
    "/usr/lib/debug/lib/modules/{release}/vmlinux",
    "/usr/lib/debug/usr/lib/modules/{release}/vmlinux",
    "/usr/lib/debug/usr/lib/modules/{release}/vmlinux.debug",
    "/usr/lib/debug/lib/modules/{release}/vmlinux.debug",
    "/lib/modules/{release}/vmlinux",
    "/lib/modules/{release}/build/vmlinux",
    "/usr/src/linux-{release}/vmlinux",
)
# ID of os-release(5) -> what brings it; the archives keep the packages, so that there is time until a crash.
_PACKAGES = {
    "debian": "apt install linux-image-{release}-dbg",
    "ubuntu": "apt install linux-image-{release}-dbgsym (with the archive ddebs.ubuntu.com)",
    "fedora": "dnf debuginfo-install kernel-core-{release}",
    "rhel": "dnf debuginfo-install kernel-core-{release}",
    "centos": "dnf debuginfo-install kernel-core-{release}",
    "almalinux": "dnf debuginfo-install kernel-core-{release}",
    "rocky": "dnf debuginfo-install kernel-core-{release}",
    "opensuse": "zypper install kernel-default-debuginfo",
    "suse": "zypper install kernel-default-debuginfo",
    "sles": "zypper install kernel-default-debuginfo",
}
_KEEP = "keep the vmlinux of the kernel's build: cp /usr/src/linux/vmlinux /lib/modules/{release}/vmlinux"


def find(root: Root, release: str) -> str:
    """Return the path of the vmlinux of a kernel, or ""."""
    return next((path for path in (place.format(release=release) for place in _PLACES) if root.is_file(path)), "")


def distribution(root: Root) -> tuple[str, ...]:
    """Return ID and ID_LIKE of os-release(5)."""
    text = root.read_text("/etc/os-release") or root.read_text("/usr/lib/os-release") or ""
    pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return tuple(word for key in ("ID", "ID_LIKE") for word in pairs.get(key, "").strip("\"'").split())


def findings(vmlinux: str, ids: Sequence[str], config: KernelConfig | None, release: str) -> Iterator[Finding]:
    yield _vmlinux(vmlinux, ids, release)
    if config is not None:
        yield _kaslr(config)


def _vmlinux(vmlinux: str, ids: Sequence[str], release: str) -> Finding:
    name, why = "debug info", "crash, drgn and gdb read a dump with the vmlinux of just that build"
    if vmlinux:
        return Finding(name=name, state=State.OK, seen=vmlinux, why=why)
    package = next((_PACKAGES[each] for each in ids if each in _PACKAGES), "")
    return Finding(
        name=name,
        # Packages of a distribution can be had afterwards, on another machine too; a build that was cleaned cannot.
        state=State.OK if package else State.WEAK,
        seen="not on this machine; the distribution has it" if package else "no vmlinux of this kernel",
        why=why,
        remedy=(package or _KEEP).format(release=release),
    )


def _kaslr(config: KernelConfig) -> Finding:
    on = config.is_on("RANDOMIZE_BASE")
    return Finding(
        name="KASLR",
        state=State.OK,
        seen="on" if on else "off",
        why="where the kernel runs is in the dump (KERNELOFFSET of VMCOREINFO), and makedumpfile, crash and drgn use "
        "it; gdb alone must be told. nokaslr is not needed, and takes away a protection",
    )
