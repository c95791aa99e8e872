"""The capture kernel's command line: the running one, less what hurts it, plus what it needs; rules with reasons.

Parameters are those of Documentation/admin-guide/kernel-parameters.txt; which of them matter to a capture kernel is
the experience of kdump-utils (gen-kdump-sysconfig.sh), kdump-tools and openSUSE kdump, and of the kernel's kdump.rst.
"""

import itertools
import logging
from collections.abc import Iterable, Sequence

from msgspec import Struct

from kdump_initramfs.errors import LoadError

logger = logging.getLogger(__name__)


class Rule(Struct, frozen=True):
    """One parameter that is removed, or appended, and why; for all machines or for some (`uname -m`)."""

    parameter: str
    reason: str
    machines: tuple[str, ...] = ()

    def applies_to(self, machine: str) -> bool:
        return not self.machines or machine in self.machines


_X86 = ("x86_64", "i686")
_ARM_X86 = ("x86_64", "i686", "aarch64")

# A name that ends in "." removes every parameter that begins so.
REMOVED = (
    Rule("nomodule", "the drivers of the dump target are modules"),
    Rule("crashkernel", "would reserve memory once more, out of the little there is"),
    Rule("BOOT_IMAGE", "names the image that the boot loader loaded, which this one is not"),
    Rule("initrd", "names the boot loader's initramfs"),
    Rule("root", "the capture environment mounts the dump target and nothing else"),
    Rule("rootflags", "as root"),
    Rule("rootfstype", "as root"),
    Rule("ro", "as root"),
    Rule("rw", "as root"),
    Rule("init", "would start a program of the system that crashed"),
    Rule("rdinit", "would start another program than the image's /init"),
    Rule("resume", "a hibernated image must not be resumed over a crash"),
    Rule("quiet", "the capture should be seen on the console"),
    Rule("splash", "as quiet"),
    Rule("rd.", "is addressed to another initramfs"),
    Rule("systemd.", "there is no systemd in the image"),
    Rule("hugepages", "takes the memory of the capture"),
    Rule("hugepagesz", "as hugepages"),
    Rule("default_hugepagesz", "as hugepages"),
    Rule("hugetlb_cma", "as hugepages"),
    Rule("cma", "as hugepages"),
    Rule("swiotlb", "a size that suits the whole machine takes the memory of the capture"),
    Rule("log_buf_len", "a large log buffer takes the memory of the capture"),
    Rule("slub_debug", "debugging of the allocator takes the memory of the capture"),
    Rule("page_owner", "as slub_debug"),
    Rule("mem", "a limit for the crashed kernel; the loader gives the capture kernel its own"),
    Rule("memmap", "as mem"),
    Rule("panic", "replaced by our own"),
    Rule("panic_on_warn", "a warning while capturing must not end the capture"),
    Rule("panic_on_oops", "as panic_on_warn"),
    Rule("panic_on_taint", "as panic_on_warn"),
    Rule("oops", "as panic_on_warn"),
    Rule("softlockup_panic", "as panic_on_warn; a slow disk looks like a lockup"),
    Rule("hardlockup_panic", "as softlockup_panic"),
    Rule("hung_task_panic", "as softlockup_panic"),
    Rule("unknown_nmi_panic", "as softlockup_panic"),
    Rule("maxcpus", "replaced by our own"),
    Rule("nr_cpus", "replaced by our own"),
    Rule("elfcorehdr", "kexec computes it"),
    Rule("dmcryptkeys", "the kernel adds it where it hands volume keys over (kernel/crash_dump_dm_crypt.c)"),
    Rule("disable_cpu_apicid", "replaced by our own"),
    Rule("vmcp_cma", "takes the memory of the capture", ("s390x",)),
    Rule("prot_virt", "takes the memory of the capture", ("s390x",)),
    Rule("zfcp.allow_lun_scan", "would scan every LUN of the fabric", ("s390x",)),
)

APPENDED = (
    Rule("reset_devices", "devices were not shut down: drivers reset them first", (*_ARM_X86, "ppc64le", "riscv64")),
    Rule("irqpoll", "interrupts may be lost or shared with a device whose driver is not here", (*_X86, "ppc64le")),
    Rule("panic=10", "a panic of the capture kernel ends in a reboot, not in a halt"),
    Rule("cgroup_disable=memory", "saves memory"),
    Rule("transparent_hugepage=never", "saves memory"),
    Rule("numa=off", "saves memory", ("x86_64", "i686", "ppc64le", "s390x")),
    Rule("cma=0", "saves memory", (*_ARM_X86, "s390x")),
    Rule("hugetlb_cma=0", "saves memory"),
    Rule("kfence.sample_interval=0", "saves memory"),
    Rule("novmcoredd", "device dumps would be collected in the memory of the capture"),
    Rule("initramfs_options=size=90%", "lets the root file system use more than half of the memory (Linux 6.18)"),
    Rule("mce=off", "a machine check that is pending from the crash must not end the capture", _X86),
    Rule("hest_disable", "as mce=off, for errors that the firmware reports", _X86),
    Rule("acpi_no_memhotplug", "memory devices would be added outside of the reservation", _X86),
    Rule("nokaslr", "the reservation is small; moving the kernel in it gains nothing and may fail", _X86),
    Rule("noirqdistrib", "interrupts must go to the one CPU that runs", ("ppc64le",)),
    Rule("kvm_cma_resv_ratio=0", "saves memory", ("ppc64le",)),
    Rule("swiotlb=noforce", "saves memory", ("aarch64",)),
    Rule("vmcp_cma=0", "saves memory", ("s390x",)),
)

# COMMAND_LINE_SIZE, the terminating NUL included: arch/*/include/uapi/asm/setup.h, arch/s390/include/asm/setup.h.
MAX_BYTES = {"x86_64": 2048, "i686": 2048, "aarch64": 2048, "ppc64le": 2048, "riscv64": 1024, "s390x": 4096}
# What kexec appends itself: elfcorehdr=, with kexec_load up to some memmap= or mem=, with kexec_file_load dmcryptkeys=.
_KEXEC_BYTES = 64


def capture(
    running: Iterable[str],
    *,
    machine: str,
    cpus: int = 1,
    boot_apicid: int | None = None,
    remove: Sequence[str] = (),
    append: Sequence[str] = (),
) -> str:
    """Return the command line; raise LoadError where it is longer than this machine's kernels can take.

    What follows `--` is for the init of the system that crashed, not for a kernel, and is left out.
    A parameter that is appended twice (by a rule and by `append`) is there twice, ours first: the kernel takes the
    last one.
    """
    removed = [*(rule for rule in REMOVED if rule.applies_to(machine)), *(Rule(name, "configured") for name in remove)]
    for_kernel = itertools.takewhile(lambda parameter: parameter != "--", running)
    kept = [parameter for parameter in for_kernel if not _matches(parameter, removed)]
    added = [rule.parameter for rule in APPENDED if rule.applies_to(machine)]
    line = " ".join([*kept, *added, *_processors(machine, cpus, boot_apicid), *append])
    limit = MAX_BYTES.get(machine, min(MAX_BYTES.values()))
    length = len(line.encode("utf-8", "surrogateescape")) + _KEXEC_BYTES
    if length >= limit:
        raise LoadError(
            f"command line: {length} bytes, but a {machine} kernel takes less than {limit}",
            hint="remove parameters that the capture kernel does not need with kernel.remove",
        )
    return line


def _matches(parameter: str, rules: Iterable[Rule]) -> bool:
    name = _name(parameter)
    for rule in rules:
        pattern = _name(rule.parameter)
        if name == pattern or (pattern.endswith(".") and name.startswith(pattern)):
            logger.debug("removing %s from the command line: %s", parameter, rule.reason)
            return True
    return False


def _name(parameter: str) -> str:
    """Return the name of a parameter; the kernel takes - and _ for the same (parameq(), kernel/params.c)."""
    return parameter.partition("=")[0].strip('"').replace("-", "_")


def _processors(machine: str, cpus: int, boot_apicid: int | None) -> list[str]:
    """Return what limits the processors; on x86 the one that booted must not be started by another (kdump.rst)."""
    words = [f"nr_cpus={cpus}"]
    if cpus > 1 and machine in _X86 and boot_apicid is not None:
        words.append(f"disable_cpu_apicid={boot_apicid}")
    return words
