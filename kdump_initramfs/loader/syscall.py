"""By which system call the capture kernel is loaded, and why.

kexec_file_load(2) hands the kernel a file, whose signature it can check; kexec_load(2) hands it memory that
kexec-tools has arranged, which is not possible where unsigned code must not run. Where a kernel has both, `kexec -a`
tries the first and falls back to the second unless a signature was refused (do_kexec_file_load() of kexec-tools).
"""

from msgspec import Struct

from kdump_initramfs.config import Config
from kdump_initramfs.errors import ConfigError, LoadError
from kdump_initramfs.host import kernel_config
from kdump_initramfs.host.root import Root

_LOCKDOWN = "/sys/kernel/security/lockdown"
_EFI_SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# Secure Boot of s390x (arch/s390/kernel/ipl.c), and of POWER without and with a hypervisor (arch/powerpc/kernel/
# secure_boot.c).
_IPL_SECURE = "/sys/firmware/ipl/secure"
_POWERNV_ENFORCING = "/proc/device-tree/ibm,secureboot/os-secureboot-enforcing"
_PSERIES_SECURE_BOOT = "/proc/device-tree/ibm,secure-boot"

FILE, LOAD, EITHER = "-s", "-c", "-a"


class Reads(Struct, frozen=True):
    """Which formats of kernel images (kernel_image.Format) the two system calls take on a machine."""

    # Of the kernel: its kexec_file_loaders[]; empty where it does not have the system call.
    file: tuple[str, ...]
    # Of kexec-tools: its file_type[].
    load: tuple[str, ...]
    reason: str


READS = {
    "x86_64": Reads(("bzImage",), ("bzImage", "vmlinux"), "arch/x86/kernel/machine_kexec_64.c"),
    "i686": Reads((), ("bzImage", "vmlinux"), "CONFIG_KEXEC_FILE needs a 64-bit kernel"),
    "aarch64": Reads(("Image",), ("Image", "vmlinux"), "arch/arm64/kernel/machine_kexec_file.c"),
    "ppc64le": Reads(("vmlinux",), ("vmlinux",), "arch/powerpc/kexec/file_load_64.c"),
    "s390x": Reads(("s390", "vmlinux"), ("s390",), "arch/s390/kernel/machine_kexec_file.c"),
    "riscv64": Reads(
        ("vmlinux", "Image"), ("vmlinux", "Image"), "arch/riscv/kernel/machine_kexec_file.c; Image since Linux 6.16"
    ),
    "loongarch64": Reads(("vmlinux", "Image"), ("vmlinux", "Image"), "arch/loongarch/kernel/machine_kexec_file.c"),
}


# The machines on which kexec has --reset-vga, --console-vga and --elf32-core-headers or --elf64-core-headers: those of
# kexec/arch/*/include/arch/options.h of kexec-tools that list them.
_OPTIONS_OF = ("i686", "x86_64")
_OPTIONS = ("--reset-vga", "--console-vga", "--elf32-core-headers", "--elf64-core-headers")


class Choice(Struct, frozen=True):
    # The option of kexec(8).
    option: str
    reason: str


def choose(root: Root, config: Config, *, machine: str = "", image_format: str = "", with_keys: bool = False) -> Choice:
    """Return the option of kexec(8) for the system call; LoadError or ConfigError where none would do.

    `with_keys`: volume keys are handed over, which kexec_file_load(2) alone does.
    """
    check_options(config, machine)
    reads = READS.get(machine) if image_format else None
    choice = _chosen(root, config, reads, image_format, machine, with_keys=with_keys)
    if reads is not None:
        _check_format(choice, reads, image_format, machine)
    return choice


def check_options(config: Config, machine: str) -> None:
    """Refuse settings that kexec has no option for on this machine: it would end with "unrecognized option"."""
    if _has_options(machine):
        return
    named = ", ".join(sorted(_OPTIONS_OF))
    if config.kexec.reset_vga:
        raise ConfigError(
            f"kexec.reset_vga: kexec resets the screen on {named} alone, and this machine is {machine}",
            hint="take it out of the section [kexec]",
        )
    if config.kexec.core_headers == "elf32":
        raise ConfigError(
            f"kexec.core_headers: kexec writes ELF32 headers on {named} alone, and this machine is {machine}",
            hint='set it to "auto"; the headers are ELF64 there',
        )
    for word in config.kexec.extra_args:
        if word in _OPTIONS:
            raise ConfigError(
                f"kexec.extra_args: kexec has {word} on {named} alone, and this machine is {machine}",
                hint="take it out of the list",
            )


def _has_options(machine: str) -> bool:
    return not machine or machine in _OPTIONS_OF


def _chosen(
    root: Root, config: Config, reads: Reads | None, image_format: str, machine: str, *, with_keys: bool
) -> Choice:
    needed = _needed(config, machine, with_keys=with_keys)
    enforced = signatures_enforced(root)
    if enforced and needed and needed.option == LOAD and config.kexec.syscall != "load":
        raise LoadError(f"{needed.reason}, but {enforced}", hint="take that setting out of the section [kexec]")
    if needed:
        return needed
    if config.kexec.syscall != "auto":
        return Choice(FILE if config.kexec.syscall == "file" else LOAD, "kexec.syscall says so")
    if secured := enforced or secure_boot(root):
        return Choice(FILE, secured)
    return _possible(root, reads, image_format)


def _needed(config: Config, machine: str, *, with_keys: bool) -> Choice | None:
    """Return the choice that what is configured leaves; ConfigError where it leaves none."""
    setting = _for_kexec_load(config) if _has_options(machine) else ""
    if with_keys and (config.kexec.syscall == "load" or setting):
        raise ConfigError(
            "kexec.syscall: kexec_load does not hand over the volume key that a dump target is opened by",
            hint='set it to "auto" or "file", and leave kexec.reset_vga and kexec.core_headers alone',
        )
    if with_keys:
        return Choice(FILE, "volume keys are handed over by kexec_file_load alone")
    if setting and config.kexec.syscall == "file":
        raise ConfigError(
            f'{setting}: works with kexec_load alone, but kexec.syscall is "file"', hint='set that to "auto"'
        )
    return Choice(LOAD, f"{setting} works with kexec_load alone") if setting else None


def _for_kexec_load(config: Config) -> str:
    """Return the setting that means something to kexec-tools' own code, which kexec_file_load does not use; or ""."""
    if config.kexec.reset_vga:
        return "kexec.reset_vga"
    return "kexec.core_headers" if config.kexec.core_headers != "auto" else ""


def _possible(root: Root, reads: Reads | None, image_format: str) -> Choice:
    running = kernel_config.running(root)
    has_file, has_load = (running is not None and running.is_on(option) for option in ("KEXEC_FILE", "KEXEC"))
    if has_load and not has_file:
        return Choice(LOAD, "the running kernel has no kexec_file_load (CONFIG_KEXEC_FILE)")
    if has_file and not has_load:
        return Choice(FILE, "the running kernel has no kexec_load (CONFIG_KEXEC)")
    if reads is not None and (image_format in reads.file) != (image_format in reads.load):
        return Choice(FILE if image_format in reads.file else LOAD, f"{image_format}: {reads.reason}")
    return Choice(EITHER, "nothing speaks against either")


def _check_format(choice: Choice, reads: Reads, image_format: str, machine: str) -> None:
    """Refuse what the system call would, which frees what is loaded before it looks at the format."""
    taken = {FILE: reads.file, LOAD: reads.load, EITHER: (*reads.file, *reads.load)}[choice.option]
    if image_format not in taken:
        name = {FILE: "kexec_file_load", LOAD: "kexec_load", EITHER: "kexec"}[choice.option]
        names = " or ".join(dict.fromkeys(taken))
        raise LoadError(
            f"a kernel image of the format {image_format} cannot be loaded by {name} on {machine} ({choice.reason})",
            hint=f"name one of the format {names} in kernel.image" if names else f"{machine} does not have that one",
        )


def signatures_enforced(root: Root) -> str:
    """Return why the kernel loads nothing but what is signed, as a clause; "" where it does not say that it does."""
    lockdown = root.read_word(_LOCKDOWN)
    if "[integrity]" in lockdown or "[confidentiality]" in lockdown:
        return "the kernel is locked down (kernel_lockdown(7)) and loads signed files alone"
    if root.read_word(_IPL_SECURE) == "1":
        return "the machine was loaded securely (/sys/firmware/ipl/secure) and loads signed files alone"
    running = kernel_config.running(root)
    if running is not None and running.is_on("KEXEC_SIG_FORCE"):
        return "the running kernel was built to load signed files alone (CONFIG_KEXEC_SIG_FORCE)"
    return ""


def secure_boot(root: Root) -> str:
    """Return "Secure Boot is on" where it is; many kernels enforce signatures then."""
    # Four bytes of attributes, one of value (Documentation/filesystems/efivarfs.rst).
    by_efi = (root.read_bytes(_EFI_SECURE_BOOT) or b"")[4:5] == b"\1"
    by_power = root.exists(_POWERNV_ENFORCING) or (root.read_bytes(_PSERIES_SECURE_BOOT) or b"") >= b"\0\0\0\2"
    return "Secure Boot is on" if by_efi or by_power else ""


def extra_options(config: Config, machine: str) -> tuple[str, ...]:
    """Return the options of kexec(8) that the configuration asks for, where it has them; else they are refused before.

    Without them the headers are ELF64 all the same.
    """
    if not _has_options(machine):
        return ()
    headers = () if config.kexec.core_headers == "auto" else (f"--{config.kexec.core_headers}-core-headers",)
    screen = ("--reset-vga", "--console-vga") if config.kexec.reset_vga else ()
    return (*headers, *screen)
