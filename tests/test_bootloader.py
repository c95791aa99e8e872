"""Which boot loader is there, and what must be edited for it: a root for each."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from kdump_initramfs.host.root import Root
from kdump_initramfs.loader import bootloader

WORD = "crashkernel=112M"
INFO = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
CMDLINE = "/proc/cmdline"


def info(text: str) -> bytes:
    return b"\6\0\0\0" + f"{text}\0".encode("utf-16-le")


# Root, then loader, file, line and command of the edit.
LOADERS: dict[str, tuple[Mapping[str, Any], tuple[str, str, str, str]]] = {
    "GRUB of Debian": (
        {
            "/etc/default/grub": 'GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX=""\n',
            "/boot/grub/grub.cfg": "",
            "/usr/sbin/update-grub": "",
        },
        ("GRUB", "/etc/default/grub", f'GRUB_CMDLINE_LINUX_DEFAULT="quiet {WORD}"', "update-grub"),
    ),
    "GRUB with single quotes and an old size": (
        {
            "/etc/default/grub": "GRUB_CMDLINE_LINUX='ro crashkernel=64M@16M quiet'\n",
            "/boot/grub2/grub.cfg": "",
            "/usr/sbin/grub2-mkconfig": "",
        },
        (
            "GRUB",
            "/etc/default/grub",
            f"GRUB_CMDLINE_LINUX='ro quiet {WORD}'",
            "grub2-mkconfig -o /boot/grub2/grub.cfg",
        ),
    ),
    "GRUB of Gentoo, all commented": (
        {"/etc/default/grub": '#GRUB_CMDLINE_LINUX="x"\n', "/usr/sbin/grub-mkconfig": ""},
        ("GRUB", "/etc/default/grub", f'GRUB_CMDLINE_LINUX="{WORD}"', "grub-mkconfig -o /boot/grub/grub.cfg"),
    ),
    "GRUB on the EFI partition": (
        {"/boot/efi/EFI/sles/grub.cfg": "", "/etc/default/grub": "GRUB_CMDLINE_LINUX=quiet\n"},
        (
            "GRUB",
            "/etc/default/grub",
            f'GRUB_CMDLINE_LINUX="quiet {WORD}"',
            "grub-mkconfig -o /boot/efi/EFI/sles/grub.cfg",
        ),
    ),
    "GRUB of Fedora": (
        {"/boot/grub2/grub.cfg": "", "/usr/sbin/grubby": "", "/boot/loader/entries/a.conf": "options ro\n"},
        ("GRUB", "", "", f'grubby --update-kernel=ALL --args="{WORD}"'),
    ),
    "systemd-boot with kernel-install": (
        {"/boot/loader/loader.conf": "", "/etc/kernel/cmdline": "root=/dev/sda1 ro\n", "/usr/bin/kernel-install": ""},
        (
            "systemd-boot",
            "/etc/kernel/cmdline",
            f"root=/dev/sda1 ro {WORD}",
            "kernel-install add $(uname -r) /lib/modules/$(uname -r)/vmlinuz",
        ),
    ),
    "systemd-boot with an entry by hand": (
        {"/efi/loader/loader.conf": "", "/efi/loader/entries/arch.conf": "title Arch\noptions  root=/dev/sda1 rw\n"},
        ("systemd-boot", "/efi/loader/entries/arch.conf", f"options  root=/dev/sda1 rw {WORD}", ""),
    ),
    "unified kernel images": (
        {"/boot/EFI/Linux/gentoo.efi": "", "/etc/kernel/cmdline": "ro\n"},
        (
            "systemd-boot",
            "/etc/kernel/cmdline",
            f"ro {WORD}",
            "kernel-install add $(uname -r) /lib/modules/$(uname -r)/vmlinuz",
        ),
    ),
    "rEFInd": (
        {"/boot/refind_linux.conf": '"Boot with standard options"  "ro root=/dev/sda2"\n"Boot to single" "single"\n'},
        ("rEFInd", "/boot/refind_linux.conf", f'"Boot with standard options"  "ro root=/dev/sda2 {WORD}"', ""),
    ),
    "rEFInd without a file": (
        {"/boot/efi/EFI/refind/": "", CMDLINE: "root=/dev/sda2 ro initrd=\\initrd.img\n"},
        ("rEFInd", "/boot/refind_linux.conf", f'"Boot with standard options" "root=/dev/sda2 ro {WORD}"', ""),
    ),
    "zipl": (
        {"/etc/zipl.conf": '[linux]\n  image = /boot/vmlinuz\n  parameters = "root=/dev/dasda1"\n'},
        ("zipl", "/etc/zipl.conf", f'  parameters = "root=/dev/dasda1 {WORD}"', "zipl"),
    ),
    "extlinux.conf": (
        {"/boot/extlinux/extlinux.conf": "label l0\n\tlinux /vmlinuz\n\tappend root=/dev/mmcblk0p2 ro\n"},
        ("U-Boot or extlinux", "/boot/extlinux/extlinux.conf", f"\tappend root=/dev/mmcblk0p2 ro {WORD}", ""),
    ),
    "U-Boot of Debian": (
        {
            "/usr/sbin/u-boot-update": "",
            "/etc/default/u-boot": 'U_BOOT_PARAMETERS="ro"\n',
            "/boot/extlinux/extlinux.conf": "",
        },
        ("U-Boot", "/etc/default/u-boot", f'U_BOOT_PARAMETERS="ro {WORD}"', "u-boot-update"),
    ),
    "Raspberry Pi": (
        {"/boot/firmware/cmdline.txt": "console=tty1 root=PARTUUID=1-02 rootwait\n"},
        ("Raspberry Pi", "/boot/firmware/cmdline.txt", f"console=tty1 root=PARTUUID=1-02 rootwait {WORD}", ""),
    ),
    "EFI stub": (
        {"/sys/firmware/efi/": "", "/usr/sbin/efibootmgr": "", CMDLINE: "BOOT_IMAGE=/x root=/dev/sda3 ro\n"},
        (
            "EFI stub",
            "",
            "",
            (
                "efibootmgr --create --disk DISK --part N --label Linux --loader '\\KERNEL' --unicode "
                f"'root=/dev/sda3 ro {WORD}' (DISK, N and KERNEL as `efibootmgr --verbose` shows them)"
            ),
        ),
    ),
    "nothing that we know": (
        {"/etc/fstab": ""},
        ("boot loader, which is not known", "", "", ""),
    ),
}


@pytest.mark.parametrize(("files", "expected"), LOADERS.values(), ids=LOADERS.keys())
def test_edit_is_that_of_the_loader_that_is_there(
    files: Mapping[str, Any], expected: tuple[str, str, str, str], sysroot: Callable[..., Root]
) -> None:
    edit = bootloader.edit(sysroot(files), WORD)
    assert (edit.loader, edit.file, edit.line, edit.command) == expected
    assert str(edit).endswith("; then reboot")
    assert WORD in str(edit)


def test_of_two_loaders_the_one_that_booted_counts(sysroot: Callable[..., Root]) -> None:
    both = {
        "/etc/default/grub": "GRUB_CMDLINE_LINUX=\n",
        "/boot/loader/loader.conf": "",
        "/etc/kernel/cmdline": "ro\n",
    }
    assert bootloader.edit(sysroot(both), WORD).loader == "GRUB"
    assert bootloader.edit(sysroot({**both, INFO: info("systemd-boot 252.30")}), WORD).loader == "systemd-boot"
    assert bootloader.edit(sysroot({**both, INFO: info("GRUB 2.12")}), WORD).loader == "GRUB"
    # A loader that says its name, but whose files are not there.
    assert bootloader.edit(sysroot({**both, INFO: info("rEFInd 0.14")}), WORD).loader == "GRUB"


def test_what_waits_for_a_reboot_is_seen(sysroot: Callable[..., Root]) -> None:
    root = sysroot({"/etc/default/grub": 'GRUB_CMDLINE_LINUX="quiet crashkernel=256M"\n'})
    assert bootloader.edit(root, WORD).pending == ("crashkernel=256M",)


def test_words_of_the_same_name_are_replaced_together(sysroot: Callable[..., Root]) -> None:
    root = sysroot({"/etc/default/grub": 'GRUB_CMDLINE_LINUX="crashkernel=1G,high x crashkernel=72M,low"\n'})
    edit = bootloader.edit(root, "crashkernel=112M,high", "crashkernel=72M,low")
    assert edit.line == 'GRUB_CMDLINE_LINUX="x crashkernel=112M,high crashkernel=72M,low"'
