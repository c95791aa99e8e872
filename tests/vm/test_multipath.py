"""Dumps on disks that several paths lead to: each is one image that QEMU gives out through two SCSI hosts."""

import re
from pathlib import Path

from tests.vm.debian import DATA_DISK_BYTES, Hardware, run_script
from tests.vm.storage import RELEASE, SCRIPTS, Crashed, crash, last_words, marks, tell_monitor

pytestmark = marks

ALUA = SCRIPTS / "alua.sh"

# The first disk is /dev/mapper/mpatha, the second /dev/mapper/mpathb, as long as they are made in their order.
MULTIPATH = r"""
    start_multipath() {
        printf 'defaults {\n user_friendly_names yes\n find_multipaths no\n}\nblacklist {\n devnode "^vd"\n}\n' \
            > /etc/multipath.conf
        udevadm settle
        modprobe -a dm-multipath dm-service-time
        multipath
        udevadm settle
        for whole in /dev/mapper/mpath?; do
            kpartx -a -s -p -part "$whole"
        done
        udevadm settle
        ls -l /dev/mapper
    }
    open_storage() {
        start_multipath
        vgchange --activate y
        mount -o X-mount.mkdir "$(cat device)" /var/crash
    }
"""


class Paths:
    """Disks that two SCSI hosts lead to each; one host loses the first disk when the console says a word."""

    def __init__(self, directory: Path, *disks: str, lose_at: str) -> None:
        self._monitor = str(directory / "monitor")
        self._disk = disks[0]
        self._lose_at = lose_at
        # SCSI target, which is that of the host, of the disk whose kernel name comes first.
        self._first = ""
        self.lost = ""
        words = ["-qmp", f"unix:{self._monitor},server=on,wait=off"]
        for target in "01":
            words += ("-device", f"virtio-scsi-pci,id=host{target}")
        for number, disk in enumerate(disks):
            with (directory / disk).open("wb") as image:
                image.truncate(DATA_DISK_BYTES)
            file = f"file.driver=file,file.filename={directory / disk},file.locking=off"
            words += ("-blockdev", f"driver=raw,node-name={disk},{file}")
            for target in "01":
                place = f"bus=host{target}.0,scsi-id={target},lun={number}"
                names = f"id={disk}-{target},drive={disk},serial={disk},wwn={0x5000C50000000000 + number:#x}"
                words += ("-device", f"scsi-hd,{place},{names},share-rw=on")
        self.hardware = Hardware(disks={}, extra=tuple(words), on_line=self._hear)

    def _hear(self, line: str) -> None:
        if match := re.search(r"sd \d+:0:([01]):\d+: \[sda\] Attached", line):
            self._first = match[1]
        if self._lose_at in line and not self.lost:
            self.lost = self._first
            tell_monitor(self._monitor, "device_del", id=f"{self._disk}-{self.lost}")


def lose_paths(name: str, directory: Path, paths: Paths, script: str) -> Crashed:
    needs = ("virtio_scsi", "dm_multipath", "dm_service_time")
    crashed = crash(name, MULTIPATH + script, (), paths.hardware, directory, needs=needs)
    assert {step.name: step.status for step in crashed.record.steps}["29-multipath"] == 0
    return crashed


EXT4 = """
    make_storage() {
        start_multipath
        mkfs.ext4 -q /dev/mapper/mpatha
        echo /dev/mapper/mpatha > device
        mount_new ext4 /dev/mapper/mpatha
    }
"""


def test_a_path_that_is_lost_while_the_dump_is_saved_is_replaced_by_the_other(tmp_path: Path) -> None:
    paths = Paths(tmp_path, "disk", lose_at=" 70-vmcore")
    log = lose_paths("multipath-ext4", tmp_path, paths, EXT4).log
    assert paths.lost
    assert "EXT4-fs (dm-0): mounted" in log
    assert "Failing path 8:0" in log


# The partition is there twice more, on each path. Nothing of the target is on the other disk, so that its paths are two
# physical volumes of one UUID.
PARTITION = """
    make_storage() {
        start_multipath
        echo 'type=lvm' | sfdisk --quiet --no-reread --label gpt /dev/mapper/mpatha
        start_multipath
        vgcreate san /dev/mapper/mpatha-part1 /dev/mapper/mpathb
        lvcreate --size 400M --name crash san /dev/mapper/mpatha-part1
        mkfs.xfs -q /dev/san/crash
        echo /dev/san/crash > device
        mount_new xfs /dev/san/crash
    }
"""


def test_a_volume_on_a_partition_is_found_by_the_path_that_is_left_and_its_group_has_another_disk(
    tmp_path: Path,
) -> None:
    paths = Paths(tmp_path, "disk", "other", lose_at="Kernel panic")
    log = lose_paths("multipath-partition-lvm-xfs", tmp_path, paths, PARTITION).log
    assert paths.lost
    assert re.search(r"mpath-35000c50000000000: 1 of 2 paths are there: sd[a-z]$", log, re.MULTILINE)
    assert "XFS (dm-2): Mounting" in log


# --- SCSI ALUA ---------------------------------------------------------------------------------------------------


def test_the_device_handler_is_kept_and_the_path_that_the_array_prefers_comes_first(tmp_path: Path) -> None:
    report = run_script(RELEASE, ALUA, tmp_path, hardware=Hardware(disks={"data": "virtio-scsi"}))
    assert report.status == 0, last_words(report)
    states = dict(line.split() for line in report.files["states"].decode().splitlines())
    assert set(states.values()) == {"active/optimized", "active/non-optimized", "standby"}
    table = report.files["table"].decode()
    assert " 1 alua 3 1 round-robin " in table
    first, *others = re.findall(r"\d+:\d+", table)
    assert states[first] == "active/optimized"
    # What was written by it was read by another.
    assert f"{first} F" in report.files["paths-status"].decode()
    assert {*others, first} == set(states)
