"""Which system call loads a capture kernel, and what its refusals mean."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdump_initramfs import config
from kdump_initramfs.errors import LoadError
from kdump_initramfs.host.root import Root
from kdump_initramfs.loader import refusals, syscall
from kdump_initramfs.loader.cmdline import MAX_BYTES
from tests import programs

EFI = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


@pytest.mark.parametrize(
    ("wanted", "lockdown", "secure_boot", "option"),
    [
        ("auto", "", b"", "-a"),
        ("auto", "[none] integrity confidentiality\n", b"", "-a"),
        ("auto", "none [integrity] confidentiality\n", b"", "-s"),
        ("auto", "none integrity [confidentiality]\n", b"", "-s"),
        ("auto", "", b"\6\0\0\0\1", "-s"),
        ("auto", "", b"\6\0\0\0\0", "-a"),
        ("auto", "", b"\6\0", "-a"),
        ("file", "", b"", "-s"),
        ("load", "none [integrity] confidentiality\n", b"", "-c"),
    ],
)
def test_system_call_is_the_one_that_the_machine_allows(
    wanted: str, lockdown: str, secure_boot: bytes, option: str, sysroot: Callable[..., Root]
) -> None:
    root = sysroot({"/sys/kernel/security/lockdown": lockdown, EFI: secure_boot})
    settings = config.load(root=root.directory, overrides=[f"kexec.syscall={wanted}"])
    assert syscall.choose(root, settings).option == option


# What the running kernel has, what it runs on, and what is to be loaded; the option, and what of its reason.
CHOICES = {
    "both system calls": ("CONFIG_KEXEC=y\nCONFIG_KEXEC_FILE=y", "x86_64", "bzImage", "-a", "nothing speaks"),
    "a configuration that tells nothing": ("CONFIG_X=y", "x86_64", "bzImage", "-a", "nothing speaks"),
    "no kexec_file_load": ("CONFIG_KEXEC=y", "x86_64", "bzImage", "-c", "no kexec_file_load"),
    "no kexec_load": ("CONFIG_KEXEC_FILE=y", "x86_64", "bzImage", "-s", "no kexec_load"),
    "enforced signatures": ("CONFIG_KEXEC_SIG_FORCE=y", "x86_64", "bzImage", "-s", "CONFIG_KEXEC_SIG_FORCE"),
    "vmlinux on x86_64": ("", "x86_64", "vmlinux", "-c", "machine_kexec_64.c"),
    "bzImage on i686": ("", "i686", "bzImage", "-c", "needs a 64-bit kernel"),
    "Image on aarch64": ("", "aarch64", "Image", "-a", "nothing speaks"),
    "vmlinux on aarch64": ("", "aarch64", "vmlinux", "-c", "arch/arm64"),
    "vmlinux on ppc64le": ("", "ppc64le", "vmlinux", "-a", "nothing speaks"),
    "an s390x kernel": ("", "s390x", "s390", "-a", "nothing speaks"),
    "vmlinux on s390x": ("", "s390x", "vmlinux", "-s", "arch/s390"),
    "Image on riscv64": ("", "riscv64", "Image", "-a", "nothing speaks"),
    "a format that is not known": ("", "x86_64", "", "-a", "nothing speaks"),
    "a machine that is not known": ("", "sparc64", "vmlinux", "-a", "nothing speaks"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_system_call_is_one_that_kernel_and_format_know(name: str, sysroot: Callable[..., Root]) -> None:
    options, machine, image_format, option, reason = CHOICES[name]
    root = sysroot({"/proc/sys/kernel/osrelease": "6.1\n", "/boot/config-6.1": options})
    choice = syscall.choose(root, config.Config(), machine=machine, image_format=image_format)
    assert choice.option == option
    assert reason in choice.reason


def test_format_that_neither_system_call_knows_is_an_error(sysroot: Callable[..., Root]) -> None:
    with pytest.raises(LoadError, match="zImage cannot be loaded by kexec on ppc64le") as caught:
        syscall.choose(sysroot({}), config.Config(), machine="ppc64le", image_format="zImage")
    assert caught.value.hint == "name one of the format vmlinux in kernel.image"


@pytest.mark.parametrize(
    ("machine", "image_format", "setting", "said", "hint"),
    [
        (
            "x86_64",
            "vmlinux",
            "file",
            r"by kexec_file_load on x86_64 \(kexec.syscall",
            "name one of the format bzImage",
        ),
        ("s390x", "vmlinux", "load", "by kexec_load on s390x", "name one of the format s390 in"),
        ("i686", "bzImage", "file", "by kexec_file_load on i686", "i686 does not have that one"),
        ("x86_64", "vmlinux", "auto", r"by kexec_file_load on x86_64 \(the kernel is locked", "bzImage"),
    ],
)
def test_format_that_the_one_system_call_does_not_know_is_an_error(
    machine: str, image_format: str, setting: str, said: str, hint: str, sysroot: Callable[..., Root]
) -> None:
    root = sysroot({"/sys/kernel/security/lockdown": "none [integrity]" if setting == "auto" else "[none]"})
    settings = config.load(root="/no/such", overrides=[f"kexec.syscall={setting}"])
    with pytest.raises(LoadError, match=said) as caught:
        syscall.choose(root, settings, machine=machine, image_format=image_format)
    assert hint in str(caught.value.hint)


def test_every_machine_with_a_length_of_command_line_has_its_formats_and_a_source() -> None:
    assert set(MAX_BYTES) <= set(syscall.READS)
    assert all(reads.reason and (reads.file or reads.load) for reads in syscall.READS.values())


@pytest.mark.parametrize(
    "place",
    [
        {"/sys/firmware/ipl/secure": "1\n"},
        {"/proc/device-tree/ibm,secureboot/os-secureboot-enforcing": b""},
        {"/proc/device-tree/ibm,secure-boot": b"\0\0\0\2"},
    ],
)
def test_secure_boot_of_other_machines_is_seen(place: dict[str, Any], sysroot: Callable[..., Root]) -> None:
    assert syscall.choose(sysroot(place), config.Config()).option == "-s"


def test_secure_boot_of_power_that_does_not_enforce_is_none(sysroot: Callable[..., Root]) -> None:
    root = sysroot({"/proc/device-tree/ibm,secure-boot": b"\0\0\0\1", "/sys/firmware/ipl/secure": "0\n"})
    assert syscall.choose(root, config.Config()).option == "-a"


# --- what a refusal means ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", refusals.ERRNOS)
@pytest.mark.parametrize("call", ["kexec_load failed: ", "kexec_file_load failed: ", "kexec unload failed: "])
def test_every_errno_becomes_a_sentence_with_a_remedy(name: str, call: str) -> None:
    said = ["a warning", call + os.strerror(getattr(errno, name)), "entry       = 0x1 flags = 0x3e0001"]
    assert refusals.errno_of(said) == name
    refusal = refusals.explain(said)
    assert refusal is refusals.ERRNOS[name]
    assert refusal.meaning[0].islower() or refusal.meaning.startswith("/")
    assert not refusal.meaning.endswith(".")
    assert len(refusal.remedy) > 8


def test_permission_under_lockdown_is_one_of_signatures() -> None:
    said = ["kexec_file_load failed: Operation not permitted"]
    assert refusals.explain(said, is_locked_down=True) is refusals.LOCKED_DOWN
    assert refusals.explain(["kexec_file_load failed: No such device"], is_locked_down=True) is refusals.UNKNOWN


# What do_kexec_file_load() of kexec-tools counts as a refused signature, and verify_pefile_signature() returns beside.
SIGNATURE_ERRNOS = {"ELIBBAD", "EKEYREJECTED", "ENOPKG", "ENOKEY", "EBADMSG", "EMSGSIZE", "ENODATA", "EKEYEXPIRED"}


def test_errnos_of_the_manual_page_are_all_there() -> None:
    """ERRORS of kexec_load(2), and those of a signature."""
    manual = {"EADDRNOTAVAIL", "EBADF", "EBUSY", "EINVAL", "ENOEXEC", "ENOMEM", "EPERM"}
    assert manual | SIGNATURE_ERRNOS <= set(refusals.ERRNOS)


def test_other_system_call_is_never_tried_after_a_refused_signature() -> None:
    for name in (*SIGNATURE_ERRNOS, "EPERM", "EACCES"):
        assert not refusals.may_try_other([f"kexec_file_load failed: {os.strerror(getattr(errno, name))}"])
    assert refusals.may_try_other(["kexec_file_load failed: Cannot assign requested address"])
    assert not refusals.may_try_other(["Cannot determine the file type of /boot/x"])
    assert not refusals.may_try_other([])


def test_words_of_kexec_are_those_of_the_real_program() -> None:
    """Those of other architectures, and what getopt says, are not in it."""
    programs.need("kexec")
    program = Path(str(shutil.which("kexec"))).read_bytes()
    elsewhere = {"unrecognized option", "No device tree available"}
    assert {words for words in refusals.WORDS if words.encode() not in program} == elsewhere


def test_words_of_the_real_kexec_are_understood(tmp_path: Path) -> None:
    programs.need("kexec")
    nothing = tmp_path / "kernel"
    nothing.write_text("no kernel")
    ended = subprocess.run(["kexec", "-p", str(nothing)], capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert refusals.explain((ended.stderr or ended.stdout).splitlines()) is not refusals.UNKNOWN


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        (["Cannot determine the file type of /boot/vmlinuz"], "does not know the format"),
        (["Could not find a free area of memory of 0x3000 bytes...", "locate_hole failed"], "do not fit"),
        (["BzImage is not relocatable. Can't be used as capture kernel."], "runs at a fixed address"),
        (["kexec_load failed: Success of a kind that nobody knows"], "not known here"),
        (["kexec_file_load(unload) failed", ": Operation not permitted"], "lets nothing be loaded"),
        ([], "not known here"),
    ],
)
def test_words_without_an_errno_are_explained(said: list[str], meaning: str) -> None:
    assert meaning in refusals.explain(said).meaning
