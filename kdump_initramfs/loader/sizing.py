"""How much memory to reserve: crashkernel= for one kernel, one image and one machine, every term with its reason.

The terms that are called measured come from captures on Debian 12 (2026-11-24): the kernel's own account of its memory
at start, and MemAvailable at its lowest, for every stack of docs/STORAGE.md.
"""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from kdump_initramfs.formats.kernel_memory import KernelMemory
from kdump_initramfs.formats.release import version
from kdump_initramfs.loader.minimum import Minimum
from kdump_initramfs.model import SCHEMA
from kdump_initramfs.storage import LogicalVolume, TargetFacts, stack_of

_MIB = 1 << 20
# The kernel takes any size; a round one can be compared with others.
_ROUND_MIB = 8
MARGIN_MIB = 16


class Term(Struct, frozen=True, kw_only=True):
    """A part of what is needed: while the image is unpacked, and while the dump is saved."""

    name: str
    unpacking_bytes: int
    saving_bytes: int
    reason: str


class Needs(Struct, frozen=True, kw_only=True):
    """What the size depends on."""

    machine: str
    release: str
    # None where the image does not tell.
    kernel: KernelMemory | None
    kernel_file_bytes: int
    packed_bytes: int
    unpacked_bytes: int
    targets: tuple[TargetFacts, ...] = ()
    # Whether volume keys are handed over, so that none is derived after the crash.
    has_volume_keys: bool = False
    cpus: int = 1
    memory_bytes: int = 0
    # Drivers that are loaded, and whether they are those of any machine.
    drivers: tuple[str, ...] = ()
    is_generic: bool = False
    # All memory of the machine is encrypted: devices then need a buffer that is not (SME, SEV, TDX).
    encrypts_memory: bool = False
    # The running kernel can reserve memory from CMA.
    has_cma: bool = False
    # Of the capture kernel.
    page_bytes: int = 4096


class Estimate(Struct, frozen=True, kw_only=True):
    schema: int = SCHEMA
    kernel_release: str
    terms: tuple[Term, ...]
    # The larger of both phases, without margin; and what the size limit of the root file system asks for.
    needed_bytes: int
    root_limit_bytes: int
    margin_bytes: int
    # The estimate, rounded; and what a rehearsal measured, with the margin (0 if none did).
    estimated_mib: int
    measured_mib: int
    # The larger of both, and which that is.
    recommended_mib: int
    chosen: str
    # Words for the kernel's command line: as it is, and where the machine has too little memory below 4 GiB for that.
    plain: str
    high: str = ""
    # Where as little as possible shall be taken from the running system; "" where the running kernel cannot.
    cma: str = ""


def estimate(needs: Needs, measured: Minimum | None = None) -> Estimate:
    """Return what to reserve: the estimate, or what was measured with the same margin if that is more."""
    terms = tuple(_terms(needs))
    needed = max(sum(term.unpacking_bytes for term in terms), sum(term.saving_bytes for term in terms))
    root_limit = _root_limit(needs, terms)
    estimated = _round(max(needed + MARGIN_MIB * _MIB, root_limit))
    margin = MARGIN_MIB * _MIB
    from_measured = _round(measured.mib * _MIB + margin) if measured else 0
    size = max(estimated, from_measured)
    return Estimate(
        kernel_release=needs.release,
        terms=terms,
        needed_bytes=needed,
        root_limit_bytes=root_limit,
        margin_bytes=margin,
        estimated_mib=estimated,
        measured_mib=from_measured,
        recommended_mib=size,
        chosen="measured" if from_measured > estimated else "estimated",
        plain=f"crashkernel={size}M",
        high=_high(needs.machine, size),
        cma=_cma(needs, terms, size),
    )


def _round(size_bytes: int) -> int:
    """Return MiB, rounded up."""
    return -(-size_bytes // (_ROUND_MIB * _MIB)) * _ROUND_MIB


# --- terms -------------------------------------------------------------------------------------------------------

# Where the image does not tell: how much larger than its file a kernel is (crashkernel_estimate of kdump-tools 1.10).
_FILE_FACTORS = {"x86_64": 6, "i686": 6, "s390x": 6, "ppc64le": 2}
_OTHER_FACTOR = 4

# Struct pages are mapped by huge pages of 2 MiB, one for each section of 128 MiB that has memory (SECTION_SIZE_BITS,
# arch/x86/include/asm/sparsemem.h and arch/arm64/include/asm/sparsemem.h); on x86 that is the lowest one too.
_SECTION_BYTES = 128 * _MIB
_BY_SECTIONS = {"x86_64": 1, "aarch64": 0}
# Elsewhere, and with larger pages, 64 bytes for each page; arm64 has sections of 512 MiB where pages are of 64 KiB.
_PAGE_STRUCT_BYTES = 64
_SMALL_PAGE_BYTES = 4096
_LARGE_PAGE_BYTES = 65536
# What kdump-utils adds where pages are of 64 KiB (kdump_get_arch_recommend_crashkernel of kdump-lib.sh).
_LARGE_PAGES_MIB = 100


def _terms(needs: Needs) -> Iterable[Term]:
    yield _kernel(needs)
    yield _both("core header", 1, "what kexec puts into the reservation besides: core header, purgatory, low memory")
    yield _pages(needs)
    yield from _image(needs)
    yield Term(
        name="kernel at work",
        unpacking_bytes=7 * _MIB,
        saving_bytes=11 * _MIB,
        reason="slab, threads, page cache, the pages that it keeps free; the programs of the image, makedumpfile with "
        "them: measured",
    )
    yield _processors(needs.cpus)
    yield from _large_pages(needs)
    yield from _bitmap(needs)
    yield from _drivers(needs)
    yield from _keys(needs)
    if needs.encrypts_memory:
        yield _both("unencrypted buffer", 64, "devices need memory that is not encrypted: swiotlb, 64 MiB by default")


def _both(name: str, mib: int, reason: str) -> Term:
    return Term(name=name, unpacking_bytes=mib * _MIB, saving_bytes=mib * _MIB, reason=reason)


def _kernel(needs: Needs) -> Term:
    if needs.kernel is not None:
        size, reason = needs.kernel.bytes, f"code, data and bss, by {needs.kernel.source}"
    else:
        factor = _FILE_FACTORS.get(needs.machine, _OTHER_FACTOR)
        size, reason = needs.kernel_file_bytes * factor, f"{factor} times its file, since the image does not tell"
    return Term(name="kernel", unpacking_bytes=size, saving_bytes=size, reason=reason)


def _processors(cpus: int) -> Term:
    reason = "66 pages for the areas of a CPU, and page tables: measured"
    if cpus > 1:
        reason += "; 5 MiB for each CPU beyond the first (crashkernel_estimate of kdump-tools 1.10)"
    return _both("per-CPU areas", 1 + 5 * (cpus - 1), reason)


def _pages(needs: Needs) -> Term:
    """Return what describes the pages of the reservation, whose size it is part of."""
    size = (needs.kernel.bytes if needs.kernel else 64 * _MIB) + needs.packed_bytes + needs.unpacked_bytes + 32 * _MIB
    if needs.machine in _BY_SECTIONS and needs.page_bytes == _SMALL_PAGE_BYTES:
        sections = -(-size // _SECTION_BYTES) + _BY_SECTIONS[needs.machine]
        return _both("page structs", 2 * sections, f"2 MiB for each of {sections} sections of 128 MiB")
    section = 4 * _SECTION_BYTES if needs.page_bytes == _LARGE_PAGE_BYTES else _SECTION_BYTES
    whole = -(-size // section) * section if needs.machine in _BY_SECTIONS else size
    structs = whole // needs.page_bytes * _PAGE_STRUCT_BYTES
    return _both("page structs", -(-structs // _MIB), f"64 bytes for each page of {needs.page_bytes >> 10} KiB")


def _large_pages(needs: Needs) -> Iterable[Term]:
    """Return what stacks, slabs, page tables and small files take where a page is a large one."""
    if needs.page_bytes > _SMALL_PAGE_BYTES:
        more = needs.page_bytes - _SMALL_PAGE_BYTES
        mib = -(-_LARGE_PAGES_MIB * more // (_LARGE_PAGE_BYTES - _SMALL_PAGE_BYTES))
        reason = (
            f"stacks, slabs, page tables and files take whole pages, of {needs.page_bytes >> 10} KiB: in proportion"
        )
        yield _both("large pages", mib, f"{reason} to what kdump-utils adds for 64 KiB")


def _image(needs: Needs) -> Iterable[Term]:
    yield Term(
        name="image, packed",
        unpacking_bytes=needs.packed_bytes,
        saving_bytes=0,
        reason="is there until it is unpacked",
    )
    yield Term(
        name="image, unpacked",
        # Files take whole pages, and something for each.
        unpacking_bytes=needs.unpacked_bytes * 102 // 100,
        saving_bytes=needs.unpacked_bytes * 102 // 100,
        reason="the root file system is memory; what is deleted of modules goes to the modules that were loaded",
    )


def _bitmap(needs: Needs) -> Iterable[Term]:
    """Return makedumpfile's bitmaps: 2 bits for each page of the crashed kernel, at most 32 MiB at a time."""
    size = min(needs.memory_bytes // needs.page_bytes // 4, 32 * _MIB)
    if size >= _MIB:
        reason = "2 bits for each page of the machine, in cycles of at most 32 MiB (as openSUSE's kdump has it)"
        yield Term(name="makedumpfile's bitmap", unpacking_bytes=0, saving_bytes=size, reason=reason)


# --- drivers -----------------------------------------------------------------------------------------------------


class DriverClass(Struct, frozen=True):
    name: str
    drivers: tuple[str, ...]
    mib: int
    reason: str


_MEASURED = "measured (docs/STORAGE.md)"
_LIMITED = "queues are limited by the driver in a capture kernel (reset_devices), yet of some MiB"

DRIVERS = (
    DriverClass("ext4", ("ext4",), 2, _MEASURED),
    DriverClass("xfs", ("xfs",), 6, _MEASURED),
    DriverClass("btrfs", ("btrfs",), 8, _MEASURED),
    DriverClass("other file systems", ("f2fs", "exfat", "vfat", "fuse", "9p"), 2, _MEASURED),
    DriverClass("device-mapper", ("dm_mod",), 1, _MEASURED),
    DriverClass("thin and cached volumes", ("dm_thin_pool", "dm_cache"), 12, _MEASURED),
    DriverClass("parity of arrays", ("raid456", "dm_raid"), 4, _MEASURED),
    DriverClass("other arrays", ("raid0", "raid1", "raid10"), 2, _MEASURED),
    DriverClass("encryption", ("dm_crypt",), 2, "buffers of dm-crypt"),
    DriverClass("NVMe", ("nvme",), 2, "one queue for each CPU, and one for administration"),
    DriverClass("SATA", ("ahci",), 1, "command tables of each port"),
    DriverClass(
        "host bus adapters",
        ("megaraid_sas", "mpt3sas", "hpsa", "aacraid", "smartpqi", "lpfc", "qla2xxx", "mpi3mr"),
        16,
        _LIMITED,
    ),
    DriverClass("Mellanox network cards", ("mlx5_core",), 150, "what kdump-utils adds (kdump-lib.sh)"),
)
# liblvm locks memory that it might need (activation/reserved_memory of lvm.conf(5), 8 MiB), and is the largest program.
_LVM_MIB = 8


def _drivers(needs: Needs) -> Iterable[Term]:
    loaded = set(needs.drivers)
    for each in DRIVERS:
        if loaded & set(each.drivers):
            yield _saving(each.name, each.mib, f"{', '.join(sorted(loaded & set(each.drivers)))}: {each.reason}")
    if any(isinstance(device, LogicalVolume) for target in needs.targets for device in stack_of(target)):
        yield _saving("LVM", _LVM_MIB, f"lvm(8) and the memory that it locks: {_MEASURED}")
    if needs.is_generic:
        yield _saving("generic image", 4, f"drivers of whatever devices are there: {_MEASURED}")


def _saving(name: str, mib: int, reason: str) -> Term:
    return Term(name=name, unpacking_bytes=0, saving_bytes=mib * _MIB, reason=reason)


def _keys(needs: Needs) -> Iterable[Term]:
    """Return the memory of the key derivation of LUKS, one device after the other."""
    headers = (device.content.luks for target in needs.targets for device in stack_of(target))
    kib = max((header.kdf_kib for header in headers if header), default=0)
    if kib and not needs.has_volume_keys:
        reason = "Argon2, as the LUKS header says; `cryptsetup luksAddKey --pbkdf pbkdf2` makes a key that takes none"
        yield Term(name="key of LUKS", unpacking_bytes=0, saving_bytes=kib << 10, reason=reason)


# --- the root file system ----------------------------------------------------------------------------------------

# Where initramfs_options=size=90% is understood, which loader/cmdline.py appends.
_OPTIONS_SINCE = (6, 18)


def _root_limit(needs: Needs, terms: Sequence[Term]) -> int:
    """Return what lets the image be unpacked: the root file system takes at most half of what the kernel leaves.

    It is a tmpfs, whose limit is computed while the packed image lies there (shmem_default_max_blocks(), mm/shmem.c).
    """
    kernel = sum(term.unpacking_bytes for term in terms if term.name in ("kernel", "core header", "page structs"))
    unpacked = needs.unpacked_bytes * 102 // 100
    share = unpacked * 10 // 9 if version(needs.release) >= _OPTIONS_SINCE else unpacked * 2
    return kernel + needs.packed_bytes + share


# --- other places ------------------------------------------------------------------------------------------------

# What the memory below 4 GiB is for where the rest is above: swiotlb of 64 MiB and 8 more (crash_low_size_default(),
# kernel/crash_reserve.c; it takes 256 MiB on x86 if not told), and what arm64 takes by default.
_LOW_MIB = {"x86_64": 72, "aarch64": 128}


def _high(machine: str, size_mib: int) -> str:
    low = _LOW_MIB.get(machine)
    return f"crashkernel={size_mib}M,high crashkernel={low}M,low" if low else ""


def _cma(needs: Needs, terms: Sequence[Term], size_mib: int) -> str:
    """Return the words that reserve only what must lie still, and the rest from CMA (Linux 6.17)."""
    if not needs.has_cma:
        return ""
    still = needs.kernel.unpacking_bytes if needs.kernel else terms[0].unpacking_bytes
    fixed = _round(still + needs.packed_bytes + MARGIN_MIB * _MIB)
    rest = max(size_mib - fixed, 0)
    return f"crashkernel={fixed}M crashkernel={rest}M,cma" if rest else ""


# --- for people --------------------------------------------------------------------------------------------------


def lines(found: Estimate) -> Iterator[str]:
    """Yield the estimate as a table: both phases in MiB, and the reason of every term."""
    yield f"{'unpacking':>9}  {'saving':>7}  MiB, for kernel {found.kernel_release}"
    for term in found.terms:
        unpacking, saving = term.unpacking_bytes / _MIB, term.saving_bytes / _MIB
        yield f"{unpacking:9.1f}  {saving:7.1f}  {term.name}: {term.reason}"
    unpacking = sum(term.unpacking_bytes for term in found.terms) / _MIB
    saving = sum(term.saving_bytes for term in found.terms) / _MIB
    yield f"{unpacking:9.1f}  {saving:7.1f}  together; {found.margin_bytes // _MIB} MiB of margin are added"
    yield f"{found.root_limit_bytes / _MIB:9.1f}           at least, so that the root file system can hold the image"
    measured = f"{found.measured_mib} MiB measured" if found.measured_mib else "not measured: rehearse --find-minimum"
    yield f"{found.estimated_mib} MiB estimated, {measured}"
    yield found.plain
    if found.high:
        yield f"  or, where too little is free below 4 GiB: {found.high}"
    if found.cma:
        yield f"  or, where little can be spared (user pages are not in the dump then): {found.cma}"
