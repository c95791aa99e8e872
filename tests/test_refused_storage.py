"""Storage that looks like what is saved to and is not: refused by name, instead of a dump that has nowhere to go."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_initramfs import build, config
from kdump_initramfs.errors import HostError, KdumpError
from kdump_initramfs.host import block, content, filesystem, layer, probe
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import Text
from kdump_initramfs.storage import Content, Disk, LoopDevice, UnknownDevice, layers
from tests import capture, trees
from tests.capture import Environment
from tests.narrow import only
from tests.test_hardware import PCI, Make, disk, driven, read, scsi, virtual

HostRoot = Callable[[str], Root]
UUID = "1f2e3d4c-5b6a-7988-1f2e-3d4c5b6a7988"
OTHER = "99887766-5544-3322-1100-ffeeddccbbaa"
MIB = 1 << 20


def refused(root: Root) -> str:
    with pytest.raises(KdumpError) as caught:
        build.plan(root, config.load(root=root.directory))
    assert caught.value.hint
    return str(caught.value)


# --- buses that are none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("above", "bus", "driver", "seems"),
    [
        ("/sys/devices/platform/vhci_hcd.0", "platform", "vhci_hcd", "usbip"),
        ("/sys/devices/platform/dummy_hcd.0", "platform", "dummy_hcd", "dummy_hcd"),
    ],
)
def test_usb_disk_on_no_real_bus_is_none(above: str, bus: str, driver: str, seems: str, sysroot: Make) -> None:
    port = f"{above}/usb3/3-1/3-1:1.0"
    files = {**scsi(port, "usb-storage"), **driven(port, "usb", "usb-storage"), **driven(above, bus, driver)}
    assert seems in only(UnknownDevice, read(sysroot, files)).seems


@pytest.mark.parametrize("above", ["/sys/devices/vdpasim_blk/vdpa0", "/sys/devices/virtual/vduse/x/vdpa1"])
def test_virtio_disk_of_vdpa_is_none(above: str, sysroot: Make) -> None:
    virtio = f"{above}/virtio0"
    files = {
        **disk(virtio, "vda", "virtio"),
        **driven(virtio, "virtio", "virtio_blk"),
        **driven(above, "vdpa", "virtio_vdpa"),
    }
    assert "vDPA" in only(UnknownDevice, read(sysroot, files)).seems


def test_virtio_disk_on_a_platform_bus_is_one(sysroot: Make) -> None:
    above = "/sys/devices/platform/a003e00.virtio_mmio"
    files = {
        **disk(f"{above}/virtio0", "vda", "virtio"),
        **driven(f"{above}/virtio0", "virtio", "virtio_blk"),
        **driven(above, "platform", "virtio-mmio"),
    }
    assert only(Disk, read(sysroot, files)).drivers == ("virtio_blk", "virtio_mmio")


def test_array_of_a_cluster_is_none(sysroot: Make) -> None:
    place = "/sys/devices/virtual/block/md0/md"
    files = {**virtual("md0"), f"{place}/level": "raid1\n", f"{place}/bitmap/metadata": "clustered\n"}
    assert "md-cluster" in only(UnknownDevice, read(sysroot, files)).seems


# --- encryption --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dm_uuid", "said"),
    [
        (f"CRYPT-LUKS2-OPAL-{UUID.replace('-', '')}-vda2_crypt", "encrypted by the drive itself (OPAL)"),
        ("CRYPT-VERITY-1-vda2_crypt", "dm-verity"),
        ("CRYPT-INTEGRITY-vda2_crypt", "dm-integrity"),
        (f"CRYPT-SUBDEV-{UUID.replace('-', '')}-vda2_crypt", "dm-integrity"),
        ("CRYPT-PLAIN-vda2_crypt", "encrypted, but not by LUKS"),
        ("CRYPT-BITLK-1-vda2_crypt", "encrypted, but not by LUKS"),
    ],
)
def test_what_is_no_luks_is_called_by_its_name(dm_uuid: str, said: str, host_root: HostRoot) -> None:
    root = host_root("lvm-on-luks")
    Path(root.directory, "sys/devices/virtual/block/dm-0/dm/uuid").write_text(f"{dm_uuid}\n")
    assert said in refused(root)


@pytest.mark.parametrize("kind", ["hw-opal", "hw-opal-crypt"])
def test_header_of_a_drive_that_encrypts_is_refused(kind: str, sysroot: Make) -> None:
    path = Path(sysroot({"/dev/vda": ""}).directory, "dev/vda")
    with path.open("wb") as stream:
        stream.truncate(32 * MIB)
    subprocess.run(
        ["cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
         "--key-file", "-", path], input=b"x", check=True, capture_output=True,
    )  # fmt: skip
    raw = path.read_bytes()
    word = b'"type":"crypt"'
    end = raw.index(b"\0", raw.index(b'{"keyslots"'))
    more = len(kind) - len("crypt")
    changed = raw[:end].replace(word, f'"type":"{kind}"'.encode()) + raw[end + more :]
    assert len(changed) == len(raw)
    path.write_bytes(changed)
    found = content.read(Root(path.parent.parent.as_posix()), "vda", "8:0", len(raw)).luks
    assert found is not None
    assert "OPAL" in found.problem


# --- logical volumes ---------------------------------------------------------------------------------------------


def test_group_on_a_logical_volume_is_refused(host_root: HostRoot) -> None:
    root = host_root("lvm-on-luks")
    Path(root.directory, "sys/devices/virtual/block/dm-0/dm/uuid").write_text(f"LVM-{'o' * 64}\n")
    trees.make("file /run/udev/data/b254:2 E:ID_FS_TYPE=LVM2_member\n", Path(root.directory))
    assert "has vda2_crypt, a logical volume, for a physical one" in refused(root)


# --- loop devices ------------------------------------------------------------------------------------------------


def test_partition_on_a_loop_device_with_large_sectors_is_refused(host_root: HostRoot) -> None:
    root = host_root("loop-file")
    tree = "file /sys/devices/virtual/block/loop0/queue/logical_block_size 4096\n"
    trees.make(tree, Path(root.directory))
    build.plan(root, config.load(root=root.directory))
    trees.make("file /sys/devices/virtual/block/loop0/loop0p1/partition 1\n", Path(root.directory))
    assert "sectors of 4096 bytes" in refused(root)


@pytest.mark.parametrize("name", [" a", "a ", "a b"])
def test_blanks_of_a_file_are_kept(name: str, host_root: HostRoot) -> None:
    root = host_root("loop-file")
    backing = Path(root.directory, "sys/devices/virtual/block/loop0/loop/backing_file")
    backing.write_text(f"{os.path.dirname(backing.read_text())}/{name}\n")
    host = probe.read(root, config.load(root=root.directory))
    (loop,) = layers(host.targets, LoopDevice).devices
    assert loop.file.path.endswith(f"/{name}")


# --- btrfs -------------------------------------------------------------------------------------------------------


def members(sysroot: Make, *uuids: str, seed: bool = False) -> tuple[Root, list[Disk]]:
    root = sysroot({"/dev/vda": ""})
    path = Path(root.directory, "dev/vda")
    with path.open("wb") as stream:
        stream.truncate(160 * MIB)
    second = Path(root.directory, "second")
    with second.open("wb") as stream:
        stream.truncate(160 * MIB)
    made = [path, second] if len(uuids) > 1 and not seed else [path]
    subprocess.run(["mkfs.btrfs", "-q", "-f", "-U", UUID, *made], check=True, capture_output=True)
    names = ("vda", "vdb")
    return root, [
        Disk(name=name, number="8:0", size_bytes=160 * MIB, content=Content(type="btrfs", uuid=uuid))
        for name, uuid in zip(names, uuids, strict=False)
        if uuid
    ]


def test_btrfs_that_is_whole_is_taken(sysroot: Make) -> None:
    root, devices = members(sysroot, UUID, UUID)
    assert filesystem.read(root, "btrfs", devices, (), "x").uuid == UUID


def test_btrfs_that_lacks_a_device_is_refused(sysroot: Make) -> None:
    root, devices = members(sysroot, UUID, "")
    with pytest.raises(HostError, match="of the 2 devices of its btrfs 1 are there"):
        filesystem.read(root, "btrfs", devices, (), "x")


def test_btrfs_with_a_seed_is_refused(sysroot: Make) -> None:
    root, devices = members(sysroot, UUID, OTHER, seed=True)
    with pytest.raises(HostError, match=r"has a seed device \(vdb\)"):
        filesystem.read(root, "btrfs", devices, (), "x")


# --- nodes without udev ------------------------------------------------------------------------------------------


def test_device_is_found_by_a_node_of_its_own(sysroot: Make) -> None:
    if not capture.can_enter():
        pytest.skip("needs root that may make device nodes")
    root = sysroot({**disk(PCI, "sda"), "/dev/mapper/": ""})
    os.mknod(Path(root.directory, "dev/mapper/vg-v"), 0o600 | stat.S_IFBLK, os.makedev(8, 0))
    number = block.find(root, "/dev/mapper/vg-v")
    assert layer.name(block.directory_of(root, number)) == "sda"


# --- in the shell ------------------------------------------------------------------------------------------------


def test_volume_that_is_skipped_by_default_is_activated(environment: Environment) -> None:
    environment.program("/usr/sbin/lvm", 'echo "$*" >>/asked')
    environment.append("/etc/kdump/settings", "export KDUMP_DEVICE_TIMEOUT_S=0\n")
    environment.shell("assemble 35-lvm")
    assert "lvchange --activate y --ignoreactivationskip " in environment.read("/asked")


# --- groups that belong to a host --------------------------------------------------------------------------------

GROUP = """\
vg-data {{
id = "Wk3nNn-XXf4-Wb2y-Q4cV-pJfH-0d7s-VvRk1u"
system_id = "{}"
lock_type = "{}"
physical_volumes {{
pv0 {{
device = "/dev/vda2"
}}
}}
}}
"""


def with_group(host_root: HostRoot, system_id: str, lock_type: str) -> Root:
    root = host_root("debian-lvm-ext4")
    path = Path(root.directory, "etc/lvm/backup/vg-data")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(GROUP.format(system_id, lock_type))
    return root


def conf_of(root: Root) -> str:
    entries = build.plan(root, config.load(root=root.directory)).entries
    (conf,) = (entry.content for entry in entries if isinstance(entry, Text) and entry.path == "/etc/lvm/lvm.conf")
    return conf


@pytest.mark.parametrize("lock_type", ["sanlock", "dlm", "idm"])
def test_group_that_hosts_share_is_refused(lock_type: str, host_root: HostRoot) -> None:
    assert f"is of a group that hosts share by {lock_type}" in refused(with_group(host_root, "", lock_type))


def test_group_that_belongs_to_this_host_is_taken_for_its_own(host_root: HostRoot, tmp_path: Path) -> None:
    (tmp_path / "lvm.conf").write_text(conf_of(with_group(host_root, "node-1.example", "none")))
    words = ["lvmconfig", "global/system_id_source", "local/system_id", "activation/monitoring", "global/use_lvmlockd"]
    environment = {"LVM_SYSTEM_DIR": str(tmp_path), "PATH": os.environ["PATH"]}
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    assert 'system_id_source="lvmlocal"' in said
    assert 'system_id="node-1.example"' in said
    assert {"monitoring=0", "use_lvmlockd=0"} <= set(said.splitlines())


def test_group_of_nobody_needs_no_name(host_root: HostRoot) -> None:
    assert "system_id" not in conf_of(with_group(host_root, "", "none"))
