"""Which file is the image of a kernel: the layouts of distributions as trees, what is passed over, and what is said."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from kdump_initramfs.config import KernelSection
from kdump_initramfs.errors import HostError
from kdump_initramfs.host import kernel, kernel_places
from kdump_initramfs.host.root import Root
from tests import kernelmaker, trees

MACHINE_ID = "6a9857a393724b7a981ebb5b8495b9ea"
OSTREE = "/boot/ostree/fedora-coreos-8c4e9f2d"
NIX = "/nix/store/1x9yq8l2-linux-6.6.58"
BOOT_FROM_GRUB = "file /proc/cmdline BOOT_IMAGE=(hd0,gpt2)"


class Layout(NamedTuple):
    """What a distribution has installed (the kernel that is meant, and others beside it), its release, its image."""

    tree: str
    release: str
    image: str


LAYOUTS = {
    "Debian": Layout(
        "kernel /boot/vmlinuz-6.1.0-35-amd64 6.1.0-35-amd64\nkernel /boot/vmlinuz-6.1.0-34-amd64 6.1.0-34-amd64\n"
        "link /vmlinuz boot/vmlinuz-6.1.0-35-amd64",
        "6.1.0-35-amd64",
        "/boot/vmlinuz-6.1.0-35-amd64",
    ),
    "Debian 14": Layout(
        "kernel /usr/lib/modules/7.2.13+deb14-amd64/vmlinuz 7.2.13+deb14-amd64",
        "7.2.13+deb14-amd64",
        "/usr/lib/modules/7.2.13+deb14-amd64/vmlinuz",
    ),
    "Debian on ppc64el": Layout(
        "kernel /boot/vmlinux-6.1.0-35-powerpc64le 6.1.0-35-powerpc64le vmlinux-ppc64le",
        "6.1.0-35-powerpc64le",
        "/boot/vmlinux-6.1.0-35-powerpc64le",
    ),
    "Debian on s390x": Layout(
        "kernel /boot/vmlinuz-6.1.0-35-s390x 6.1.0-35-s390x s390",
        "6.1.0-35-s390x",
        "/boot/vmlinuz-6.1.0-35-s390x",
    ),
    "Ubuntu on arm64": Layout(
        "kernel /boot/vmlinuz-6.8.0-45-generic 6.8.0-45-generic arm64-gzip",
        "6.8.0-45-generic",
        "/boot/vmlinuz-6.8.0-45-generic",
    ),
    "Fedora": Layout(
        "kernel /boot/vmlinuz-6.14.0-63.fc42.x86_64 6.14.0-63.fc42.x86_64\n"
        f"kernel /boot/vmlinuz-0-rescue-{MACHINE_ID} 6.11.4-301.fc41.x86_64\n"
        f"file /boot/loader/entries/{MACHINE_ID}-6.14.0-63.fc42.x86_64.conf\n| version 6.14.0-63.fc42.x86_64\n"
        "| linux /vmlinuz-6.14.0-63.fc42.x86_64",
        "6.14.0-63.fc42.x86_64",
        "/boot/vmlinuz-6.14.0-63.fc42.x86_64",
    ),
    "Fedora, kernel with its modules alone": Layout(
        "kernel /usr/lib/modules/6.14.0-63.fc42.x86_64/vmlinuz 6.14.0-63.fc42.x86_64",
        "6.14.0-63.fc42.x86_64",
        "/usr/lib/modules/6.14.0-63.fc42.x86_64/vmlinuz",
    ),
    "kernel-install by machine-id": Layout(
        f"kernel /boot/{MACHINE_ID}/6.14.0-63.fc42.x86_64/linux 6.14.0-63.fc42.x86_64\n"
        f"kernel /boot/{MACHINE_ID}/6.13.0/linux 6.13.0",
        "6.14.0-63.fc42.x86_64",
        f"/boot/{MACHINE_ID}/6.14.0-63.fc42.x86_64/linux",
    ),
    "kernel-install by entry-token, ESP at /efi": Layout(
        "kernel /efi/arch/6.11.1-arch1-1/linux 6.11.1-arch1-1",
        "6.11.1-arch1-1",
        "/efi/arch/6.11.1-arch1-1/linux",
    ),
    "an entry with a name of its own": Layout(
        "kernel /boot/efi/kernels/mine.efi 6.12.1-mine\nkernel /boot/efi/kernels/old.efi 6.11.0\n"
        "file /boot/efi/loader/entries/mine.conf\n| # mine\n| title Mine\n| version 6.12.1-mine\n"
        "| linux /kernels/mine.efi\n"
        "file /boot/efi/loader/entries/old.conf\n| version 6.11.0\n| linux /kernels/old.efi",
        "6.12.1-mine",
        "/boot/efi/kernels/mine.efi",
    ),
    "openSUSE": Layout(
        "kernel /usr/lib/modules/6.11.2-1-default/vmlinuz 6.11.2-1-default\n"
        "link /boot/vmlinuz-6.11.2-1-default ../usr/lib/modules/6.11.2-1-default/vmlinuz\n"
        "link /boot/vmlinuz vmlinuz-6.11.2-1-default",
        "6.11.2-1-default",
        "/boot/vmlinuz-6.11.2-1-default",
    ),
    "openSUSE on aarch64": Layout(
        "kernel /boot/Image-6.11.2-1-default 6.11.2-1-default arm64",
        "6.11.2-1-default",
        "/boot/Image-6.11.2-1-default",
    ),
    "openSUSE on s390x": Layout(
        "kernel /usr/lib/modules/6.11.2-1-default/image 6.11.2-1-default s390",
        "6.11.2-1-default",
        "/usr/lib/modules/6.11.2-1-default/image",
    ),
    "Arch": Layout(
        "kernel /boot/vmlinuz-linux 6.11.1-arch1-1\nkernel /boot/vmlinuz-linux-lts 6.6.54-1-lts\n"
        "file /usr/lib/modules/6.6.54-1-lts/pkgbase linux-lts",
        "6.6.54-1-lts",
        "/boot/vmlinuz-linux-lts",
    ),
    "Arch, from the modules": Layout(
        "kernel /boot/vmlinuz-linux 6.11.1-arch1-1\nfile /usr/lib/modules/6.11.1-arch1-1/pkgbase linux\n"
        "kernel /usr/lib/modules/6.11.1-arch1-1/vmlinuz 6.11.1-arch1-1",
        "6.11.1-arch1-1",
        "/usr/lib/modules/6.11.1-arch1-1/vmlinuz",
    ),
    "Arch on ARM": Layout("kernel /boot/Image 6.11.1-2-aarch64-ARCH arm64", "6.11.1-2-aarch64-ARCH", "/boot/Image"),
    "Gentoo's installkernel": Layout(
        "kernel /boot/vmlinuz-6.6.58-gentoo 6.6.58-gentoo\nkernel /boot/vmlinuz-6.6.58-gentoo.old 6.6.58-gentoo",
        "6.6.58-gentoo",
        "/boot/vmlinuz-6.6.58-gentoo",
    ),
    "Gentoo, the old build": Layout(
        "kernel /boot/vmlinuz-6.6.58-gentoo.old 6.6.58-gentoo",
        "6.6.58-gentoo",
        "/boot/vmlinuz-6.6.58-gentoo.old",
    ),
    "Gentoo's genkernel": Layout(
        "kernel /boot/kernel-genkernel-x86_64-6.6.58-gentoo 6.6.58-gentoo",
        "6.6.58-gentoo",
        "/boot/kernel-genkernel-x86_64-6.6.58-gentoo",
    ),
    "Gentoo, kernel-VERSION": Layout(
        "kernel /boot/kernel-6.6.58-gentoo 6.6.58-gentoo",
        "6.6.58-gentoo",
        "/boot/kernel-6.6.58-gentoo",
    ),
    "Gentoo, bzImage-VERSION": Layout(
        "kernel /boot/bzImage-6.6.58-gentoo 6.6.58-gentoo",
        "6.6.58-gentoo",
        "/boot/bzImage-6.6.58-gentoo",
    ),
    "Alpine": Layout(
        "kernel /boot/vmlinuz-lts 6.6.58-0-lts\nkernel /boot/vmlinuz-virt 6.6.58-0-virt",
        "6.6.58-0-virt",
        "/boot/vmlinuz-virt",
    ),
    "Slackware": Layout(
        "kernel /boot/vmlinuz-huge 5.15.19\nkernel /boot/vmlinuz 5.15.19", "5.15.19", "/boot/vmlinuz-huge"
    ),
    "ostree": Layout(
        f"kernel {OSTREE}/vmlinuz-6.10.6-200.fc40.x86_64 6.10.6-200.fc40.x86_64\n"
        "kernel /boot/ostree/fedora-coreos-1f/vmlinuz-6.9.0 6.9.0",
        "6.10.6-200.fc40.x86_64",
        f"{OSTREE}/vmlinuz-6.10.6-200.fc40.x86_64",
    ),
    "NixOS": Layout(
        f"kernel {NIX}/bzImage 6.6.58\nlink /run/booted-system/kernel {NIX}/bzImage\n"
        "kernel /boot/kernels/1x9yq8l2-linux-6.6.58-bzImage 6.6.58",
        "6.6.58",
        "/run/booted-system/kernel",
    ),
    "NixOS, not running": Layout(
        "kernel /boot/EFI/nixos/0aaa-linux-6.6.1-bzImage.efi 6.6.1\n"
        "kernel /boot/EFI/nixos/1x9y-linux-6.6.58-bzImage.efi 6.6.58",
        "6.6.58",
        "/boot/EFI/nixos/1x9y-linux-6.6.58-bzImage.efi",
    ),
    "a unified image, by its .uname": Layout(
        "kernel /boot/EFI/Linux/arch-linux.efi 6.11.1-arch1-1 uki\n"
        "kernel /boot/EFI/Linux/arch-linux-lts.efi 6.6.54-1-lts uki",
        "6.11.1-arch1-1",
        "/boot/EFI/Linux/arch-linux.efi",
    ),
    "a unified image on an ESP at /efi": Layout(
        f"kernel /efi/EFI/Linux/{MACHINE_ID}-6.14.0.efi 6.14.0 uki",
        "6.14.0",
        f"/efi/EFI/Linux/{MACHINE_ID}-6.14.0.efi",
    ),
    "an ESP at /esp": Layout("kernel /esp/EFI/Linux/linux.efi 6.14.0 uki", "6.14.0", "/esp/EFI/Linux/linux.efi"),
    "an ESP at /boot/EFI": Layout(
        "kernel /boot/EFI/EFI/Linux/linux.efi 6.14.0 uki", "6.14.0", "/boot/EFI/EFI/Linux/linux.efi"
    ),
    "an ESP at a place of fstab": Layout(
        "file /etc/fstab UUID=4A00-17B2 /uefi vfat umask=0077 0 2\nkernel /uefi/EFI/Linux/linux.efi 6.14.0 uki",
        "6.14.0",
        "/uefi/EFI/Linux/linux.efi",
    ),
    "an ESP at a place of mountinfo": Layout(
        "file /proc/self/mountinfo\n| 20 1 254:2 / / rw - ext4 /dev/vda2 rw\n"
        "| 21 20 254:1 / /system/esp rw - vfat /dev/vda1 rw\nkernel /system/esp/vmlinuz-6.14.0 6.14.0",
        "6.14.0",
        "/system/esp/vmlinuz-6.14.0",
    ),
    "kernel-install, with the ESP at /esp": Layout(
        "kernel /esp/gentoo/6.6.58/linux 6.6.58", "6.6.58", "/esp/gentoo/6.6.58/linux"
    ),
    "an entry on an ESP at /esp": Layout(
        "kernel /esp/mine.efi 6.12.1\nfile /esp/loader/entries/mine.conf\n| version 6.12.1\n| linux /mine.efi",
        "6.12.1",
        "/esp/mine.efi",
    ),
    "an entry without a version": Layout(
        "kernel /boot/arch/one 6.12.1\nkernel /boot/arch/two 6.12.2\nfile /boot/loader/entries/one.conf\n"
        "| title One\n| linux /arch/one\nfile /boot/loader/entries/two.conf\n| title Two\n| efi /arch/two",
        "6.12.2",
        "/boot/arch/two",
    ),
    "openSUSE's sdbootutil": Layout(
        "kernel /boot/efi/opensuse-tumbleweed/6.11.2-1-default/linux-1f0e7d 6.11.2-1-default",
        "6.11.2-1-default",
        "/boot/efi/opensuse-tumbleweed/6.11.2-1-default/linux-1f0e7d",
    ),
    "Gentoo's efistub": Layout(
        "kernel /efi/EFI/Gentoo/vmlinuz-6.6.58-gentoo.efi 6.6.58-gentoo\n"
        "kernel /efi/EFI/Gentoo/vmlinuz-6.6.57-gentoo.efi 6.6.57-gentoo",
        "6.6.58-gentoo",
        "/efi/EFI/Gentoo/vmlinuz-6.6.58-gentoo.efi",
    ),
    "Gentoo's efistub by kernel-install": Layout(
        "kernel /boot/EFI/Gentoo/kernel-6.6.58-gentoo.efi 6.6.58-gentoo arm64",
        "6.6.58-gentoo",
        "/boot/EFI/Gentoo/kernel-6.6.58-gentoo.efi",
    ),
    "Gentoo's efistub, the old build": Layout(
        "kernel /efi/EFI/Gentoo/vmlinuz-6.6.58-gentoo-old.efi 6.6.58-gentoo",
        "6.6.58-gentoo",
        "/efi/EFI/Gentoo/vmlinuz-6.6.58-gentoo-old.efi",
    ),
    "Gentoo's installkernel, of a unified image": Layout(
        "kernel /boot/vmlinuz-6.6.58-gentoo.efi 6.6.58-gentoo uki",
        "6.6.58-gentoo",
        "/boot/vmlinuz-6.6.58-gentoo.efi",
    ),
    "a unified image with a counter of attempts": Layout(
        "kernel /efi/EFI/Linux/fedora-6.14.0+2-1.efi 6.14.0 uki", "6.14.0", "/efi/EFI/Linux/fedora-6.14.0+2-1.efi"
    ),
    "Clear Linux": Layout(
        "kernel /boot/EFI/org.clearlinux/kernel-org.clearlinux.native.6.1.2-1230 6.1.2-1230.native",
        "6.1.2-1230.native",
        "/boot/EFI/org.clearlinux/kernel-org.clearlinux.native.6.1.2-1230",
    ),
    "Pop!_OS": Layout(
        "kernel /boot/efi/EFI/Pop_OS-0b5a/vmlinuz.efi 6.9.3\nkernel /boot/efi/EFI/Pop_OS-0b5a/vmlinuz-previous.efi 6.8",
        "6.9.3",
        "/boot/efi/EFI/Pop_OS-0b5a/vmlinuz.efi",
    ),
    "the Raspberry Pi": Layout(
        "kernel /boot/firmware/kernel8.img 6.6.51+rpt-rpi-v8 arm64-gzip",
        "6.6.51+rpt-rpi-v8",
        "/boot/firmware/kernel8.img",
    ),
    "NixOS, mounted elsewhere": Layout(
        f"kernel {NIX}/bzImage 6.6.58\nlink /nix/var/nix/profiles/system-12-link /nix/store/0yq-system\n"
        f"link /nix/store/0yq-system/kernel {NIX}/bzImage",
        "6.6.58",
        "/nix/var/nix/profiles/system-12-link/kernel",
    ),
    "NixOS on ARM": Layout(
        "kernel /boot/nixos/1x9y-linux-6.6.58-Image 6.6.58 arm64", "6.6.58", "/boot/nixos/1x9y-linux-6.6.58-Image"
    ),
    "Guix": Layout("kernel /run/booted-system/kernel/bzImage 6.6.58", "6.6.58", "/run/booted-system/kernel/bzImage"),
    "Flatcar": Layout("kernel /boot/flatcar/vmlinuz-a 6.6.58-flatcar", "6.6.58-flatcar", "/boot/flatcar/vmlinuz-a"),
    "a unified image and a plain one": Layout(
        "kernel /boot/EFI/Linux/linux.efi 6.14.0 uki\nkernel /usr/lib/modules/6.14.0/vmlinuz 6.14.0",
        "6.14.0",
        "/usr/lib/modules/6.14.0/vmlinuz",
    ),
    "what GRUB has booted": Layout(
        f"{BOOT_FROM_GRUB}/my/own-kernel root=/dev/vda1\nkernel /boot/my/own-kernel 6.5.1-own",
        "6.5.1-own",
        "/boot/my/own-kernel",
    ),
    "what is named alike, and another": Layout(
        "kernel /boot/vmlinuz-6.6.58-gentoo 6.6.57-gentoo\nkernel /boot/kernel-6.6.58-gentoo 6.6.58-gentoo",
        "6.6.58-gentoo",
        "/boot/kernel-6.6.58-gentoo",
    ),
    "a file that is no kernel, and another": Layout(
        "file /boot/vmlinuz-6.6.58-gentoo not a kernel\nkernel /boot/kernel-6.6.58-gentoo 6.6.58-gentoo",
        "6.6.58-gentoo",
        "/boot/kernel-6.6.58-gentoo",
    ),
    "characters that are patterns": Layout(
        "kernel /boot/vmlinuz-6.1[a]* 6.1[a]*\nkernel /boot/vmlinuz-6.1ab 6.1ab",
        "6.1[a]*",
        "/boot/vmlinuz-6.1[a]*",
    ),
}


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Root]:
    def tree(text: str) -> Root:
        trees.make(text, tmp_path / "root")
        return Root(str(tmp_path / "root"))

    return tree


def with_modules(text: str, release: str) -> str:
    return f"{text}\nmodules /usr/lib/modules/{release}\nlink /lib usr/lib"


@pytest.mark.parametrize("name", LAYOUTS)
def test_image_is_found_in_the_layout_of(name: str, make: Callable[[str], Root]) -> None:
    layout = LAYOUTS[name]
    root = make(with_modules(layout.tree, layout.release))
    assert kernel.read(root, KernelSection(version=layout.release), "x86_64").image == layout.image


def test_every_place_is_somebodys_and_is_there_once() -> None:
    assert all(place.whose for place in kernel_places.PLACES)
    assert len({place.path for place in kernel_places.PLACES}) == len(kernel_places.PLACES)


# --- what is not found -------------------------------------------------------------------------------------------


def test_nothing_found_tells_where_it_was_looked_for(make: Callable[[str], Root]) -> None:
    root = make(with_modules("kernel /boot/vmlinuz-linux 6.9", "6.1"))
    with pytest.raises(HostError) as caught:
        kernel.read(root, KernelSection(version="6.1"), "x86_64")
    said = str(caught.value)
    assert said.startswith("kernel 6.1: no bootable image in /boot, /usr/lib/modules/6.1, ")
    assert "/efi/EFI/Linux" in said
    assert said.endswith("; passed over: /boot/vmlinuz-linux (is kernel 6.9)")
    assert caught.value.hint == "mount /boot, or name the image with --set kernel.image=PATH"


@pytest.mark.parametrize(
    ("fstab", "mounted", "hint"),
    [
        ("/dev/vda1 /boot ext4 noauto 0 2", "", "/boot is in /etc/fstab and not mounted: mount /boot"),
        ("/dev/vda1 /boot/efi vfat defaults 0 2", "", "/boot/efi is in /etc/fstab and not mounted: mount /boot/efi"),
        ("/dev/vda1 /boot ext4 noauto 0 2", "/boot", "mount /boot, or name the image"),
        ("/dev/vda1 /home ext4 noauto 0 2", "", "mount /boot, or name the image"),
        ("/dev/vda1 /esp vfat noauto 0 2", "", "/esp is in /etc/fstab and not mounted: mount /esp"),
        ("/dev/vda1 /boot/EFI vfat noauto 0 2", "", "/boot/EFI is in /etc/fstab and not mounted: mount /boot/EFI"),
    ],
)
def test_file_system_that_is_not_mounted_is_named(
    fstab: str, mounted: str, hint: str, make: Callable[[str], Root]
) -> None:
    mounts = "file /proc/self/mountinfo\n| 20 1 254:2 / / rw - ext4 /dev/vda2 rw\n"
    mounts += f"| 21 20 254:1 / {mounted} rw - ext4 /dev/vda1 rw\n" if mounted else ""
    root = make(with_modules(f"{mounts}file /etc/fstab {fstab}", "6.1"))
    with pytest.raises(HostError) as caught:
        kernel.read(root, KernelSection(version="6.1"), "x86_64")
    assert str(caught.value.hint).startswith(hint)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a kernel image of a format that is known here"),
        (kernelmaker.bzimage("6.1")[:0x230], "truncated: the boot header of a bzImage is not complete"),
        (kernelmaker.image("aarch64"), ""),
    ],
)
def test_image_that_is_damaged_is_passed_over_with_the_reason(
    content: bytes, reason: str, make: Callable[[str], Root]
) -> None:
    root = make(with_modules("dir /boot", "6.1"))
    Path(root.directory, "boot/vmlinuz-6.1").write_bytes(content)
    if not reason:
        assert kernel_places.find(root, "6.1", "aarch64") == "/boot/vmlinuz-6.1"
        return
    with pytest.raises(HostError, match=rf"passed over: /boot/vmlinuz-6\.1 \({reason}\)$"):
        kernel_places.find(root, "6.1", "x86_64")


def test_image_that_does_not_tell_its_release_is_not_believed_by_a_name_alone(make: Callable[[str], Root]) -> None:
    root = make("dir /boot")
    Path(root.directory, "boot/Image").write_bytes(kernelmaker.image("aarch64"))
    with pytest.raises(HostError, match=r"/boot/Image \(does not say which kernel it is\)"):
        kernel_places.find(root, "6.1", "aarch64")


# --- the one that was named --------------------------------------------------------------------------------------


def test_named_image_of_another_kernel_is_an_error(make: Callable[[str], Root]) -> None:
    root = make(with_modules("kernel /opt/bz 6.9\nkernel /boot/vmlinuz-6.1 6.1", "6.1"))
    with pytest.raises(HostError, match=r"^/opt/bz: is kernel 6\.9, not 6\.1$"):
        kernel.read(root, KernelSection(version="6.1", image="/opt/bz"), "x86_64")


def test_named_image_of_a_format_that_is_not_known_is_taken_with_a_warning(
    make: Callable[[str], Root], caplog: pytest.LogCaptureFixture
) -> None:
    root = make(with_modules("file /opt/uImage something for U-Boot", "6.1"))
    found = kernel.read(root, KernelSection(version="6.1", image="/opt/uImage"), "x86_64")
    assert (found.image, found.image_format, found.copied_because) == ("/opt/uImage", "", "")
    assert "it is taken as it is, since it was named" in caplog.text


# --- the configuration that is built in --------------------------------------------------------------------------

BUILT_IN = kernelmaker.kernel("6.1", "CONFIG_RD_XZ=y\n")


@pytest.mark.parametrize(
    ("files", "able"),
    [("", ("xz",)), ("file /boot/config-6.1 CONFIG_RD_GZIP=y", ("gzip",)), ("file /boot/config-6.1", ())],
)
def test_configuration_in_the_image_is_read_where_no_file_has_it(
    files: str, able: tuple[str, ...], make: Callable[[str], Root]
) -> None:
    root = make(with_modules(f"dir /boot\n{files}", "6.1"))
    Path(root.directory, "boot/vmlinuz-6.1").write_bytes(kernelmaker.bzimage("6.1", kind="zstd", content=BUILT_IN))
    assert kernel.read(root, KernelSection(version="6.1"), "x86_64").initramfs_compressions == able


# --- what kexec gets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "fstab", "expected"),
    [
        ("bzimage", "", ("bzImage", "")),
        ("arm64", "", ("Image", "")),
        ("s390", "", ("s390", "")),
        ("vmlinux-ppc64le", "", ("vmlinux", "")),
        ("uki", "", ("uki", "packed")),
        ("arm64-gzip", "", ("packed", "packed")),
        ("arm64-zboot", "", ("zboot", "packed")),
        ("bzimage", "LABEL=boot /boot ext4 noauto,noatime 1 2", ("bzImage", "unmounted")),
        ("uki", "LABEL=boot /boot ext4 noauto,noatime 1 2", ("uki", "packed")),
        ("bzimage", "LABEL=boot /boot ext4 noatime 1 2", ("bzImage", "")),
        ("bzimage", "LABEL=boot /boot/efi vfat noauto 1 2", ("bzImage", "")),
        ("bzimage", "LABEL=esp /esp vfat noauto 1 2", ("bzImage", "")),
    ],
)
def test_what_kexec_cannot_take_or_may_not_find_is_copied(
    form: str, fstab: str, expected: tuple[str, str], make: Callable[[str], Root]
) -> None:
    root = make(with_modules(f"kernel /boot/vmlinuz-6.1 6.1 {form}\nfile /etc/fstab {fstab}", "6.1"))
    found = kernel.read(root, KernelSection(version="6.1"), "x86_64")
    assert (found.image_format, found.copied_because) == expected
