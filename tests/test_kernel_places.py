"""Places that cannot be read, directories of modules and of programs: one that fails does not end the search of all."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_initramfs.config import KernelSection
from kdump_initramfs.errors import HostError
from kdump_initramfs.host import kernel, kernel_config, kernel_places, tools
from kdump_initramfs.host.root import Root
from tests import command, kernelmaker, programs, trees

RELEASE = "6.1.0-35-amd64"
GOOD = f"/usr/lib/modules/{RELEASE}/vmlinuz"
MODULES = f"modules /usr/lib/modules/{RELEASE}\nlink /lib usr/lib\n"


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Root]:
    def tree(text: str) -> Root:
        trees.make(text, tmp_path / "root")
        return Root(str(tmp_path / "root"))

    return tree


# --- what cannot be read -----------------------------------------------------------------------------------------

LOOPS = {
    "an image": (f"link /boot/vmlinuz-{RELEASE} vmlinuz-{RELEASE}", f"/boot/vmlinuz-{RELEASE}"),
    "two links": (
        f"link /boot/vmlinuz-{RELEASE} other\nlink /boot/other vmlinuz-{RELEASE}",
        f"/boot/vmlinuz-{RELEASE}",
    ),
    "a file system of the boot loader": ("link /boot/EFI EFI", "/boot/EFI"),
    "another one": ("link /efi /esp\nlink /esp /efi", "/efi"),
    "entries": ("link /boot/loader loader", "/boot/loader/entries"),
    "an entry": ("link /boot/loader/entries/x.conf x.conf", "/boot/loader/entries/x.conf"),
    "what the boot loader names": (
        "link /boot/x x\nfile /proc/cmdline BOOT_IMAGE=/x\nfile /boot/loader/entries/x.conf\n| linux /x",
        "/boot/x",
    ),
    "NixOS": ("link /run/booted-system booted-system", "/run/booted-system/kernel"),
    "the name of the package": (
        f"link /usr/lib/modules/{RELEASE}/pkgbase pkgbase",
        f"/usr/lib/modules/{RELEASE}/pkgbase",
    ),
    "the table of file systems": ("link /etc/fstab fstab", "/etc/fstab"),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_of_links_in_one_place_does_not_end_the_search(name: str, make: Callable[[str], Root]) -> None:
    tree, place = LOOPS[name]
    root = make(f"{MODULES}{tree}")
    with pytest.raises(HostError, match=r"no bootable image in .*; passed over: ") as caught:
        kernel_places.find(root, RELEASE, "x86_64")
    assert f"{place} (too many levels of symbolic links)" in str(caught.value)
    trees.make(f"kernel {GOOD} {RELEASE}", Path(root.directory))
    assert kernel_places.find(root, RELEASE, "x86_64") == GOOD


OTHERS = {
    "a directory in place of a text": (f"dir /usr/lib/modules/{RELEASE}/pkgbase", "pkgbase (is a directory)"),
    "an entry that is a directory": ("dir /boot/loader/entries/x.conf", "x.conf (is a directory)"),
    "a name that is too long": (f"file /proc/cmdline BOOT_IMAGE=/{'x' * 300}", "(file name too long)"),
    "a name that no path can have": ("file /proc/cmdline BOOT_IMAGE=/x\0y", "(embedded null byte)"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_error_in_one_place_does_not_end_the_search(name: str, make: Callable[[str], Root]) -> None:
    tree, said = OTHERS[name]
    root = make(f"{MODULES}{tree}")
    with pytest.raises(HostError, match=r"; passed over: ") as caught:
        kernel_places.find(root, RELEASE, "x86_64")
    assert said in str(caught.value)
    trees.make(f"kernel {GOOD} {RELEASE}", Path(root.directory))
    assert kernel_places.find(root, RELEASE, "x86_64") == GOOD


def found(root: Root, *, before: str = "", wrapped: tuple[str, ...] = ()) -> str:
    """Return what a process of its own finds or says, in a mount namespace where `before` was run."""
    code = (
        "import sys\n"
        "from kdump_initramfs.errors import HostError\n"
        "from kdump_initramfs.host import kernel_places\n"
        "from kdump_initramfs.host.root import Root\n"
        "try: print(kernel_places.find(Root(sys.argv[1]), sys.argv[2], 'x86_64'))\n"
        "except HostError as error: print(error)\n"
    )
    search = shlex.join([*wrapped, sys.executable, "-c", code, root.directory, RELEASE])
    script = f"cd {shlex.quote(root.directory)}; {before} {search}"
    words = ["unshare", "--mount", "sh", "-c", script] if before else ["sh", "-c", script]
    ended = subprocess.run(words, env=command.environment(), capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


# Of a process that has gone, nothing in its directory can be read, as on a mount whose server has gone.
DEAD = "sleep 60 >/dev/null 2>&1 & mount --bind /proc/$!{file} {place} && kill $! && {{ wait $! || true; }} &&"


@pytest.mark.parametrize("place", ["efi", "boot/efi", "esp", "boot"])
def test_a_dead_mount_in_one_place_does_not_end_the_search(place: str, make: Callable[[str], Root]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    programs.need("unshare", "mount")
    root = make(f"{MODULES}dir /boot/efi\ndir /efi\ndir /esp")
    said = found(root, before=DEAD.format(place=place, file=""))
    assert f"passed over: /{place} (no such process)" in said, said
    trees.make(f"kernel {GOOD} {RELEASE}", Path(root.directory))
    assert found(root, before=DEAD.format(place=place, file="")) == GOOD


@pytest.mark.parametrize("place", [f"boot/vmlinuz-{RELEASE}", "boot/vmlinuz-lts", "boot/loader/entries/x.conf"])
def test_a_file_that_fails_when_it_is_read_does_not_end_the_search(place: str, make: Callable[[str], Root]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    programs.need("unshare", "mount")
    root = make(f"{MODULES}file /{place}")
    said = found(root, before=DEAD.format(place=place, file="/status"))
    # Files of /proc have no end to seek to, either.
    assert re.search(rf"passed over: /{place} \((no such process|invalid argument)\)", said), said
    trees.make(f"kernel {GOOD} {RELEASE}", Path(root.directory))
    assert found(root, before=DEAD.format(place=place, file="/status")) == GOOD


@pytest.mark.parametrize("place", [f"/boot/vmlinuz-{RELEASE}", "/boot/loader/entries", "/efi/EFI", "/boot"])
def test_what_may_not_be_read_does_not_end_the_search(place: str, make: Callable[[str], Root]) -> None:
    root = make(f"{MODULES}dir /efi/EFI\ndir /boot/loader/entries\nkernel /boot/vmlinuz-{RELEASE} {RELEASE}")
    if "vmlinuz" not in place:
        trees.make(f"remove /boot/vmlinuz-{RELEASE}", Path(root.directory))
    without: tuple[str, ...] = ()
    if os.geteuid() == 0:
        programs.need("setpriv")
        without = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
    path = Path(root.directory + place)
    path.chmod(0)
    try:
        said = found(root, wrapped=without)
        assert f"{place} (permission denied)" in said, said
        trees.make(f"kernel {GOOD} {RELEASE}", Path(root.directory))
        assert found(root, wrapped=without) == GOOD
    finally:
        path.chmod(0o755)


def test_files_that_are_no_kernels_are_not_told_of_where_nothing_says_that_they_are(
    make: Callable[[str], Root],
) -> None:
    root = make("file /boot/efi/EFI/debian/grubx64.efi MZ\nfile /boot/vmlinuz-6.1 nothing")
    with pytest.raises(HostError, match=r"passed over: /boot/vmlinuz-6\.1 \(not a kernel image of a format") as caught:
        kernel_places.find(root, "6.1", "x86_64")
    assert "grub" not in str(caught.value)


# --- unified images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "linux",
    [
        kernelmaker.bzimage("6.2"),
        kernelmaker.zboot("aarch64", "gzip", kernelmaker.image("aarch64", kernelmaker.kernel("6.2"))),
        kernelmaker.image("aarch64", kernelmaker.kernel("6.2")),
        kernelmaker.pack("zstd", kernelmaker.image("aarch64", kernelmaker.kernel("6.2"))),
    ],
    ids=["bzImage", "zboot", "Image", "packed"],
)
@pytest.mark.parametrize("name", ["linux.efi", "linux-6.1.efi"])
def test_the_kernel_in_a_unified_image_is_believed_and_not_what_stands_beside_it(
    linux: bytes, name: str, make: Callable[[str], Root]
) -> None:
    root = make("dir /efi/EFI/Linux\nmodules /usr/lib/modules/6.1\nmodules /usr/lib/modules/6.2\nlink /lib usr/lib")
    place = Path(root.directory, "efi/EFI/Linux", name)
    place.write_bytes(kernelmaker.uki(linux, uname="6.1"))
    with pytest.raises(HostError, match=rf"/efi/EFI/Linux/{name} \(is kernel 6\.2\)"):
        kernel_places.find(root, "6.1", "x86_64")
    with pytest.raises(HostError, match=rf"^/efi/EFI/Linux/{name}: is kernel 6\.2, not 6\.1$"):
        kernel.read(root, KernelSection(version="6.1", image=f"/efi/EFI/Linux/{name}"), "x86_64")
    assert kernel_places.find(root, "6.2", "x86_64") == f"/efi/EFI/Linux/{name}"


@pytest.mark.parametrize("linux", [kernelmaker.image("aarch64"), kernelmaker.pack("lz4", b"unknown")])
def test_what_stands_beside_it_counts_where_the_kernel_does_not_tell(linux: bytes, make: Callable[[str], Root]) -> None:
    root = make("dir /efi/EFI/Linux")
    Path(root.directory, "efi/EFI/Linux/linux.efi").write_bytes(kernelmaker.uki(linux, machine="aarch64", uname="6.1"))
    assert kernel_places.find(root, "6.1", "aarch64") == "/efi/EFI/Linux/linux.efi"
    with pytest.raises(HostError, match=r"linux\.efi \(is kernel 6\.1\)"):
        kernel_places.find(root, "6.2", "aarch64")


# --- modules -----------------------------------------------------------------------------------------------------

MODULE_PLACES = {
    "NixOS, what it booted": "/run/booted-system/kernel-modules/lib/modules/6.6.58",
    "NixOS, what it will boot": "/run/current-system/kernel-modules/lib/modules/6.6.58",
    "NixOS, mounted elsewhere": "/nix/var/nix/profiles/system/kernel-modules/lib/modules/6.6.58",
    "Guix": "/run/booted-system/kernel/lib/modules/6.6.58",
    "Guix, mounted elsewhere": "/var/guix/profiles/system/kernel/lib/modules/6.6.58",
    "GoboLinux": "/System/Kernel/Modules/6.6.58",
    "a /usr that is not merged": "/usr/lib/modules/6.6.58",
}


@pytest.mark.parametrize("name", MODULE_PLACES)
def test_modules_are_found_where_they_are(name: str, make: Callable[[str], Root]) -> None:
    root = make(f"modules {MODULE_PLACES[name]}\nkernel /boot/vmlinuz-6.6.58 6.6.58")
    found_kernel = kernel.read(root, KernelSection(), "x86_64")  # the only one that is installed
    assert (found_kernel.release, found_kernel.modules_dir) == ("6.6.58", MODULE_PLACES[name])


@pytest.mark.parametrize(
    "first", ["file /lib/modules/6.6.58/build x", "link /lib/modules/6.6.58 6.6.58", "file /lib x"]
)
def test_a_directory_of_modules_that_is_of_no_use_does_not_end_the_search(
    first: str, make: Callable[[str], Root]
) -> None:
    root = make(f"{first}\nmodules /usr/lib/modules/6.6.58\nkernel /boot/vmlinuz-6.6.58 6.6.58")
    assert kernel.read(root, KernelSection(version="6.6.58"), "x86_64").modules_dir == "/usr/lib/modules/6.6.58"


@pytest.mark.parametrize("place", ["/lib/modules", "/usr/lib/modules/6.6.58", "/run/booted-system"])
def test_directories_of_modules_that_cannot_be_read_are_named(place: str, make: Callable[[str], Root]) -> None:
    root = make(f"link {place} {place.rpartition('/')[2]}\nkernel /boot/vmlinuz-6.6.58 6.6.58")
    with pytest.raises(HostError, match=rf"no such kernel is installed; passed over: {place}.* \(too many levels"):
        kernel.read(root, KernelSection(version="6.6.58"), "x86_64")


def test_modules_without_an_index_are_told_of_where_there_are_no_others(make: Callable[[str], Root]) -> None:
    root = make("dir /run/booted-system/kernel-modules/lib/modules/6.6.58\nkernel /boot/vmlinuz-6.6.58 6.6.58")
    with pytest.raises(HostError, match=r"kernel-modules/lib/modules/6\.6\.58: has no modules\.dep$") as caught:
        kernel.read(root, KernelSection(version="6.6.58"), "x86_64")
    assert caught.value.hint == "run: depmod 6.6.58"


# --- configuration and programs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["link /boot/config-6.1 config-6.1", "dir /boot/config-6.1"])
def test_a_configuration_that_cannot_be_read_is_looked_for_elsewhere(bad: str, make: Callable[[str], Root]) -> None:
    root = make(f"{bad}\nfile /usr/lib/modules/6.1/config CONFIG_RD_XZ=y")
    found_config = kernel_config.read(root, "6.1", "/boot", "/lib/modules/6.1")
    assert found_config is not None
    assert found_config.path == "/usr/lib/modules/6.1/config"


@pytest.mark.parametrize(
    "directory",
    [
        "/run/current-system/sw/bin",
        "/nix/var/nix/profiles/system/sw/bin",
        "/run/current-system/profile/sbin",
        "/run/current-system/profile/bin",
        "/System/Index/bin",
    ],
)
def test_programs_are_found_where_they_are(directory: str, make: Callable[[str], Root]) -> None:
    root = make(f"elf {directory}/makedumpfile\nelf {directory}/sh\nlink /usr/sbin/makedumpfile makedumpfile")
    assert tools.find(root, "makedumpfile") == f"{directory}/makedumpfile"
    assert tools.machine(root) == "x86_64"
