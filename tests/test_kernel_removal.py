"""A kernel that can still be booted keeps its capture image, whichever framework says that it was removed."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_initramfs.host.root import Root
from tests import trees
from tests.kernel_hooks import (
    NEW,
    OLD,
    PLUGIN,
    POSTINST,
    POSTRM,
    armed,
    image_of,
    images,
    path_of,
    remove_kernel,
    run_hook,
)
from tests.test_pacman_hooks import read_hook

ENTRY = f"/boot/6a9857a393724b7a981ebb5b8495b9ea/{NEW}"
UKI = f"/efi/EFI/Linux/fedora-{NEW}"


@pytest.fixture
def machine(host_root: Callable[[str], Root], tmp_path: Path) -> Root:
    """A machine with the capture images of two kernels, the newer one without an image of the kernel itself."""
    root = armed(host_root("debian-lvm-ext4"))
    for release in (OLD, NEW):
        run_hook([POSTINST, release], root, tmp_path)
    remove_kernel(root, NEW)
    return root


# What is there of the kernel when the hook is run, how it is run, and what is left in its environment.
STAYS: dict[str, tuple[str, list[object], dict[str, str]]] = {
    "another entry of kernel-install": (
        f"kernel {ENTRY}/linux {NEW}\nkernel /boot/fedora/{NEW}/linux {NEW}",
        [PLUGIN, "remove", NEW, ENTRY],
        {},
    ),
    "an entry by another name": (
        (
            f"kernel {ENTRY}/linux {NEW}\nkernel /boot/mine/linux {NEW}\n"
            f"file /boot/loader/entries/mine.conf\n| version {NEW}\n| linux /mine/linux"
        ),
        [PLUGIN, "remove", NEW, ENTRY],
        {},
    ),
    "a unified image beside an entry": (
        f"kernel {ENTRY}/linux {NEW}\nkernel {UKI}.efi {NEW} uki",
        [PLUGIN, "remove", NEW, ENTRY],
        {"KERNEL_INSTALL_BOOT_ROOT": "/boot", "KERNEL_INSTALL_ENTRY_TOKEN": "fedora"},
    ),
    "an entry beside a unified image": (
        f"kernel {ENTRY}/linux {NEW}\nkernel {UKI}.efi {NEW} uki",
        [PLUGIN, "remove", NEW, f"/efi/fedora/{NEW}"],
        {"KERNEL_INSTALL_BOOT_ROOT": "/efi", "KERNEL_INSTALL_ENTRY_TOKEN": "fedora"},
    ),
    "the kernel beside its modules": (
        f"kernel {ENTRY}/linux {NEW}\nkernel /usr/lib/modules/{NEW}/vmlinuz {NEW}",
        [PLUGIN, "remove", NEW, ENTRY],
        {},
    ),
    "a release that begins alike": (
        f"kernel /boot/vmlinuz-{NEW} {NEW}\nkernel {ENTRY}.1/linux {NEW}.1",
        [PLUGIN, "remove", NEW, ENTRY],
        {},
    ),
    "a package that another one replaces": (
        f"kernel /boot/vmlinuz-{NEW} {NEW}",
        [POSTRM, NEW, f"/boot/vmlinuz-{NEW}"],
        {"DEB_MAINT_PARAMS": "remove"},
    ),
    "a package that is purged later": (
        f"kernel /boot/vmlinuz-{NEW} {NEW}",
        [POSTRM, NEW, f"/boot/vmlinuz-{NEW}"],
        {"DEB_MAINT_PARAMS": "purge"},
    ),
    "an old build of Gentoo's installkernel": (f"kernel /boot/vmlinuz-{NEW}.old {NEW}", [POSTRM, NEW], {}),
    "a kernel without modules": (
        f"kernel /boot/vmlinuz-{NEW} {NEW}\nremove /usr/lib/modules/{NEW}",
        [POSTRM, NEW],
        {},
    ),
    "the image that is configured": (
        f'kernel /opt/kernel {NEW}\nfile /etc/kdump-initramfs/config.toml kernel.image = "/opt/kernel"',
        [POSTRM, NEW],
        {},
    ),
}


@pytest.mark.parametrize("name", STAYS)
def test_the_image_of_a_kernel_that_can_still_be_booted_stays(name: str, machine: Root, tmp_path: Path) -> None:
    tree, words, environment = STAYS[name]
    trees.make(tree, Path(machine.directory))
    before = os.stat(path_of(machine, NEW)).st_ino
    ended = run_hook(words, machine, tmp_path, **environment)
    assert ended.returncode == 0
    assert "can still be booted, so its capture image stays" in ended.stderr, ended.stderr
    assert os.stat(path_of(machine, NEW)).st_ino == before
    assert Path(f"{path_of(machine, NEW)}.json").exists()


# What of it is still there when the hook is run, though it is removed behind it, or cannot be booted.
GOES: dict[str, tuple[str, list[object], dict[str, str]]] = {
    "its only entry": (f"kernel {ENTRY}/linux {NEW}", [PLUGIN, "remove", NEW, ENTRY], {}),
    "its only entry, seen through a link": (
        f"kernel {ENTRY}/linux {NEW}\nlink /efi boot",
        [PLUGIN, "remove", NEW, f"/efi/{ENTRY.removeprefix('/boot')}/"],
        {},
    ),
    "its only unified image": (
        f"kernel {UKI}.efi {NEW} uki",
        [PLUGIN, "remove", NEW, f"/efi/fedora/{NEW}"],
        {"KERNEL_INSTALL_BOOT_ROOT": "/efi", "KERNEL_INSTALL_ENTRY_TOKEN": "fedora"},
    ),
    "its modules": ("", [POSTRM, NEW], {"DEB_MAINT_PARAMS": "remove"}),
    "the name of another kernel": (f"kernel /boot/vmlinuz-{NEW} {OLD}", [POSTRM, NEW], {}),
    "a link that leads nowhere": (f"link /boot/vmlinuz-{NEW} vmlinuz-{NEW}", [POSTRM, NEW], {}),
}


@pytest.mark.parametrize("name", GOES)
def test_the_image_of_a_kernel_that_cannot_be_booted_goes(name: str, machine: Root, tmp_path: Path) -> None:
    tree, words, environment = GOES[name]
    trees.make(tree, Path(machine.directory))
    ended = run_hook(words, machine, tmp_path, **environment)
    assert ended.returncode == 0
    assert images(machine) == [image_of(OLD)], ended.stderr


def test_pacman_keeps_the_image_of_a_kernel_that_is_still_there(machine: Root, tmp_path: Path) -> None:
    targets = f"usr/lib/modules/{OLD}/vmlinuz\nusr/lib/modules/{NEW}/vmlinuz\n"
    run_hook(shlex.split(read_hook("remove")["Exec"][0]), machine, tmp_path, stdin=targets)
    assert images(machine) == [image_of(OLD)]


def test_add_before_remove_of_the_same_release_leaves_the_image(machine: Root, tmp_path: Path) -> None:
    """As packages are installed again: the new one's scripts run before those of the old one."""
    trees.make(f"kernel /boot/vmlinuz-{NEW} {NEW}", Path(machine.directory))
    run_hook([PLUGIN, "add", NEW, ENTRY, f"/boot/vmlinuz-{NEW}"], machine, tmp_path)
    run_hook([PLUGIN, "remove", NEW, ENTRY], machine, tmp_path)
    assert images(machine) == [image_of(OLD), image_of(NEW)]


def test_what_stayed_goes_once_the_kernel_has_gone(machine: Root, tmp_path: Path) -> None:
    """RPM runs kernel-install before it removes the files: the next hook, of any kernel, removes what was left."""
    trees.make(f"kernel /usr/lib/modules/{NEW}/vmlinuz {NEW}", Path(machine.directory))
    run_hook([PLUGIN, "remove", NEW, ENTRY], machine, tmp_path)
    assert images(machine) == [image_of(OLD), image_of(NEW)]
    trees.make(f"remove /usr/lib/modules/{NEW}", Path(machine.directory))
    run_hook([PLUGIN, "remove", "9.9.9", ENTRY], machine, tmp_path)
    assert images(machine) == [image_of(OLD)]
