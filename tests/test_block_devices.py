"""What is read of block devices: what lies on them, what they are made of, which targets they make."""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs.config import DiskTarget, PathTarget
from kdump_initramfs.errors import HostError
from kdump_initramfs.host import block, content, crypttab, keyring, layer, stack, targets
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import CryptEntry
from kdump_initramfs.storage import Content, DirectoryTarget, Disk, Filesystem, LoopFile
from tests import trees
from tests.narrow import only

Make = Callable[[Mapping[str, str | bytes | Path]], Root]
HostRoot = Callable[[str], Root]


def test_stack_goes_from_the_volume_down_to_the_disk(host_root: HostRoot) -> None:
    found = stack.read(host_root("lvm-on-luks"), (), ["253:1"])
    assert [(device.name, device.kind) for device in found] == [
        ("dm-1", "lvm"),
        ("dm-0", "crypt"),
        ("vda2", "partition"),
        ("vda", "disk"),
    ]
    assert found[0].content.uuid == "7a1c5a52-6c8e-4f0e-9d3a-3f1f0e2b7c11"
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
    device = "/sys/devices/pci0/host0/0:0:0:0"
    files: dict[str, str | bytes | Path] = {f"{device}/block/sda/dev": "8:0\n"}
    files |= {f"{device}/block/sda/device": Path("../../../0:0:0:0"), f"{device}/subsystem": Path("/sys/bus/scsi")}
    files |= {f"{device}/wwid/": "", f"{device}/serial": "S1\n", "/sys/devices/pci0/driver/module/": ""}
    root = sysroot({"/sys/dev/block/8:0": Path("../../devices/pci0/host0/0:0:0:0/block/sda"), **files})
    assert only(Disk, *stack.read(root, (), ["8:0"])).disk_id == "S1"


# --- what lies on them -------------------------------------------------------------------------------------------


def test_content_is_what_udev_has_recorded(sysroot: Make) -> None:
    record = "S:disk/by-id/x\nI:1\nE:ID_FS_TYPE=LVM2_member\nE:ID_FS_UUID=Wk3nNn-XXf4\nE:ODD=a=b\nG:systemd\n"
    root = sysroot({"/run/udev/data/b8:1": record})
    assert content.read(root, "sda1", "8:1", 1 << 30) == Content(type="LVM2_member", uuid="Wk3nNn-XXf4")
    assert content.udev(root, "8:1")["ODD"] == "a=b"
    assert content.read(root, "sda2", "8:2", 1 << 30) == Content()


def test_content_is_read_from_the_device_where_udev_is_not(sysroot: Make, tmp_path: Path) -> None:
    uuid = "0b5a9f5c-54b4-4a7c-8a4c-0a2f6f3d1e01"
    root = sysroot({"/dev/": ""})
    trees.make(f"device /dev/sda1 xfs {uuid}\n", Path(root.directory))
    assert content.read(root, "sda1", "8:1", 1 << 30) == Content(type="xfs", uuid=uuid, was_read=True)


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
        ({}, "unknown"),
    ],
)
def test_kind_of_device_is_told_by_its_directory(files: Mapping[str, str], kind: str, sysroot: Make) -> None:
    root = sysroot(
        {"/sys/dev/block/253:0": Path(f"../../devices/virtual/block/{'vda/' if kind == 'partition' else ''}dm-0")}
        | {f"/sys/devices/virtual/block/{'vda/' if kind == 'partition' else ''}dm-0/{name}": text
           for name, text in ({"dev": "253:0", "size": "8"} | dict(files)).items()}
    )  # fmt: skip
    file = LoopFile(path="x", offset_bytes=0, filesystem=Filesystem(type="ext4", uuid="1"))
    assert layer.read(root, block.directory_of(root, "253:0"), lambda *_: (file, ())).kind == kind


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


@pytest.mark.parametrize("device", ["/dev/vda2", "/dev/disk/by-uuid/99887766-5544-3322-1100-ffeeddccbbaa"])
def test_disk_target_is_found_by_its_path_or_a_link_to_it(device: str, host_root: HostRoot) -> None:
    found = only(DirectoryTarget, *targets.read(host_root("two-targets"), [DiskTarget(device=device, path="/a/b/")]))
    assert (found.device.name, found.filesystem.type, found.directory) == ("vda2", "xfs", "a/b")


def test_disk_target_that_udev_does_not_know_is_read(host_root: HostRoot) -> None:
    root = host_root("two-targets")
    trees.make("remove /run/udev\ndevice /dev/vda2 ext4 99887766-5544-3322-1100-ffeeddccbbaa", Path(root.directory))
    assert only(DirectoryTarget, *targets.read(root, [DiskTarget(device="/dev/vda2")])).filesystem.type == "ext4"


def test_disk_target_without_a_known_file_system_is_named(host_root: HostRoot) -> None:
    root = host_root("two-targets")
    trees.make("remove /run/udev\nfile /dev/vda2 nothing", Path(root.directory))
    with pytest.raises(HostError, match="/dev/vda2: no known file system is on it"):
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
    found = only(DirectoryTarget, *targets.read(host_root("two-targets"), [PathTarget(path=path)]))
    assert (found.name, found.directory) == (path, "var/crash")
