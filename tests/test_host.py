"""What is read of a machine: mounts, block devices, the kernel, programs and the command line."""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs import config
from kdump_initramfs.config import DiskTarget, KernelSection, PathTarget
from kdump_initramfs.errors import ConfigError, HostError
from kdump_initramfs.host import block, content, crash, crypttab, kernel, keyring, mounts, probe, stack, targets, tools
from kdump_initramfs.host.mounts import Mount
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import BlockDevice, CryptEntry, TargetFacts
from tests import elfmaker, kernelmaker, kernels, programs, trees

Make = Callable[[Mapping[str, str | bytes | Path]], Root]
HostRoot = Callable[[str], Root]

# --- mounts ------------------------------------------------------------------------------------------------------

LINE = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue"


def test_all_fields_of_the_manual_page_are_read() -> None:
    assert mounts.parse(LINE) == (
        Mount(
            id="36",
            parent="35",
            number="98:0",
            fs_root="/mnt1",
            mount_point="/mnt2",
            fs_type="ext3",
            source="/dev/root",
            options=("rw", "noatime", "rw", "errors=continue"),
        ),
    )


@pytest.mark.parametrize(
    ("escaped", "plain"),
    [
        (r"/a\040b", "/a b"),
        (r"/a\011b", "/a\tb"),
        (r"/a\012b", "/a\nb"),
        (r"/a\134b", "/a\\b"),
        (r"/a\134040b", r"/a\040b"),
        (r"/a\04", r"/a\04"),
        ("/ä#", "/ä#"),
    ],
)
def test_octal_escapes_are_undone_once(escaped: str, plain: str) -> None:
    (mount,) = mounts.parse(f"1 0 8:1 {escaped} {escaped} rw - ext4 {escaped} rw")
    assert (mount.fs_root, mount.mount_point, mount.source) == (plain, plain, plain)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-",
        " - ",
        LINE.replace(" - ", " "),
        LINE.partition(" - ")[0],
        LINE.partition(" - ")[0] + " - ext3",
        "36 35 - ext3 /dev/root rw",
        "x" * 70_000,
    ],
)
def test_line_that_is_not_of_the_format_is_left_out(line: str) -> None:
    assert len(mounts.parse(f"{line}\n{LINE}\n")) == 1


@given(st.text(max_size=300))
def test_any_text_is_some_mounts(text: str) -> None:
    assert isinstance(mounts.parse(text), tuple)


TABLE = mounts.parse(
    """\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 8:2 / /var rw - ext4 /dev/sda2 rw
3 2 8:3 / /var/crash rw - xfs /dev/sda3 rw
4 1 8:4 / /srv rw - ext4 /dev/sda4 rw
5 1 8:5 / /srv rw - xfs /dev/sda5 rw
6 1 8:3 /deep/dir /bind rw - xfs /dev/sda3 rw
"""
)


@pytest.mark.parametrize(
    ("path", "number", "inside"),
    [
        ("/", "8:1", ""),
        ("/variable", "8:1", "variable"),
        ("/var", "8:2", ""),
        ("/var/crashes", "8:2", "crashes"),
        ("/var/crash", "8:3", ""),
        ("/var/crash/a/b", "8:3", "a/b"),
        ("/srv/x", "8:5", "x"),
        ("/bind", "8:3", "deep/dir"),
        ("/bind/x", "8:3", "deep/dir/x"),
    ],
)
def test_longest_mount_point_holds_a_path_and_of_equals_the_last(path: str, number: str, inside: str) -> None:
    mount = mounts.holder(TABLE, path)
    assert mount is not None
    assert mount.number == number
    assert mounts.directory_inside(mount, path) == inside


def test_path_on_no_mount_has_no_holder() -> None:
    assert mounts.holder(TABLE[1:], "/home") is None


HIDING = (
    "28 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
    "29 28 8:2 / /var rw - ext4 /dev/sda2 rw\n"
    "30 29 8:3 / /var/crash rw - xfs /dev/sda3 rw\n"
)


@pytest.mark.parametrize(
    ("later", "hidden_by"),
    [
        ("", ""),
        ("31 29 8:4 / /var rw - ext4 /dev/sda4 rw", "/dev/sda4"),
        ("31 28 8:4 / /var/crashes rw - ext4 /dev/sda4 rw", ""),
        # Mounted over the very place: that is what holds the directory then.
        ("31 30 8:4 / /var/crash rw - ext4 /dev/sda4 rw", ""),
        ("31 30 8:4 / /var/crash/deeper rw - ext4 /dev/sda4 rw", ""),
    ],
)
def test_mount_is_hidden_by_what_is_mounted_above_it_later(later: str, hidden_by: str) -> None:
    found = mounts.parse(HIDING + later)
    holder = mounts.holder(found, "/var/crash")
    assert holder
    over = mounts.hidden_by(found, holder)
    assert (over.source if over else "") == hidden_by


# --- block devices -----------------------------------------------------------------------------------------------


def test_stack_goes_from_the_volume_down_to_the_disk(host_root: HostRoot) -> None:
    found = stack.read(host_root("lvm-on-luks"), (), ["253:1"])
    assert [(device.name, device.kind) for device in found] == [
        ("dm-1", "lvm"),
        ("dm-0", "crypt"),
        ("vda2", "partition"),
        ("vda", "disk"),
    ]
    assert found[0].content_uuid == "7a1c5a52-6c8e-4f0e-9d3a-3f1f0e2b7c11"
    assert found[2].size_bytes == 39841792 * 512


def test_disk_below_two_devices_comes_once_and_last(host_root: HostRoot) -> None:
    found = stack.read(host_root("md-raid1"), (), ["9:127"])
    assert [device.name for device in found] == ["md127", "vda1", "vda2", "vda"]
    assert found[0].below == ("vda1", "vda2")


def test_all_devices_of_a_btrfs_are_found_by_any(host_root: HostRoot) -> None:
    root = host_root("btrfs")
    assert block.members_of_btrfs(root, "vda1") == ("254:1", "254:2")
    assert block.members_of_btrfs(root, "vda2") == ("254:1", "254:2")
    assert block.members_of_btrfs(root, "vda") == ()


def test_serial_number_that_cannot_be_read_is_none(sysroot: Make) -> None:
    # A directory, as reading a SCSI disk's wwid fails (EINVAL) and not because nothing is there.
    disk = "/sys/devices/pci0/host0/block/sda"
    files = {f"{disk}/dev": "8:0\n", f"{disk}/device/wwid/": "", f"{disk}/device/serial": "S1\n"}
    root = sysroot({"/sys/dev/block/8:0": Path("../../devices/pci0/host0/block/sda"), **files})
    assert stack.read(root, (), ["8:0"])[0].disk_id == "S1"


# --- what lies on them -------------------------------------------------------------------------------------------


def test_content_is_what_udev_has_recorded(sysroot: Make) -> None:
    record = "S:disk/by-id/x\nI:1\nE:ID_FS_TYPE=LVM2_member\nE:ID_FS_UUID=Wk3nNn-XXf4\nE:ODD=a=b\nG:systemd\n"
    root = sysroot({"/run/udev/data/b8:1": record})
    assert content.read(root, "sda1", "8:1") == content.Content(type="LVM2_member", uuid="Wk3nNn-XXf4")
    assert content.udev(root, "8:1")["ODD"] == "a=b"
    assert content.read(root, "sda2", "8:2") == content.Content()


def test_content_is_read_from_the_device_where_udev_is_not(sysroot: Make, tmp_path: Path) -> None:
    uuid = "0b5a9f5c-54b4-4a7c-8a4c-0a2f6f3d1e01"
    root = sysroot({"/dev/": ""})
    trees.make(f"device /dev/sda1 xfs {uuid}\n", Path(root.directory))
    assert content.read(root, "sda1", "8:1") == content.Content(type="xfs", uuid=uuid)


CRYPTTAB = """\
# <target name> <source device> <key file> <options>
one\tUUID=1f2e3d4c  /etc/keys/one luks,discard

two /dev/sda2 none
three /dev/sda3 -
four /dev/sda4
five
  six /dev/sda6 /dev/urandom swap,,x
"""


def test_lines_of_crypttab_are_read() -> None:
    assert crypttab.parse(CRYPTTAB) == (
        CryptEntry(name="one", source="UUID=1f2e3d4c", key_file="/etc/keys/one", options=("luks", "discard")),
        CryptEntry(name="two", source="/dev/sda2"),
        CryptEntry(name="three", source="/dev/sda3"),
        CryptEntry(name="four", source="/dev/sda4"),
        CryptEntry(name="six", source="/dev/sda6", key_file="/dev/urandom", options=("swap", "x")),
    )


@given(st.text())
def test_any_crypttab_is_entries_with_a_name_and_a_source(text: str) -> None:
    assert all(entry.name and entry.source for entry in crypttab.parse(text))


# --- volume keys -------------------------------------------------------------------------------------------------

# As Linux 6.1 prints them, but for the first two states of a key that is called so.
KEYS = """\
03ec68ce I--Q---     2 perm 1f3f0000     0 65534 keyring   _uid.0: empty
0a5f5d1c I--Q---     1 perm 3f010000     0     0 logon     kdump-cryptsetup:vk-perm: 64
0b5f5d1c I------     1   4m 3f010000     0     0 logon     kdump-cryptsetup:vk-with time left: 64
1a5f5d1c I--Q---     1 expd 3f010000     0     0 logon     kdump-cryptsetup:vk-expired: 64
1b5f5d1c IR-Q---     1 perm 3f010000     0     0 logon     kdump-cryptsetup:vk-revoked: 64
1c5f5d1c I----N-     1 perm 3f010000     0     0 logon     kdump-cryptsetup:vk-negative
1d5f5d1c I--Q---     1 perm 3f010000     0     0 user      kdump-cryptsetup:vk-user: 64
1e5f5d1c I--Q---     1 perm 3f010000     0     0 logon     cifs:a:192.0.2.1: 20
"""


def test_volume_keys_are_the_logon_keys_that_can_be_used_and_are_called_so(sysroot: Make) -> None:
    root = sysroot({"/proc/keys": KEYS})
    assert keyring.volume_keys(root) == ("kdump-cryptsetup:vk-perm", "kdump-cryptsetup:vk-with time left")


def test_kernel_without_keyrings_has_no_volume_keys(sysroot: Make) -> None:
    assert keyring.volume_keys(sysroot({})) == ()


@given(st.text())
def test_any_text_is_some_volume_keys(text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "proc").mkdir()
        (Path(directory) / "proc/keys").write_text(text, errors="surrogateescape")
        assert isinstance(keyring.volume_keys(Root(directory)), tuple)


# --- kinds of devices --------------------------------------------------------------------------------------------

DM = "/sys/devices/virtual/block/dm-0"


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"dm/uuid": "LVM-abc"}, "lvm"),
        ({"dm/uuid": "CRYPT-LUKS2-abc"}, "crypt"),
        ({"dm/uuid": "mpath-360"}, "multipath"),
        ({"dm/uuid": "part1-mpath-360"}, "multipath"),
        ({"dm/uuid": "part12-mpath-360"}, "multipath"),
        ({"dm/uuid": "part1-LVM-abc"}, "dm"),
        ({"dm/uuid": "part-mpath-360"}, "dm"),
        ({"dm/uuid": ""}, "dm"),
        ({"dm/name": "bare"}, "dm"),
        ({"md/level": "raid1"}, "md"),
        ({"loop/backing_file": "/x"}, "loop"),
        ({"partition": "1"}, "partition"),
        ({}, "disk"),
    ],
)
def test_kind_of_device_is_told_by_its_directory(files: Mapping[str, str], kind: str, sysroot: Make) -> None:
    root = sysroot(
        {"/sys/dev/block/253:0": Path(f"../../devices/virtual/block/{'vda/' if kind == 'partition' else ''}dm-0")}
        | {f"/sys/devices/virtual/block/{'vda/' if kind == 'partition' else ''}dm-0/{name}": text
           for name, text in ({"dev": "253:0", "size": "8"} | dict(files)).items()}
    )  # fmt: skip
    assert block.read(root, block.directory_of(root, "253:0")).kind == kind


def test_device_that_is_its_own_slave_is_an_error_and_no_loop(sysroot: Make) -> None:
    files: dict[str, str | Path] = {"/sys/dev/block/253:0": Path("../../devices/virtual/block/dm-0")}
    files |= {f"{DM}/dev": "253:0", f"{DM}/slaves/dm-0": Path("../../dm-0"), f"{DM}/slaves/dm-1": Path("../../dm-0")}
    start = time.monotonic()
    with pytest.raises(HostError):
        stack.read(sysroot(files), (), ["253:0"])
    assert time.monotonic() - start < 2


def test_unknown_device_number_is_named(sysroot: Make) -> None:
    with pytest.raises(HostError, match="/sys/dev/block/8:1: no such block device"):
        stack.read(sysroot({}), (), ["8:1"])


def test_uuid_is_found_in_any_case(host_root: HostRoot) -> None:
    root = host_root("two-targets")
    assert block.find(root, "UUID=99887766-5544-3322-1100-FFEEDDCCBBAA") == "254:2"


# --- targets -----------------------------------------------------------------------------------------------------


def fs_type(target: TargetFacts) -> str:
    assert target.filesystem
    return target.filesystem.type


@pytest.mark.parametrize("device", ["/dev/vda2", "/dev/disk/by-uuid/99887766-5544-3322-1100-ffeeddccbbaa"])
def test_disk_target_is_found_by_its_path_or_a_link_to_it(device: str, host_root: HostRoot) -> None:
    (found,) = targets.read(host_root("two-targets"), [DiskTarget(device=device, path="/a/b/")])
    assert (found.device.name, fs_type(found), found.directory) == ("vda2", "xfs", "a/b")


def test_disk_target_that_udev_does_not_know_is_read(host_root: HostRoot) -> None:
    root = host_root("two-targets")
    trees.make("remove /run/udev\ndevice /dev/vda2 ext4 99887766-5544-3322-1100-ffeeddccbbaa", Path(root.directory))
    (found,) = targets.read(root, [DiskTarget(device="/dev/vda2")])
    assert fs_type(found) == "ext4"


def test_disk_target_without_a_known_file_system_is_named(host_root: HostRoot) -> None:
    root = host_root("two-targets")
    trees.make("remove /run/udev\nfile /dev/vda2 nothing", Path(root.directory))
    with pytest.raises(HostError, match="/dev/vda2: no file system that we know is on it"):
        targets.read(root, [DiskTarget(device="/dev/vda2")])


def test_disk_target_that_is_not_there_is_named(host_root: HostRoot) -> None:
    with pytest.raises(HostError, match="/dev/sdz9: no such block device on this machine"):
        targets.read(host_root("two-targets"), [DiskTarget(device="/dev/sdz9")])


def test_target_through_a_loop_of_links_is_named(host_root: HostRoot) -> None:
    root = host_root("two-targets")
    trees.make("link /srv/loop loop", Path(root.directory))
    with pytest.raises(HostError, match="/srv/loop"):
        targets.read(root, [PathTarget(path="/srv/loop")])


@pytest.mark.parametrize(
    "path", ["/var/crash/../../var/crash", "//var//crash/", "/var/crash/.", "/../../../../var/crash"]
)
def test_directory_is_resolved_inside_the_root(path: str, host_root: HostRoot) -> None:
    (found,) = targets.read(host_root("two-targets"), [PathTarget(path=path)])
    assert (found.name, found.directory) == (path, "var/crash")


# --- root --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("links", "path", "resolved"),
    [
        ({}, "/a/b", "/a/b"),
        ({"/a": "b"}, "/a/c", "/b/c"),
        ({"/a": "/b"}, "/a/c", "/b/c"),
        ({"/x/a": "../b"}, "/x/a/c", "/b/c"),
        ({"/a": "../../../../etc"}, "/a/passwd", "/etc/passwd"),
        ({"/a": "b", "/b": "c"}, "/a", "/c"),
        ({"/a": "/x/y", "/x/y": "../z"}, "/a/w", "/z/w"),
    ],
)
def test_links_are_resolved_as_in_a_chroot(links: Mapping[str, str], path: str, resolved: str, sysroot: Make) -> None:
    assert sysroot({name: Path(target) for name, target in links.items()}).resolve(path) == resolved


def test_loop_of_links_is_an_error(sysroot: Make) -> None:
    root = sysroot({"/a": Path("b"), "/b": Path("a")})
    with pytest.raises(HostError, match="too many levels of symbolic links"):
        root.resolve("/a")


# --- the kernel --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    [
        "/boot/vmlinuz-6.1",
        "/usr/lib/modules/6.1/vmlinuz",
        "/lib/modules/6.1/vmlinuz",
        "/boot/vmlinux-6.1",
        "/boot/kernel-6.1",
        "/boot/bzImage-6.1",
        "/boot/Image-6.1",
        "/boot/kernel-genkernel-x86_64-6.1",
    ],
)
def test_kernel_is_found_where_distributions_put_it(image: str, sysroot: Make) -> None:
    root = sysroot({image: kernelmaker.bzimage("6.1"), "/lib/modules/6.1/modules.dep": ""})
    assert kernel.read(root, KernelSection(version="6.1"), "x86_64").image == image


def test_modules_are_found_below_usr_as_well(sysroot: Make) -> None:
    root = sysroot({"/boot/vmlinuz-6.1": kernelmaker.bzimage("6.1"), "/usr/lib/modules/6.1/modules.dep": ""})
    assert kernel.read(root, KernelSection(version="6.1"), "x86_64").modules_dir == "/usr/lib/modules/6.1"


def test_configured_image_and_modules_are_taken(sysroot: Make) -> None:
    root = sysroot(
        {"/opt/bz": kernelmaker.bzimage("6.1"), "/opt/modules/modules.dep": "", "/opt/config-6.1": "CONFIG_RD_XZ=y"}
    )
    found = kernel.read(root, KernelSection(version="6.1", image="/opt/bz", modules_dir="/opt/modules"), "x86_64")
    assert (found.image, found.modules_dir, found.initramfs_compressions) == ("/opt/bz", "/opt/modules", ("xz",))


@pytest.mark.parametrize(
    ("text", "able"),
    [
        ("CONFIG_RD_ZSTD=y\nCONFIG_RD_GZIP=y\n", ("zstd", "gzip")),
        ("# CONFIG_RD_ZSTD is not set\nCONFIG_RD_XZ=y\n", ("xz",)),
        ("CONFIG_RD_ZSTD=m\nXCONFIG_RD_XZ=y\nCONFIG_RD_XZ=yes\n", ()),
        ("", ()),
        (None, None),
    ],
)
def test_compressions_are_those_of_the_kernels_config(text: str | None, able: tuple[str, ...], sysroot: Make) -> None:
    files = {"/boot/vmlinuz-6.1": kernelmaker.bzimage("6.1"), "/lib/modules/6.1/modules.dep": b""}
    root = sysroot(files if text is None else files | {"/boot/config-6.1": text.encode()})
    assert kernel.read(root, KernelSection(version="6.1"), "x86_64").initramfs_compressions == able


def test_config_of_the_running_kernel_says_nothing_of_another(host_root: HostRoot) -> None:
    root = host_root("gentoo-openrc")
    trees.make("kernel /boot/kernel-7.0 7.0\nmodules /lib/modules/7.0", Path(root.directory))
    assert kernel.read(root, KernelSection(version="7.0"), "x86_64").initramfs_compressions is None


def test_broken_config_of_the_running_kernel_is_one_error(host_root: HostRoot) -> None:
    root = host_root("gentoo-openrc")
    Path(f"{root.directory}/proc/config.gz").write_bytes(b"\x1f\x8bbroken")
    with pytest.raises(HostError, match=r"/proc/config\.gz: "):
        kernel.read(root, KernelSection(), "x86_64")


@pytest.mark.parametrize("release", ["..", ".", "../../etc/passwd", "a/b"])
def test_release_that_is_a_path_is_refused(release: str, sysroot: Make) -> None:
    with pytest.raises(HostError, match="not the name of a kernel release"):
        kernel.read(sysroot({}), KernelSection(version=release), "x86_64")


@pytest.mark.parametrize("release", ["$(id)", "a b", "6.1\x1b[2J", "é"])
def test_release_with_odd_characters_is_no_installed_kernel(release: str, sysroot: Make) -> None:
    with pytest.raises(HostError, match="no such kernel is installed"):
        kernel.read(sysroot({}), KernelSection(version=release), "x86_64")


def test_real_kernels_are_found() -> None:
    for release, directory in kernels.roots().items():
        found = kernel.read(Root(directory), KernelSection(version=release), "x86_64")
        assert found.image == f"/boot/vmlinuz-{release}"
        assert "gzip" in (found.initramfs_compressions or ())


# --- programs ----------------------------------------------------------------------------------------------------


def test_applets_are_those_that_the_real_busybox_lists() -> None:
    programs.need("busybox")
    path = subprocess.run(["sh", "-c", "command -v busybox"], capture_output=True, text=True, check=True).stdout.strip()
    listed = subprocess.run([path, "--list"], capture_output=True, text=True, check=True).stdout.split()
    assert list(tools.parse_applets(Path(path).read_bytes())) == listed


@pytest.mark.parametrize("content", [b"", b"\0[\0", b"[\0[[\0", b"\x7fELF"])
def test_program_without_a_table_has_no_applets(content: bytes) -> None:
    assert tools.parse_applets(content) == ()


@pytest.mark.parametrize("before", [b"", b"\0", b"\xae "])
def test_table_of_applets_is_found_whatever_stands_before_it(before: bytes) -> None:
    assert tools.parse_applets(before + b"[\0[[\0acpid\0ash\0\0more") == ("[", "[[", "acpid", "ash")


@given(st.binary(max_size=300))
def test_any_bytes_have_some_applets(content: bytes) -> None:
    assert isinstance(tools.parse_applets(b"\0[\0[[\0" + content), tuple)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"/bin/kexec": "x"}, "/bin/kexec"),
        ({"/sbin/kexec": "x", "/usr/local/sbin/kexec": "x"}, "/usr/local/sbin/kexec"),
        ({"/usr/sbin/kexec": Path("/opt/kexec"), "/opt/kexec": "x"}, "/usr/sbin/kexec"),
        ({"/usr/sbin/kexec": Path("/nowhere"), "/bin/kexec": "x"}, "/bin/kexec"),
        ({"/usr/sbin/kexec/": ""}, ""),
        ({}, ""),
    ],
)
def test_program_is_found_as_a_shell_of_root_would_find_it(
    files: Mapping[str, str | bytes | Path], found: str, sysroot: Make
) -> None:
    assert tools.find(sysroot(files), "kexec") == found


@pytest.mark.parametrize(
    ("needed", "able"),
    [
        ((), ()),
        (("libc.so.6",), ()),
        (("libz.so.1", "liblzo2.so.2", "libc.so.6"), ("lzo", "zlib")),
        (("libzstd.so.1", "libsnappy.so.1"), ("snappy", "zstd")),
        (("libzip.so.1",), ()),
    ],
)
def test_libraries_tell_what_makedumpfile_can_compress_with(
    needed: tuple[str, ...], able: tuple[str, ...], sysroot: Make
) -> None:
    root = sysroot({"/usr/bin/makedumpfile": elfmaker.program(needed=needed)})
    assert tools.read(root).makedumpfile_compressions == able


@pytest.mark.parametrize(
    ("machine", "name"), [(elfmaker.X86_64, "x86_64"), (elfmaker.AARCH64, "aarch64"), (elfmaker.S390X, "s390x")]
)
def test_machine_is_that_of_the_shell(machine: elfmaker.Machine, name: str, sysroot: Make) -> None:
    assert tools.machine(sysroot({"/bin/sh": elfmaker.program(machine=machine)})) == name
    assert tools.machine(sysroot({"/bin/sh": "#!"})) == ""


# --- the command line, and the rest ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("", ()),
        ("  \n", ()),
        ("a b=c\n", ("a", "b=c")),
        ('a="b c" d', ('a="b c"', "d")),
        ('"a=b c" d', ('"a=b c"', "d")),
        ('a="b c', ('a="b c',)),
        ('a"', ('a"',)),
        ('"', ('"',)),
        ("a=$(id) `id` ;id", ("a=$(id)", "`id`", ";id")),
        ("a\tb\nc", ("a", "b", "c")),
        ("=x ==", ("=x", "==")),
    ],
)
def test_command_line_is_split_as_the_kernel_splits_it(text: str, parameters: tuple[str, ...]) -> None:
    assert probe.split_cmdline(text) == parameters


@given(st.text(alphabet=st.sampled_from('ab =" \t\n$-_\\\x80'), max_size=80))
def test_any_command_line_is_split_without_losing_anything(text: str) -> None:
    words = probe.split_cmdline(text)
    assert re.sub(r"\s", "", "".join(words)) == re.sub(r"\s", "", text)
    assert all(words)
    assert probe.split_cmdline(" ".join(words)) == words


def test_long_command_line_is_split_at_once() -> None:
    start = time.monotonic()
    probe.split_cmdline('a"' * 50_000)
    probe.split_cmdline('"' * 50_001)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("crashbox\n", "crashbox"),
        ("a.b-c_d", "a.b-c_d"),
        ("", "localhost"),
        ("-rf", "rf"),
        ("../../etc", "_.._etc"),
        ("$(id)`x`", "__id__x_"),
        ("é\x1b[2J", "___2J"),
        ("a" * 300, "a" * 64),
        ("..", "localhost"),
    ],
)
def test_host_name_is_safe_in_a_directory_name(text: str, name: str, host_root: HostRoot) -> None:
    root = host_root("debian-lvm-ext4")
    Path(f"{root.directory}/etc/hostname").write_text(text)
    found = probe.read(root, config.Config()).hostname
    assert found == name or (name.startswith("_") and found == name.lstrip("._"))
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", found)


def test_reserved_memory_is_found_at_both_places(sysroot: Make) -> None:
    assert crash.reserved_bytes(sysroot({})) == 0
    assert crash.reserved_bytes(sysroot({"/sys/kernel/kexec/crash_size": "7\n"})) == 7
    assert crash.reserved_bytes(sysroot({"/sys/kernel/kexec_crash_size": "5\n"})) == 5


@pytest.mark.parametrize("directory", ["/sys/kernel", "/sys/kernel/kexec"])
def test_size_of_the_elf_headers_is_read_from_either_place(directory: str, sysroot: Make) -> None:
    assert crash.elfcorehdr_bytes(sysroot({f"{directory}/crash_elfcorehdr_size": "458752\n"})) == 458752
    assert crash.elfcorehdr_bytes(Root("/no/such")) == 0


@pytest.mark.parametrize(
    ("text", "apicid"),
    [
        ("", None),
        ("initial apicid\t: 3\ninitial apicid\t: 4\n", 3),
        ("apicid\t: 9\n", None),
        ("CPU part : 0xd0c", None),
    ],
)
def test_boot_processor_is_the_first_of_cpuinfo(text: str, apicid: int | None, sysroot: Make) -> None:
    assert probe.boot_apicid(sysroot({"/proc/cpuinfo": text})) == apicid


def test_facts_of_another_machine_keep_kernel_and_programs_of_the_root(host_root: HostRoot) -> None:
    debian, gentoo = host_root("debian-lvm-ext4"), host_root("gentoo-openrc")
    other = probe.read(gentoo, config.Config())
    facts = probe.read(debian, config.Config(), facts_of=other)
    own = probe.read(debian, config.Config())
    assert (facts.hostname, facts.targets, facts.cmdline) == (other.hostname, other.targets, other.cmdline)
    assert (facts.kernel, facts.tools, facts.machine) == (own.kernel, own.tools, own.machine)


@pytest.mark.parametrize("content", ["", "{}", "[", '{"schema": 1, "hostname": 3}', "null"])
def test_file_that_holds_no_facts_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(content)
    with pytest.raises(ConfigError, match=r"facts\.json: "):
        probe.load_facts(str(tmp_path / "facts.json"))


def test_block_device_is_printable_as_json() -> None:
    device = BlockDevice(name="sda", kind="disk", number="8:0", size_bytes=1)
    assert msgspec.json.decode(msgspec.json.encode(device), type=BlockDevice) == device


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read_is_named(sysroot: Make) -> None:
    root = sysroot({"/secret": "x"})
    os.chmod(f"{root.directory}/secret", 0)
    with pytest.raises(HostError, match="/secret: Permission denied"):
        root.read_bytes("/secret")
