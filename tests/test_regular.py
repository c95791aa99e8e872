"""What is named like a file and is a pipe, a device, a socket or a hole of a terabyte: named, and never waited for."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_initramfs.config import KernelSection
from kdump_initramfs.dumps import store
from kdump_initramfs.errors import HostError
from kdump_initramfs.host import fstab, kernel, kernel_config
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import kmod
from tests import trees

RELEASE = "6.1.0-test"


def _hole(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 40)


def _endless(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("needs to make device nodes")


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


ODD: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "socket": _socket,
    "endless": _endless,
    "hole": _hole,
    "directory": os.mkdir,
}


@pytest.fixture(params=ODD)
def odd(request: pytest.FixtureRequest) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        ODD[request.param](path)
        return path

    return make


def test_a_text_that_is_no_file_is_an_error_with_its_path(odd: Callable[[Path], Path], tmp_path: Path) -> None:
    odd(tmp_path / "etc" / "fstab")
    with pytest.raises(HostError, match=r"^/etc/fstab: "):
        fstab.read(Root(str(tmp_path)))


def test_a_link_to_dev_null_is_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "x").symlink_to("/dev/null")
    assert Root("/").read_bytes(str(tmp_path / "x")) == b""


@pytest.mark.parametrize("name", ["modules.alias", "modules.softdep", "modules.builtin", "modules.order"])
def test_lists_of_modules_that_are_no_files(name: str, odd: Callable[[Path], Path], tmp_path: Path) -> None:
    directory = tmp_path / "lib/modules" / RELEASE
    directory.mkdir(parents=True)
    (directory / "modules.dep").write_text("kernel/a.ko:\n")
    odd(directory / name)
    known = kmod.Modules(Root(str(tmp_path)), f"/lib/modules/{RELEASE}")
    with pytest.raises(HostError, match=rf"/{name}: "):
        _ = known.place("updates/a.ko"), known.resolve(["a", "gone"])


def test_a_configuration_that_is_no_file_is_passed_over(odd: Callable[[Path], Path], tmp_path: Path) -> None:
    odd(tmp_path / "boot" / f"config-{RELEASE}")
    (tmp_path / "usr/lib/modules" / RELEASE).mkdir(parents=True)
    (tmp_path / "usr/lib/modules" / RELEASE / "config").write_text("CONFIG_X=y\n")
    found = kernel_config.read_text(Root(str(tmp_path)), RELEASE, "/boot", f"/lib/modules/{RELEASE}")
    assert found == (f"/usr/lib/modules/{RELEASE}/config", "CONFIG_X=y\n")


def test_a_kernel_that_is_named_and_is_no_file(odd: Callable[[Path], Path], tmp_path: Path) -> None:
    trees.make(f"file /usr/lib/modules/{RELEASE}/modules.dep kernel/a.ko:\n", tmp_path)
    odd(tmp_path / "boot" / "mine")
    root = Root(str(tmp_path))
    if (tmp_path / "boot" / "mine").is_file():
        found = kernel.read(root, KernelSection(version=RELEASE, image="/boot/mine"), "x86_64")
        assert found.image_format == ""
        return
    with pytest.raises(HostError, match=r"^/boot/mine: ") as raised:
        kernel.read(root, KernelSection(version=RELEASE, image="/boot/mine"), "x86_64")
    assert raised.value.hint


@pytest.mark.parametrize("entry", ["loader/entries/x.conf", "EFI/Linux/x.efi", f"vmlinuz-{RELEASE}", "vmlinuz"])
def test_a_place_of_a_kernel_that_is_no_file_is_passed_over(
    entry: str, odd: Callable[[Path], Path], tmp_path: Path
) -> None:
    trees.make(f"file /usr/lib/modules/{RELEASE}/modules.dep kernel/a.ko:\n", tmp_path)
    odd(tmp_path / "boot" / entry)
    with pytest.raises(HostError, match="no bootable image"):
        kernel.read(Root(str(tmp_path)), KernelSection(version=RELEASE), "x86_64")


def test_dumps_beside_one_whose_record_is_no_file(odd: Callable[[Path], Path], tmp_path: Path) -> None:
    dump = tmp_path / "host-20260101T000000Z"
    odd(dump / store.DMESG)
    odd(dump / store.RECORD)
    (tmp_path / "host-20260102T000000Z").mkdir()
    assert [found.record for found in store.find([str(tmp_path)])] == [None, None]
