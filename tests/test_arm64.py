"""What is different on arm64: options that kexec lacks, the size of pages, processors that cannot be turned off."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_initramfs import config
from kdump_initramfs.check import diagnosis, processors
from kdump_initramfs.check.finding import State
from kdump_initramfs.errors import ConfigError
from kdump_initramfs.formats import kernel_memory
from kdump_initramfs.host import tools
from kdump_initramfs.host.root import Root
from kdump_initramfs.loader import needs, sizing, syscall
from kdump_initramfs.loader.sizing import Needs
from kdump_initramfs.model import Kernel
from tests import kernelmaker, trees

_MIB = 1 << 20
OTHERS = ("aarch64", "ppc64le", "s390x", "riscv64", "loongarch64")


def settings(*overrides: str) -> config.Config:
    return config.load(root="/no/such", overrides=overrides)


# --- kexec -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", OTHERS)
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("kexec.reset_vga=true", "kexec.reset_vga: kexec resets the screen on i686, x86_64 alone, and this machine is"),
        ("kexec.core_headers=elf32", "kexec.core_headers: kexec writes ELF32 headers on i686, x86_64 alone"),
        ("kexec.extra_args=['--reset-vga']", "kexec.extra_args: kexec has --reset-vga on i686, x86_64 alone"),
        ("kexec.extra_args=['--debug', '--elf64-core-headers']", "kexec.extra_args: kexec has --elf64-core-headers on"),
    ],
)
def test_options_that_kexec_has_on_x86_alone_are_refused(
    machine: str, override: str, said: str, sysroot: Callable[..., Root]
) -> None:
    with pytest.raises(ConfigError, match=rf"^{said}") as caught:
        syscall.choose(sysroot({}), settings(override), machine=machine)
    assert caught.value.hint
    for x86 in ("x86_64", "i686", ""):
        syscall.check_options(settings(override), x86)


@pytest.mark.parametrize("machine", OTHERS)
def test_elf64_headers_are_what_kexec_writes_there_without_being_told(
    machine: str, sysroot: Callable[..., Root]
) -> None:
    wanted = settings("kexec.core_headers=elf64")
    assert syscall.extra_options(wanted, machine) == ()
    assert syscall.choose(sysroot({}), wanted, machine=machine).option == "-a"
    both = settings("kexec.core_headers=elf64", "kexec.syscall=file")
    assert syscall.choose(sysroot({}), both, machine=machine).option == "-s"
    assert syscall.extra_options(wanted, "x86_64") == ("--elf64-core-headers",)


def test_check_says_that_kexec_has_no_such_option(host_root: Callable[[str], Root]) -> None:
    root = host_root("alpine-arm64")
    release = root.read_word("/proc/sys/kernel/osrelease")
    assert tools.machine(root) == "aarch64"
    for override, expected in (("kexec.reset_vga=true", [State.BROKEN]), ("kexec.core_headers=elf64", [])):
        found = diagnosis.read(root, settings(override), f"/no/initrd-{release}.img")
        assert [each.state for each in found.findings if each.name == "options of kexec"] == expected


# --- pages -------------------------------------------------------------------------------------------------------

# Bits 1 and 2 of the flags; bit 0 is the order of bytes, bit 3 where the kernel may lie.
FLAGS = {0b1010: 4096, 0b0100: 16384, 0b1100: 16384, 0b0110: 65536, 0b1110: 65536, 0b1111: 65536, 0b1000: 0, 0: 0}


@pytest.mark.parametrize("flags", FLAGS)
def test_size_of_a_page_is_read_from_the_header_of_an_image(flags: int) -> None:
    image = kernelmaker.image("aarch64", kernelmaker.kernel("6.1"), flags=flags)
    forms = [image, kernelmaker.zboot("aarch64", "gzip", image), kernelmaker.zboot("aarch64", "zstd", image)]
    for form in (*forms, kernelmaker.pack("gzip", image), kernelmaker.pack("xz", image)):
        found = kernel_memory.read(form)
        assert found is not None
        assert found.page_bytes == FLAGS[flags]


@pytest.mark.parametrize(
    "image", [kernelmaker.image("riscv64", flags=0b110), kernelmaker.bzimage("6.1", kind="gzip", content=bytes(99))]
)
def test_headers_of_others_tell_no_size_of_a_page(image: bytes) -> None:
    content = bytearray(image)
    content[0x260:0x264] = (40 * _MIB).to_bytes(4, "little")
    found = kernel_memory.read(bytes(content))
    assert found is not None
    assert found.page_bytes == 0


def given(machine: str, page_bytes: int) -> Needs:
    return Needs(
        machine=machine,
        release="6.6",
        kernel=kernel_memory.KernelMemory(bytes=58 * _MIB, unpacking_bytes=64 * _MIB, source="its header"),
        kernel_file_bytes=8 * _MIB,
        packed_bytes=3 * _MIB,
        unpacked_bytes=8 * _MIB,
        memory_bytes=64 << 30,
        page_bytes=page_bytes,
    )


def terms(machine: str, page_bytes: int) -> dict[str, int]:
    return {each.name: each.saving_bytes // _MIB for each in sizing.estimate(given(machine, page_bytes)).terms}


@pytest.mark.parametrize(
    ("machine", "page_bytes", "structs", "bitmap", "more"),
    [
        ("aarch64", 4096, 2, 4, None),
        ("aarch64", 16384, 1, 1, 20),
        ("aarch64", 65536, 1, None, 100),
        ("ppc64le", 65536, 1, None, 100),
        ("loongarch64", 16384, 1, 1, 20),
        ("x86_64", 4096, 4, 4, None),
    ],
)
def test_size_of_a_page_counts_in_the_estimate(
    machine: str, page_bytes: int, structs: int, bitmap: int | None, more: int | None
) -> None:
    found = terms(machine, page_bytes)
    assert found["page structs"] == structs
    assert found.get("makedumpfile's bitmap") == bitmap
    assert found.get("large pages") == more


@pytest.mark.parametrize(
    ("machine", "option", "expected"),
    [
        ("aarch64", "ARM64_64K_PAGES", 65536),
        ("aarch64", "ARM64_16K_PAGES", 16384),
        ("aarch64", "ARM64_4K_PAGES", 4096),
        ("ppc64le", "PPC_64K_PAGES", 65536),
        ("loongarch64", "PAGE_SIZE_16KB", 16384),
        ("x86_64", "PAGE_SIZE_64KB", 4096),
    ],
)
def test_configuration_tells_the_size_of_a_page_where_no_header_does(
    machine: str, option: str, expected: int, sysroot: Callable[..., Root]
) -> None:
    root = sysroot({"/boot/config-6.6": f"CONFIG_{option}=y\n"})
    kernel = Kernel(
        release="6.6",
        image="/boot/vmlinuz-6.6",
        modules_dir="/lib/modules/6.6",
        initramfs_compressions=None,
    )
    assert needs.configured_page_bytes(root, machine, kernel) == expected
    assert needs.configured_page_bytes(Root("/no/such"), machine, kernel) == 4096


# --- processors --------------------------------------------------------------------------------------------------


def methods(*told: str) -> str:
    return "".join(
        f"dir /proc/device-tree/cpus/cpu@{number}\n"
        + (f"file /proc/device-tree/cpus/cpu@{number}/enable-method {method}\0\n" if method else "")
        for number, method in enumerate(told)
    )


PROCESSORS = {
    "spin-table": (methods("spin-table", "spin-table"), State.WEAK, "started by spin-table"),
    "one of them alone": (methods("psci", "psci", "spin-table"), State.WEAK, "started by spin-table"),
    "a way that nobody knows": (methods("psci", "brcm,bcm2836-smp"), State.WEAK, "started by brcm,bcm2836-smp"),
    "two ways": (methods("spin-table", "mine"), State.WEAK, "started by spin-table, mine"),
    "PSCI": (methods("psci", "psci"), State.OK, "started by psci"),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_processors_that_cannot_be_turned_off_are_a_weakness(name: str, tmp_path: Path) -> None:
    tree, expected, seen = PROCESSORS[name]
    trees.make(f"file /proc/device-tree/cpus/#address-cells 1\n{tree}", tmp_path)
    (found,) = processors.findings(Root(str(tmp_path)), "aarch64")
    assert (found.state, found.seen) == (expected, seen)
    assert bool(found.remedy) is (expected is State.WEAK)
    assert not list(processors.findings(Root(str(tmp_path)), "x86_64"))
    assert not list(processors.findings(Root(str(tmp_path)), "riscv64"))


@pytest.mark.parametrize(("flags", "expected"), [(0, State.WEAK), (1, State.OK), (2, State.WEAK), (3, State.OK)])
def test_acpi_tells_by_a_flag(flags: int, expected: State, sysroot: Callable[..., Root]) -> None:
    fadt = b"FACP" + bytes(125) + flags.to_bytes(2, "little") + bytes(145)
    (found,) = processors.findings(sysroot({"/sys/firmware/acpi/tables/FACP": fadt}), "aarch64")
    assert found.state is expected


def test_what_only_root_may_read_is_unknown(sysroot: Callable[..., Root]) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    root = sysroot({"/sys/firmware/acpi/tables/FACP": bytes(200)})
    Path(root.host("/sys/firmware/acpi/tables/FACP")).chmod(0)
    (found,) = processors.findings(root, "aarch64")
    assert (found.state, found.remedy) == (State.UNKNOWN, "run as root")


def test_a_table_that_cannot_be_read_is_told_of(sysroot: Callable[..., Root]) -> None:
    (found,) = processors.findings(sysroot({"/sys/firmware/acpi/tables/FACP/": ""}), "aarch64")
    assert "FACP" in found.seen


@pytest.mark.parametrize("tree", ["", methods("spin-table"), methods("", ""), "file /sys/firmware/acpi/tables/FACP x"])
def test_nothing_is_said_of_processors_that_tell_nothing(tree: str, tmp_path: Path) -> None:
    trees.make(tree, tmp_path)
    assert not list(processors.findings(Root(str(tmp_path)), "aarch64"))
