"""What a file system or a volume stands on beside its own device: logs, journals, snapshots; and who finds it again."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdump_initramfs import config, devices, hooks
from kdump_initramfs.errors import KdumpError
from kdump_initramfs.host import probe
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import recognition
from kdump_initramfs.model import HostFacts, TargetDriver, Text
from kdump_initramfs.rehearsal import storage as rehearsing
from kdump_initramfs.storage import DirectoryTarget, Disk, Filesystem, FurtherDevice
from tests import capture, trees
from tests.capture import Environment
from tests.narrow import only

HostRoot = Callable[[str], Root]
MIB = 1 << 20
UUID = "99887766-5544-3322-1100-ffeeddccbbaa"
JOURNAL = "01020304-0506-0708-090a-0b0c0d0e0f10"
# A second disk, on another bus.
DISK_B = """\
link /sys/dev/block/8:0 ../../devices/pci0000:00/0000:00:07.0/ata1/host0/target0:0:0/0:0:0:0/block/sda
link /sys/class/block/sda ../../devices/pci0000:00/0000:00:07.0/ata1/host0/target0:0:0/0:0:0:0/block/sda
link /sys/devices/pci0000:00/0000:00:07.0/driver ../../../bus/pci/drivers/ahci
link /sys/bus/pci/drivers/ahci/module ../../../../module/ahci
dir /sys/module/ahci
link /sys/devices/pci0000:00/0000:00:07.0/ata1/host0/target0:0:0/0:0:0:0/subsystem ../../../../../../../bus/scsi
file /sys/devices/pci0000:00/0000:00:07.0/ata1/host0/target0:0:0/0:0:0:0/wwid naa.5000
file /sys/devices/pci0000:00/0000:00:07.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/dev 8:0
file /sys/devices/pci0000:00/0000:00:07.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/size 131072
link /sys/devices/pci0000:00/0000:00:07.0/ata1/host0/target0:0:0/0:0:0:0/block/sda/device ../../../0:0:0:0
"""
MOUNTINFO = """\
file /proc/self/mountinfo
| 28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
| 30 28 254:2 / /var/crash rw,relatime shared:2 - {} /dev/vda2 {}
"""


def machine(host_root: HostRoot, fs_type: str, options: str, *, wwid: bool = True) -> Root:
    root = host_root("two-targets")
    text = "remove /etc/kdump-initramfs\nremove /run/udev\ndir /dev\n" + DISK_B + MOUNTINFO.format(fs_type, options)
    if not wwid:
        text += "remove /sys/devices/pci0000:00/0000:00:07.0/ata1/host0/target0:0:0/0:0:0:0/wwid\n"
    trees.make(text, Path(root.directory))
    return root


def image_of(root: Root, name: str, size_mib: int) -> Path:
    path = Path(root.directory, "dev", name)
    with path.open("wb") as stream:
        stream.truncate(size_mib * MIB)
    return path


def run(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True)


def facts(root: Root) -> HostFacts:
    return probe.read(root, config.load(root=root.directory))


def target_of(root: Root) -> DirectoryTarget:
    return only(DirectoryTarget, *facts(root).targets)


@pytest.fixture
def xfs(host_root: HostRoot) -> Root:
    root = machine(host_root, "xfs", "rw,logdev=/dev/sda,rtdev=/dev/sda")
    data, log = image_of(root, "vda2", 320), image_of(root, "sda", 80)
    run("mkfs.xfs", "-q", "-f", "-m", f"uuid={UUID}", "-l", f"logdev={log},size=64m", data)
    return root


@pytest.fixture
def ext4(host_root: HostRoot) -> Root:
    """mkfs.ext4 takes only a block device for its journal; what it writes then is written by debugfs(8) here."""
    root = machine(host_root, "ext4", "rw")
    data, journal = image_of(root, "vda2", 64), image_of(root, "sda", 64)
    run("mke2fs", "-q", "-F", "-O", "journal_dev", "-b", "4096", "-U", JOURNAL, journal)
    run("mkfs.ext4", "-q", "-F", "-b", "4096", "-U", UUID, data)
    for name, value in (("journal_inum", "0"), ("journal_uuid", JOURNAL)):
        run("debugfs", "-w", "-R", f"set_super_value {name} {value}", data)
    return root


# --- what is found -----------------------------------------------------------------------------------------------


def test_external_log_is_part_of_the_stack(xfs: Root) -> None:
    found = target_of(xfs)
    assert found.filesystem.further == (FurtherDevice(name="sda", option="logdev"),)
    assert [device.name for device in found.stack] == ["vda2", "sda", "vda"]
    assert found.devices == ("vda2",)
    assert "ahci" in only(Disk, found.stack[1]).drivers


def test_external_journal_is_found_by_its_uuid(ext4: Root) -> None:
    found = target_of(ext4)
    assert found.filesystem.further == (FurtherDevice(name="sda", option="journal_path", uuid=JOURNAL),)
    assert [device.name for device in found.stack] == ["vda2", "sda", "vda"]


def test_log_is_told_by_the_mount_where_the_device_cannot_be_read(host_root: HostRoot) -> None:
    root = machine(host_root, "xfs", "rw,logdev=/dev/sda")
    trees.make(f"link /dev/disk/by-uuid/{UUID} ../../vda2", Path(root.directory))
    assert target_of(root).filesystem.further == (FurtherDevice(name="sda", option="logdev"),)


def test_log_that_is_not_to_be_found_is_refused(host_root: HostRoot) -> None:
    root = machine(host_root, "xfs", "rw")
    data, log = image_of(root, "vda2", 320), image_of(root, "sda", 80)
    run("mkfs.xfs", "-q", "-f", "-l", f"logdev={log},size=64m", data)
    with pytest.raises(KdumpError, match="/var/crash: its xfs has its log on another device") as caught:
        facts(root)
    assert "logdev=" in str(caught.value.hint)


def test_journal_that_is_not_there_is_refused(ext4: Root) -> None:
    Path(ext4.directory, "dev/sda").write_bytes(bytes(8192))
    with pytest.raises(KdumpError, match="/var/crash: its ext4 has its journal on another device"):
        facts(ext4)


def test_device_that_is_a_journal_is_no_target(ext4: Root) -> None:
    shutil.copy(Path(ext4.directory, "dev/sda"), Path(ext4.directory, "dev/vda2"))
    with pytest.raises(KdumpError, match="/var/crash: vda2 holds a journal, and no file system"):
        facts(ext4)


def test_f2fs_on_several_devices_is_refused(host_root: HostRoot) -> None:
    root = machine(host_root, "f2fs", "rw")
    data, _ = image_of(root, "vda2", 320), image_of(root, "sda", 320)
    # It keeps 64 characters of a path.
    subprocess.run(
        ["mkfs.f2fs", "-q", "-f", "-c", "sda", "vda2"], check=True, capture_output=True, cwd=os.path.dirname(data)
    )
    with pytest.raises(KdumpError, match=r"its f2fs is on several devices .*, which the kernel finds by path alone"):
        facts(root)


def test_log_that_nothing_tells_from_another_disk_is_refused(host_root: HostRoot) -> None:
    root = machine(host_root, "xfs", "rw,logdev=/dev/sda", wwid=False)
    trees.make(f"link /dev/disk/by-uuid/{UUID} ../../vda2", Path(root.directory))
    problems = recognition.refusals(root, config.load(root=root.directory), facts(root))
    assert "/var/crash: sda, its logdev, has too little that tells it from another" in str(problems[0])


@pytest.mark.parametrize(("made", "option"), [("xfs", "logdev"), ("ext4", "journal_path")])
def test_rehearsal_does_not_make_another_file_system_instead(
    made: str, option: str, request: pytest.FixtureRequest
) -> None:
    target = target_of(request.getfixturevalue(made))
    with pytest.raises(KdumpError, match=rf"has a device of its own \({option}\), which cannot be made again yet"):
        rehearsing.recipe(target, 64 * MIB)


def test_checksums_of_a_btrfs_are_asked_for(host_root: HostRoot) -> None:
    root = machine(host_root, "btrfs", "rw,space_cache=v2")
    run("mkfs.btrfs", "-q", "-f", "--csum", "xxhash", image_of(root, "vda2", 320))
    trees.make("file /sys/fs/btrfs/x/devices/vda2/dev 254:2", Path(root.directory))
    assert "crypto-xxhash64" in target_of(root).filesystem.requests
    (driver,) = (
        run.contribution
        for run in hooks.contribute(config.Config(), facts(root), root=root)
        if isinstance(run.contribution, TargetDriver)
    )
    assert "crypto-xxhash64" in driver.modaliases


# --- snapshots ---------------------------------------------------------------------------------------------------


def volume(name: str, dm_name: str, layer: str, *slaves: str) -> Iterator[str]:
    directory = f"/sys/devices/virtual/block/{name}"
    yield f"link /sys/dev/block/253:{name[3:]} ../../devices/virtual/block/{name}"
    yield f"file {directory}/dev 253:{name[3:]}"
    yield f"file {directory}/size 2048"
    yield f"file {directory}/dm/name {dm_name}"
    yield f"file {directory}/dm/uuid LVM-{'v' * 32}{(dm_name * 32)[:32].replace('-', 'x')}{layer}"
    for slave in slaves:
        if slave.startswith("dm-"):
            yield f"link {directory}/slaves/{slave} ../../{slave}"
            yield f"link /sys/devices/virtual/block/{slave}/holders/{name} ../../{name}"
        else:
            link = "pci0000:00/0000:00:07.0/ata1/host0/target0:0:0/0:0:0:0/block/sda"
            yield f"link {directory}/slaves/{slave} ../../../../{link if slave == 'sda' else VDA}"


VDA = "pci0000:00/0000:00:04.0/virtio1/block/vda/vda2"


def test_volume_with_a_snapshot_stands_on_that_too(host_root: HostRoot) -> None:
    root = host_root("two-targets")
    lines = [
        *("remove /etc/kdump-initramfs", "remove /run/udev", DISK_B),
        *volume("dm-1", "vg-v-real", "-real", "vda2"),
        *volume("dm-2", "vg-s-cow", "-cow", "sda"),
        *volume("dm-3", "vg-v", "", "dm-1"),
        *volume("dm-4", "vg-s", "", "dm-1", "dm-2"),
        f"link /dev/disk/by-uuid/{UUID} ../../dm-3",
        "elf /usr/sbin/lvm",
        "file /proc/self/mountinfo",
        "| 28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw",
        "| 30 28 253:3 / /var/crash rw,relatime shared:2 - ext4 /dev/mapper/vg-v rw",
    ]
    trees.make("\n".join(lines), Path(root.directory))
    found = target_of(root)
    assert [device.name for device in found.stack] == ["dm-3", "dm-1", "vda2", "dm-2", "vda", "sda"]
    runs = {each.name: each.contribution for each in hooks.contribute(config.Config(), facts(root), root=root)}
    assert "dm_snapshot" in runs["35-lvm"].modules
    assert "ahci" in runs["30-disk"].modules


# --- in the shell ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    if not capture.can_enter():
        pytest.skip("needs root that may make namespaces and device nodes")
    directory = tmp_path_factory.mktemp("image")
    output = directory / "capture.img"
    capture.build_image(capture.release("cloud"), capture.facts(capture.target()), output, "image.compression=none")
    return Environment.unpack(output, directory / "root")


def with_disks(unpacked: Environment, place: Path, *texts: Text) -> Environment:
    """Return an environment with three disks: sda and sdc are alike, sdb has another serial number."""
    made = unpacked.copy_to(place)
    for name, serial in (("sda", "A"), ("sdb", "B"), ("sdc", "A")):
        made.write(f"/sys/devices/{name}/size", "2048\n")
        made.write(f"/sys/devices/{name}/serial", f"{serial}\n")
        made.path(f"/sys/class/block/{name}").symlink_to(f"../../devices/{name}")
        # Nothing is read of them.
        os.mknod(made.path(f"/dev/{name}"), 0o600 | stat.S_IFBLK, os.makedev(240, 0))
    for text in texts:
        made.write(text.path, text.content)
    return made


def described(serial: str) -> tuple[Text, ...]:
    data = Disk(name="vda", number="8:0", size_bytes=MIB, disk_id="x")
    log = Disk(name="vdb", number="8:16", size_bytes=MIB, disk_id=serial)
    filesystem = Filesystem(type="xfs", uuid=UUID, further=(FurtherDevice(name="vdb", option="logdev"),))
    target = DirectoryTarget(
        kind="path", name="x", directory="", filesystem=filesystem, stack=(data, log), devices=("vda",)
    )
    return tuple(devices.filesystem("target-9", target, filesystem, target.carriers))


SHELL = "describe target-9\nfurther_options 0\n"


def test_option_names_the_device_that_was_meant(unpacked: Environment, tmp_path: Path) -> None:
    environment = with_disks(unpacked, tmp_path / "root", *described("B"))
    said = environment.shell(SHELL)
    assert (said.status, said.output) == (0, ",logdev=/dev/sdb")


@pytest.mark.parametrize(("serial", "said"), [("A", "is on several devices: sda sdc"), ("C", "no device with logdev")])
def test_device_that_is_not_certain_ends_the_target(
    serial: str, said: str, unpacked: Environment, tmp_path: Path
) -> None:
    environment = with_disks(unpacked, tmp_path / "root", *described(serial))
    assert environment.shell(f"{SHELL.strip()} || exit 7\n").status == 7
    assert said in environment.read(capture.LOG)
