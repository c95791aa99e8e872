"""The capture kernel's command line: the running one, less what hurts it, plus what it needs; rules with reasons.

Parameters are those of Documentation/admin-guide/kernel-parameters.txt; which of them matter to a capture kernel is
the experience of kdump-utils (gen-kdump-sysconfig.sh), kdump-tools and openSUSE kdump, and of the kernel's kdump.rst.
"""

import itertools
import logging
from collections.abc import Iterable, Sequence

from msgspec import Struct

from kdump_initramfs.errors import LoadError
from kdump_initramfs.image import parameters

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

_MEMORY = "takes the memory of the capture"
_DEBUGGER = "a debugger stops the kernel, and nobody is there who would let it go on"
_FAULTS = "breaks on purpose what the capture needs"
_TEST = "a test at boot takes time and memory, and may end in a panic"
_TRACING = "tracing takes memory and time, and nobody reads the trace"
_CPUS = "names processors that are not started here, or leaves none for the work"
_OTHER_INITRAMFS = "is addressed to another initramfs"
_SIGNATURES = "files of the image have no signatures in extended attributes, so that modules would be refused"

# A name that ends in "." or "/" removes every parameter that begins so, one that begins with "." that parameter of
# every module; one with a value, those whose value begins so.
# What is not here is kept, as it may be what makes the machine work: consoles, pci=, iommu settings, parameters of
# drivers, module_blacklist=, and lockdown=, under which /proc/vmcore can be read.
REMOVED = (
    # Parameters of modules, which those that are built in take from here.
    *(Rule(name, reason) for name, reason in parameters.DROPPED.items()),
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
    Rule("resume_offset", "as resume"),
    Rule("resumewait", "would wait for the device of a hibernated image"),
    Rule("resumedelay", "as resumewait"),
    Rule("quiet", "the capture should be seen on the console"),
    Rule("splash", "as quiet"),
    Rule("rd.", _OTHER_INITRAMFS),
    Rule("ostree", _OTHER_INITRAMFS),
    Rule("ignition.", _OTHER_INITRAMFS),
    Rule("luks.", _OTHER_INITRAMFS),
    Rule("netroot", _OTHER_INITRAMFS),
    Rule("nfsroot", "as root"),
    Rule("ip", "the kernel itself would wait for a network (Documentation/admin-guide/nfs/nfsroot.rst)"),
    Rule("nfsaddrs", "as ip"),
    Rule("rootwait", "would wait for a root file system that is not mounted"),
    Rule("rootdelay", "as rootwait"),
    Rule("noinitrd", "the image is an initramfs, and would not be unpacked"),
    Rule("initrdmem", "names another initramfs by its address"),
    Rule("bootconfig", "looks for more parameters, those of the crashed system, behind the initramfs"),
    Rule("retain_initrd", "keeps the packed image in memory once it is unpacked"),
    Rule("keepinitrd", "as retain_initrd"),
    Rule("prompt_ramdisk", "waits for a key"),
    Rule("systemd.", "there is no systemd in the image"),
    Rule("hugepages", _MEMORY),
    Rule("hugepagesz", "as hugepages"),
    Rule("default_hugepagesz", "as hugepages"),
    Rule("hugetlb_cma", "as hugepages"),
    Rule("cma", "as hugepages"),
    Rule("hugetlb_cma_only", "as hugepages"),
    Rule("cma_pernuma", "as hugepages"),
    Rule("numa_cma", "as hugepages"),
    Rule("transparent_hugepage_shmem", "the root file system would take huge pages for small files"),
    Rule("transparent_hugepage_tmpfs", "as transparent_hugepage_shmem"),
    Rule("thp_anon", "as hugepages"),
    Rule("thp_shmem", "as transparent_hugepage_shmem"),
    Rule("coherent_pool", _MEMORY),
    Rule("reserve_mem", _MEMORY),
    Rule("kho", "reserves memory for a handover to the next kernel"),
    Rule("kho_scratch", "as kho"),
    Rule("liveupdate", "as kho"),
    Rule(
        "kernelcore",
        "leaves the rest of the memory to movable pages, which the kernel and its drivers cannot use",
    ),
    Rule("movablecore", "as kernelcore"),
    Rule("movable_node", "as kernelcore"),
    Rule("highmem", "as kernelcore"),
    Rule("numa=fake", "splits the little memory that is there into nodes"),
    Rule("memtest", "writes over all memory that it may, takes time, and reserves what it thinks bad"),
    Rule("dhash_entries", "a table of a size that suits the whole machine takes the memory of the capture"),
    Rule("ihash_entries", "as dhash_entries"),
    Rule("mhash_entries", "as dhash_entries"),
    Rule("mphash_entries", "as dhash_entries"),
    Rule("thash_entries", "as dhash_entries"),
    Rule("tcpmhash_entries", "as dhash_entries"),
    Rule("rhash_entries", "as dhash_entries"),
    Rule("uhash_entries", "as dhash_entries"),
    Rule("profile", "its buffer takes the memory of the capture"),
    Rule("ramdisk_size", "of a RAM disk, which takes the memory of the capture"),
    Rule("swiotlb", "a size that suits the whole machine takes the memory of the capture"),
    Rule("log_buf_len", "a large log buffer takes the memory of the capture"),
    Rule("slub_debug", "debugging of the allocator takes the memory of the capture"),
    Rule("slab_debug", "as slub_debug, by its name since Linux 6.9"),
    Rule("page_owner", "as slub_debug"),
    Rule("early_page_ext", "as slub_debug"),
    Rule("page_poison", "writes over each page that is freed, which takes time"),
    Rule("debug_pagealloc", "maps each page by itself, which takes memory and time"),
    Rule("debug_guardpage_minorder", "keeps pages free on purpose"),
    Rule("debug_objects", "as slub_debug"),
    Rule("dma_debug_entries", "as slub_debug"),
    Rule("kmemleak=on", "as slub_debug"),
    Rule("kasan.fault=panic", "as panic_on_warn"),
    Rule("initcall_debug", "a line for each call takes long on a serial console"),
    Rule("boot_delay", "waits behind each line"),
    Rule("pause_on_oops", "waits where the capture should go on or end"),
    Rule("kgdbwait", _DEBUGGER),
    Rule("kgdboc", _DEBUGGER),
    Rule("kgdboc.", _DEBUGGER),
    Rule("kgdboc_earlycon", _DEBUGGER),
    Rule("ekgdboc", _DEBUGGER),
    Rule("kgdbdbgp", _DEBUGGER),
    Rule("kgdbcon", _DEBUGGER),
    Rule("kgdbts", _TEST),
    Rule("kgdbts.", _TEST),
    Rule("xmon", _DEBUGGER, ("ppc64le",)),
    Rule("ftrace", _TRACING),
    Rule("ftrace_boot_snapshot", _TRACING),
    Rule("ftrace_dump_on_oops", _TRACING),
    Rule("ftrace_filter", _TRACING),
    Rule("ftrace_notrace", _TRACING),
    Rule("ftrace_graph_filter", _TRACING),
    Rule("ftrace_graph_notrace", _TRACING),
    Rule("ftrace_graph_max_depth", _TRACING),
    Rule("alloc_snapshot", _TRACING),
    Rule("trace_buf_size", _TRACING),
    Rule("trace_clock", _TRACING),
    Rule("trace_event", _TRACING),
    Rule("trace_instance", _TRACING),
    Rule("trace_options", _TRACING),
    Rule("trace_trigger", _TRACING),
    Rule("kprobe_event", _TRACING),
    Rule("stacktrace", _TRACING),
    Rule("stacktrace_filter", _TRACING),
    Rule("tp_printk", "each event would be a line on a serial console, which may lock up (kernel-parameters.txt)"),
    Rule("traceoff_on_warning", _TRACING),
    Rule("kunit.", _TEST),
    Rule("kcsan.", _TEST),
    Rule("torture.", _TEST),
    Rule("rcutorture.", _TEST),
    Rule("locktorture.", _TEST),
    Rule("scftorture.", _TEST),
    Rule("rcuscale.", _TEST),
    Rule("refscale.", _TEST),
    Rule("clocksource_wdtest.", _TEST),
    Rule("rcupdate.rcu_self_test", _TEST),
    Rule("rcutree.gp_preinit_delay", _FAULTS),
    Rule("rcutree.gp_init_delay", _FAULTS),
    Rule("rcutree.gp_cleanup_delay", _FAULTS),
    Rule("test_suspend", "would suspend the machine"),
    Rule("failslab", _FAULTS),
    Rule("fail_page_alloc", _FAULTS),
    Rule("fail_make_request", _FAULTS),
    Rule("fail_io_timeout", _FAULTS),
    Rule("fail_usercopy", _FAULTS),
    Rule("fail_futex", _FAULTS),
    Rule("stress_slb", _FAULTS, ("ppc64le",)),
    Rule("stress_hpt", _FAULTS, ("ppc64le",)),
    Rule("mem", "a limit for the crashed kernel; the loader gives the capture kernel its own"),
    Rule("memmap", "as mem"),
    Rule("add_efi_memmap", "would give the capture kernel all memory of the machine, with what is to be saved", _X86),
    Rule("efi_fake_mem", "as mem"),
    Rule("sysctl.", "sets what suits the crashed system: huge pages, panics"),
    Rule("sysctl/", "as sysctl."),
    Rule("panic", "replaced by our own"),
    Rule("panic_on_warn", "a warning while capturing must not end the capture"),
    Rule("panic_on_oops", "as panic_on_warn"),
    Rule("panic_on_taint", "as panic_on_warn"),
    Rule("oops", "as panic_on_warn"),
    Rule("softlockup_panic", "as panic_on_warn; a slow disk looks like a lockup"),
    Rule("hardlockup_panic", "as softlockup_panic"),
    Rule("hung_task_panic", "as softlockup_panic"),
    Rule("unknown_nmi_panic", "as softlockup_panic"),
    Rule("nmi_watchdog=panic", "as softlockup_panic"),
    Rule("smp.panic_on_ipistall", "as softlockup_panic"),
    Rule("workqueue.panic_on_stall", "as softlockup_panic"),
    Rule("kmsan.panic", "as panic_on_warn"),
    Rule("panic_print", "a panic of the capture kernel shall end in a reboot, not in a report of all tasks"),
    Rule("vmpanic", "a panic of the capture kernel shall end in a reboot, not in a command of z/VM", ("s390x",)),
    Rule("ima_policy", _SIGNATURES),
    Rule("ima_appraise", _SIGNATURES),
    Rule("ima_appraise_tcb", _SIGNATURES),
    Rule("ima_tcb", "measures each file, and keeps a list of them in memory"),
    Rule("evm", _SIGNATURES),
    Rule("isolcpus", _CPUS),
    Rule("nohz_full", _CPUS),
    Rule("rcu_nocbs", _CPUS),
    Rule("irqaffinity", _CPUS),
    Rule("possible_cpus", "areas for processors that are not started take memory"),
    Rule("additional_cpus", "as possible_cpus"),
    Rule("maxcpus", "replaced by our own"),
    Rule("nr_cpus", "replaced by our own"),
    Rule("elfcorehdr", "kexec computes it"),
    Rule("dmcryptkeys", "the kernel adds it where it hands volume keys over (kernel/crash_dump_dm_crypt.c)"),
    Rule("disable_cpu_apicid", "replaced by our own"),
    Rule("fadump", "the firmware's own way to dump, which reserves memory once more", ("ppc64le",)),
    Rule("fadump_reserve_mem", "as fadump", ("ppc64le",)),
    Rule("vmcp_cma", _MEMORY, ("s390x",)),
    Rule("prot_virt", _MEMORY, ("s390x",)),
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
    name, value = _name(parameter), parameter.partition("=")[2].strip('"')
    for rule in rules:
        pattern, wanted = _name(rule.parameter), rule.parameter.partition("=")[2]
        if value.startswith(wanted) and (
            name == pattern
            or (pattern.endswith((".", "/")) and name.startswith(pattern))
            or (pattern.startswith(".") and name.endswith(pattern))
        ):
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
