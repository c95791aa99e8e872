"""Dumps on storage that the crash has changed: disks that are gone, late, on another bus, or there twice."""

import json
import re
import threading
from pathlib import Path

from kdump_initramfs.rehearsal.qemu import Bus
from tests.vm.debian import DATA_DISK_BYTES, Hardware
from tests.vm.storage import BUS_DRIVERS, Crashed, crash, marks, tell_monitor

pytestmark = marks

LATE_S = 20
# Driver and bus of a disk that comes back; both controllers are in the machine all the time.
_PLACES: dict[Bus, tuple[str, str]] = {"virtio-scsi": ("scsi-hd", "bus.0"), "usb-storage": ("usb-storage", "usb.0")}


class Plug:
    """Disks on a SCSI bus; the first is taken away, through QEMU's monitor, as the kernel panics."""

    def __init__(
        self, directory: Path, *serials: str, back_after_s: float | None = None, back_on: Bus = "virtio-scsi"
    ) -> None:
        self._monitor = str(directory / "monitor")
        self.serials = serials
        self._back_after_s = back_after_s
        self._back_on: Bus = back_on
        words = ["-qmp", f"unix:{self._monitor},server=on,wait=off"]
        words += ("-device", "virtio-scsi-pci,id=bus", "-device", "qemu-xhci,id=usb")
        for serial in serials:
            with (directory / serial).open("wb") as disk:
                disk.truncate(DATA_DISK_BYTES)
            words += ("-blockdev", f"driver=raw,node-name={serial},file.driver=file,file.filename={directory / serial}")
        self._places: dict[str, Bus] = dict.fromkeys(serials, "virtio-scsi")
        self.hardware = Hardware(disks={}, extra=tuple(words), plugged=self._plugged, on_line=self._hear)

    @property
    def is_away(self) -> bool:
        return self.serials[0] not in self._places

    def _plugged(self) -> tuple[str, ...]:
        """Return the disks that are there by now, for the next boot."""
        devices = (json.dumps(self._device(serial, bus)) for serial, bus in self._places.items())
        return tuple(word for device in devices for word in ("-device", device))

    def _device(self, serial: str, bus: Bus) -> dict[str, str]:
        driver, place = _PLACES[bus]
        return {"driver": driver, "id": f"{serial}-on-{bus}", "bus": place, "drive": serial, "serial": serial}

    def _hear(self, line: str) -> None:
        if "Kernel panic" in line:
            self._command("device_del", id=self._device(self.serials[0], "virtio-scsi")["id"])
            del self._places[self.serials[0]]
        elif "capture environment of kernel" in line and self._back_after_s is not None:
            threading.Timer(self._back_after_s, self._bring_back).start()

    def _bring_back(self) -> None:
        self._command("device_add", **self._device(self.serials[0], self._back_on))
        self._places[self.serials[0]] = self._back_on

    def _command(self, name: str, **arguments: str) -> None:
        tell_monitor(self._monitor, name, **arguments)


def unplug(name: str, script: str, plug: Plug, directory: Path, *needs: str) -> Crashed:
    return crash(name, script, plug.serials, plug.hardware, directory, needs=("virtio_scsi", *needs))


LATE = """
    make_storage() {
        mkfs.ext4 -q "$DISKS/late"
        mkfs.ext4 -q "$DISKS/decoy"
        mount_new ext4 "$DISKS/late"
        cp late.node decoy.node "$REPORT"
    }
"""


def test_disks_in_another_order_and_one_of_them_late(tmp_path: Path) -> None:
    plug = Plug(tmp_path, "late", "decoy", back_after_s=LATE_S)
    crashed = unplug("ext4-on-a-late-disk", LATE, plug, tmp_path)
    assert not plug.is_away
    late, decoy = (
        crashed.report.files[f"{name}.node"].decode().strip().removeprefix("/dev/") for name in ("late", "decoy")
    )
    # The decoy has taken its name.
    assert (late, decoy) == ("sda", "sdb")
    assert "EXT4-fs (sdb): mounted" in crashed.log


MOVED = """
    make_storage() {
        mkdir -p /etc/kdump-initramfs
        printf '[image]\\nmode = "generic"\\n' > /etc/kdump-initramfs/config.toml
        partition=$(one_partition moved)
        mkfs.xfs -q "$partition"
        mount_new xfs "$partition"
    }
"""


def test_generic_image_finds_a_disk_that_has_moved_to_another_bus(tmp_path: Path) -> None:
    plug = Plug(tmp_path, "moved", back_after_s=0, back_on="usb-storage")
    crashed = unplug("xfs-partition-generic", MOVED, plug, tmp_path, "xfs", *BUS_DRIVERS["usb-storage"])
    assert not plug.is_away
    assert re.search(r"drivers:.* usb_storage", crashed.log)


# Three targets, of which the first does not come back; the second is there twice, as after a snapshot of the storage.
PASSED_OVER = """
    away=gone
    make_storage() {
        mkdir -p /etc/kdump-initramfs
        printf '[capture]\\ndevice_timeout_s = 8\\n' > /etc/kdump-initramfs/config.toml
        for target in /srv/gone /srv/twice /var/crash; do
            mkdir -p "$target"
            printf '[[target]]\\nkind = "path"\\npath = "%s"\\n' "$target" >> /etc/kdump-initramfs/config.toml
        done
        for disk in gone twice; do
            mkfs.ext4 -q "$DISKS/$disk" 64M
            mount "$DISKS/$disk" "/srv/$disk"
            blkid -p -s UUID -o value "$DISKS/$disk" > "$REPORT/$disk.uuid"
        done
        mkfs.ext4 -q "$DISKS/good"
        mount_new ext4 "$DISKS/good"
    }
    before_crash() {
        sync
        dd if="$DISKS/twice" of="$DISKS/twin" bs=1M count=64
    }
    check_storage() {
        for disk in twice twin; do
            mount "$DISKS/$disk" /mnt
            fails ls /mnt/crashguest-*
            umount /mnt
        done
    }
"""


def test_target_that_is_gone_and_one_that_is_there_twice_are_passed_over(tmp_path: Path) -> None:
    plug = Plug(tmp_path, "gone", "twice", "twin", "good")
    crashed = unplug("ext4-as-third-target", PASSED_OVER, plug, tmp_path)
    assert plug.is_away
    log = crashed.log
    gone, twice = (crashed.report.files[f"{name}.uuid"].decode().strip() for name in ("gone", "twice"))
    assert f"no device with file system UUID {gone} after 8 s" in log
    assert re.search(rf"file system UUID {twice} is on several devices: sd\w sd\w", log)
    assert "target 2: /var/crash (path)" in log


# The distribution starts an array that has lost a disk after a while; this does not wait for it.
LOST_MEMBER = """
    away=lost
    make_storage() {
        mirror "$DISKS/lost" "$DISKS/left"
        mkfs.ext4 -q /dev/md/mirror
        mount_new ext4 /dev/md/mirror
    }
    open_storage() {
        mdadm --run "/dev/$(ls /sys/block | grep '^md')"
        udevadm settle
        mount /var/crash
    }
"""


def test_array_that_has_lost_a_disk_in_the_crash_is_started_without_it(tmp_path: Path) -> None:
    plug = Plug(tmp_path, "lost", "left")
    log = unplug("ext4-on-md-raid1-that-loses-a-disk", LOST_MEMBER, plug, tmp_path, "raid1").log
    assert plug.is_away
    assert re.search(r"starting array [0-9a-f:]{35} with the members that are there", log)
    assert "active with 1 out of 2 mirrors" in log


LOST_LEG = """
    away=lost
    make_storage() {
        vgcreate group "$DISKS/lost" "$DISKS/two" "$DISKS/three"
        lvcreate --type raid5 --stripes 2 --size 400M --nosync --name crash group
        mkfs.ext4 -q /dev/group/crash
        mount_new ext4 /dev/group/crash
    }
    open_storage() {
        vgchange --activate y --activationmode degraded group
        mount /var/crash
    }
"""


def test_raid_volume_that_has_lost_a_leg_in_the_crash_is_activated_without_it(tmp_path: Path) -> None:
    plug = Plug(tmp_path, "lost", "two", "three")
    log = unplug("ext4-on-lvm-raid5-that-loses-a-leg", LOST_LEG, plug, tmp_path, "dm_raid", "raid456").log
    assert plug.is_away
    assert "Refusing activation of partial LV group/crash" in log
    assert "activating logical volumes degraded, with the physical volumes that are there" in log
    assert re.search(r"raid level 5 active with 2 out of 3 devices", log)
