"""Dumps on every kind of storage: made by the distribution's tools in a Debian guest, that then crashes."""

import json
import re
import secrets
import socket
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct, field

from kdump_initramfs.rehearsal.qemu import Bus
from tests.vm.debian import DATA_DISK_BYTES, Hardware, Report, releases, run_script

SCRIPTS = Path(__file__).parent / "scripts"
STORAGE = SCRIPTS / "storage.sh"
APPEND = "crashkernel=192M"
# Not the one for clouds, which lacks drivers of disks.
RELEASE = next((release for release in releases() if "cloud" not in release), "")

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(not RELEASE, reason="tests/run makes the Debian guest"),
]


class Case(Struct, frozen=True, kw_only=True):
    # Shell functions for scripts/storage.sh.
    script: str
    # Serial number -> bus.
    disks: Mapping[str, Bus] = field(default_factory=lambda: {"data": "virtio-blk"})
    cpus: int = 1


CASES = {
    "btrfs-subvolume": Case(
        script="""
            make_storage() {
                mkfs.btrfs -q "$DISKS/data"
                mount "$DISKS/data" /mnt
                btrfs subvolume create /mnt/@crash
                umount /mnt
                mount_new btrfs "$DISKS/data" subvol=@crash
            }
        """,
    ),
    "btrfs-raid1": Case(
        disks={"one": "virtio-blk", "two": "nvme"},
        script="""
            make_storage() {
                mkfs.btrfs -q -m raid1 -d raid1 "$DISKS/one" "$DISKS/two"
                mount_new btrfs "$DISKS/one"
            }
            check_storage() {
                btrfs scrub start -B /var/crash
                btrfs device stats --check /var/crash
                btrfs filesystem df /var/crash > df
                fails grep '^Data, single' df
            }
        """,
    ),
    "vfat-partition-on-sata": Case(
        disks={"data": "ahci"},
        script="""
            make_storage() {
                partition=$(one_partition data)
                mkfs.vfat -F 32 "$partition"
                mount_new vfat "$partition"
            }
        """,
    ),
    "lvm-thin": Case(
        # The pool is smaller than the dump, and must grow while it is saved.
        script="""
            make_storage() {
                vgcreate "thin+vg" "$DISKS/data"
                lvcreate --type thin-pool --size 32M --name the-pool "thin+vg"
                lvcreate --thin --virtualsize 512M --name the-volume "thin+vg/the-pool"
                mkfs.ext4 -q -J size=4 /dev/thin+vg/the-volume
                mount_new ext4 /dev/thin+vg/the-volume
            }
            check_storage() {
                [ "$(lvs --noheadings --nosuffix --units m -o lv_size thin+vg/the-pool | cut -d . -f 1)" -gt 32 ]
            }
        """,
    ),
    "lvm-raid1-under-hostile-settings": Case(
        disks={"one": "virtio-blk", "two": "virtio-scsi"},
        # As after a change of hardware, and as lvmdevices(8) leaves it when it was interrupted.
        script="""
            make_storage() {
                vgcreate mirrored "$DISKS/one" "$DISKS/two"
                lvcreate --type raid1 --mirrors 1 --nosync --size 400M --name crash mirrored
                mkfs.xfs -q /dev/mirrored/crash
                mount_new xfs /dev/mirrored/crash
                cp -r /etc/lvm /etc/lvm.good
                mkdir -p /etc/lvm/devices
                : > /etc/lvm/devices/system.devices
                printf 'devices {\\n use_devicesfile = 1\\n global_filter = [ "r|.*|" ]\\n}\\n' > /etc/lvm/lvm.conf
                fails lvs mirrored/crash
            }
            open_storage() {
                rm -r /etc/lvm
                mv /etc/lvm.good /etc/lvm
                vgchange --activate y mirrored
                mount /var/crash
            }
            check_storage() {
                [ "$(lvs --noheadings -o lv_health_status mirrored/crash | tr -d ' ')" = "" ]
            }
        """,
    ),
    "md-raid1": Case(
        disks={"one": "virtio-scsi", "two": "virtio-scsi"},
        script="""
            make_storage() {
                mirror "$(one_partition one)" "$(one_partition two)"
                mkfs.ext4 -q /dev/md/mirror
                mount_new ext4 /dev/md/mirror
            }
            check_storage() {
                mdadm --detail "$(findmnt -n -o SOURCE /var/crash)" | grep 'Working Devices : 2'
            }
        """,
    ),
    "md-raid1-degraded": Case(
        disks={"one": "virtio-blk", "two": "virtio-blk"},
        # The image was built while the array was whole; the disk that fails then is not there any more.
        script="""
            make_storage() {
                mirror "$DISKS/one" "$DISKS/two"
                mkfs.ext4 -q /dev/md/mirror
                mount_new ext4 /dev/md/mirror
            }
            before_crash() {
                mdadm /dev/md/mirror --fail "$(cat one.node)"
                mdadm /dev/md/mirror --remove "$(cat one.node)"
                wipefs -a "$(cat one.node)"
            }
            check_storage() {
                mdadm --detail "$(findmnt -n -o SOURCE /var/crash)" | grep 'State : .*degraded'
            }
        """,
    ),
    "md-raid1-stale-leg": Case(
        disks={"stale": "virtio-blk", "fresh": "virtio-blk"},
        script="""
            make_storage() {
                mirror "$DISKS/stale" "$DISKS/fresh"
                mkfs.ext4 -q /dev/md/mirror
                mount_new ext4 /dev/md/mirror
            }
            before_crash() {
                mdadm /dev/md/mirror --fail "$(cat stale.node)"
                mdadm /dev/md/mirror --remove "$(cat stale.node)"
                echo fresh > /var/crash/newer
            }
            check_storage() {
                grep fresh /var/crash/newer
                ls -d /var/crash/crashguest-*
            }
        """,
    ),
    "luks-key-file": Case(
        script="""
            make_storage() {
                key_file /etc/cryptsetup-keys.d/crash.key
                cryptsetup luksFormat --batch-mode --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \\
                    "$DISKS/data" /etc/cryptsetup-keys.d/crash.key
                cryptsetup open --key-file /etc/cryptsetup-keys.d/crash.key "$DISKS/data" crash
                echo "crash UUID=$(cryptsetup luksUUID "$DISKS/data") /etc/cryptsetup-keys.d/crash.key luks" \\
                    >> /etc/crypttab
                mkfs.ext4 -q /dev/mapper/crash
                mount_new ext4 /dev/mapper/crash
            }
            open_storage() {
                cryptsetup open --key-file /etc/cryptsetup-keys.d/crash.key "$DISKS/data" crash
                mount /var/crash
            }
        """,
    ),
    "md-luks-lvm-xfs": Case(
        disks={"one": "virtio-blk", "two": "virtio-blk"},
        # The key is behind Argon2, with several threads (cryptsetup makes no more than there are CPUs).
        cpus=2,
        script="""
            make_storage() {
                mirror "$DISKS/one" "$DISKS/two"
                key_file /etc/keys/disk
                cryptsetup luksFormat --batch-mode --type luks2 --pbkdf argon2id --pbkdf-memory 32768 \\
                    --pbkdf-force-iterations 4 --pbkdf-parallel 2 /dev/md/mirror /etc/keys/disk
                cryptsetup luksDump /dev/md/mirror | grep 'Threads: *2'
                cryptsetup open --key-file /etc/keys/disk /dev/md/mirror middle-layer
                echo 'middle-layer /dev/md/mirror /etc/keys/disk luks' >> /etc/crypttab
                vgcreate upper /dev/mapper/middle-layer
                lvcreate --size 400M --name crash upper
                mkfs.xfs -q /dev/upper/crash
                mount_new xfs /dev/upper/crash
            }
            open_storage() {
                cryptsetup open --key-file /etc/keys/disk /dev/md/mirror middle-layer
                vgchange --activate y upper
                mount /var/crash
            }
        """,
    ),
    "luks-on-lvm": Case(
        script="""
            make_storage() {
                vgcreate lower "$DISKS/data"
                lvcreate --extents 100%FREE --name secret lower
                key_file /etc/keys/disk
                cryptsetup luksFormat --batch-mode --type luks1 --pbkdf-force-iterations 1000 \\
                    /dev/lower/secret /etc/keys/disk
                cryptsetup open --key-file /etc/keys/disk /dev/lower/secret crash
                echo 'crash /dev/lower/secret /etc/keys/disk luks' >> /etc/crypttab
                mkfs.ext4 -q /dev/mapper/crash
                mount_new ext4 /dev/mapper/crash
            }
            open_storage() {
                udevadm settle
                vgchange --activate y lower
                cryptsetup open --key-file /etc/keys/disk /dev/lower/secret crash
                mount /var/crash
            }
        """,
    ),
    "bind-mount-behind-a-link-on-nvme": Case(
        disks={"data": "nvme"},
        script="""
            make_storage() {
                partition=$(one_partition data)
                mkfs.xfs -q "$partition"
                mkdir -p /srv/disk /srv/bound
                mount "$partition" /srv/disk
                mkdir -p /srv/disk/deep/dumps
                mount --bind /srv/disk/deep/dumps /srv/bound
                ln -s ../srv/bound /var/crash
            }
            open_storage() {
                mount "/dev/disk/by-id/$(ls /dev/disk/by-id | grep -m 1 'nvme.*data.*part1')" /srv/disk
                mount --bind /srv/disk/deep/dumps /srv/bound
            }
        """,
    ),
    "f2fs": Case(
        script="""
            make_storage() {
                mkfs.f2fs -q "$DISKS/data"
                mount_new f2fs "$DISKS/data"
            }
        """,
    ),
}


# --- dumps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_crash_is_saved_on(case: Case, tmp_path: Path) -> None:
    files = payload(case.script, case.disks)
    report = run_script(
        RELEASE, STORAGE, tmp_path, files=files, hardware=Hardware(disks=case.disks, cpus=case.cpus), append=APPEND
    )
    check_dump(report, files["token"])


def payload(case: str, disks: Iterable[str]) -> dict[str, str]:
    return {
        "token": f"kdump-test-{secrets.token_hex(16)}",
        "case": case,
        "disks": "".join(f"{serial}\n" for serial in disks),
    }


def check_dump(report: Report, token: str) -> None:
    assert report.status == 0, last_words(report)
    (dump,) = decode(report, "list.json")
    assert dump["complete"] is True
    shown = decode(report, "show.json")
    assert shown["name"] == dump["name"]
    assert shown["record"]["kernel"]["release"] == RELEASE
    assert token.encode() in report.files["vmcore-dmesg.txt"]


def decode(report: Report, name: str) -> Any:
    return msgspec.json.decode(report.files[name])


def last_words(report: Report) -> str:
    return "\n".join(report.console.splitlines()[-40:])


# --- disks that are taken away in the crash ----------------------------------------------------------------------

LATE_S = 20


class Plug:
    """Disks on a SCSI bus; the first is taken away, through QEMU's monitor, as the kernel panics."""

    def __init__(self, directory: Path, *serials: str, back_after_s: float | None = None) -> None:
        self._monitor = str(directory / "monitor")
        self._serial = serials[0]
        self._back_after_s = back_after_s
        self.is_away = False
        words = ["-qmp", f"unix:{self._monitor},server=on,wait=off", "-device", "virtio-scsi-pci,id=bus"]
        for serial in serials:
            with (directory / serial).open("wb") as disk:
                disk.truncate(DATA_DISK_BYTES)
            words += ("-blockdev", f"driver=raw,node-name={serial},file.driver=file,file.filename={directory / serial}")
            words += ("-device", f"scsi-hd,id={serial}-disk,bus=bus.0,drive={serial},serial={serial}")
        self.hardware = Hardware(disks={}, extra=tuple(words), on_line=self._hear)

    def _hear(self, line: str) -> None:
        if "Kernel panic" in line:
            self._command("device_del", id=f"{self._serial}-disk")
            self.is_away = True
        elif "capture environment of kernel" in line and self._back_after_s is not None:
            threading.Timer(self._back_after_s, self._bring_back).start()

    def _bring_back(self) -> None:
        device = {"bus": "bus.0", "drive": self._serial, "serial": self._serial}
        self._command("device_add", driver="scsi-hd", id=f"{self._serial}-disk", **device)
        self.is_away = False

    def _command(self, name: str, **arguments: str) -> None:
        tell_monitor(self._monitor, name, **arguments)


def tell_monitor(path: str, name: str, **arguments: str) -> None:
    """Have QEMU's monitor (QMP) at a socket execute a command."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        answers = connection.makefile()
        next(answers)  # the greeting
        for command in ({"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}):
            connection.sendall(json.dumps(command).encode())
            answer: dict[str, object] = {"event": ""}
            while "event" in answer:
                answer = json.loads(next(answers))
            assert "return" in answer, answer


LATE = """
    make_storage() {
        mkfs.ext4 -q "$DISKS/late"
        mkfs.ext4 -q "$DISKS/decoy"
        mount_new ext4 "$DISKS/late"
        cp late.node decoy.node "$REPORT"
    }
"""


def test_a_disk_that_comes_late_and_under_another_name_is_waited_for(tmp_path: Path) -> None:
    plug = Plug(tmp_path, "late", "decoy", back_after_s=LATE_S)
    files = payload(LATE, ("late", "decoy"))
    report = run_script(RELEASE, STORAGE, tmp_path, files=files, hardware=plug.hardware, append=APPEND)
    check_dump(report, files["token"])
    assert not plug.is_away
    late, decoy = (report.files[f"{name}.node"].decode().strip().removeprefix("/dev/") for name in ("late", "decoy"))
    # The decoy has taken its name.
    assert (late, decoy) == ("sda", "sdb")
    assert "EXT4-fs (sdb): mounted" in report.files["kexec-dmesg.log"].decode()


# The distribution starts an array that has lost a disk after a while; this does not wait for it.
LOST = """
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


def test_an_array_that_has_lost_a_disk_in_the_crash_is_started_without_it(tmp_path: Path) -> None:
    plug = Plug(tmp_path, "lost", "left")
    files = payload(LOST, ("lost", "left"))
    report = run_script(RELEASE, STORAGE, tmp_path, files=files, hardware=plug.hardware, append=APPEND)
    check_dump(report, files["token"])
    assert plug.is_away
    log = report.files["kexec-dmesg.log"].decode()
    assert re.search(r"starting array [0-9a-f:]{35} with the members that are there", log)
    assert "active with 1 out of 2 mirrors" in log


# --- refusals ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_opened_unattended_is_refused_with_its_remedy(tmp_path: Path) -> None:
    report = run_script(RELEASE, SCRIPTS / "refusals.sh", tmp_path, append=APPEND)
    assert report.status == 0, last_words(report)
    said = {name: content.decode() for name, content in report.files.items()}
    assert "is opened by a passphrase, which nobody can type after a crash" in said["passphrase"]
    assert "luksAddKey" in said["passphrase"]
    assert "takes 256 MiB to open (Argon2), and 192 MiB are reserved" in said["argon2"]
    assert "--pbkdf pbkdf2" in said["argon2"]
    assert "is encrypted, but not by LUKS" in said["plain"]
    assert "/etc/keys/gone" in said["no-key-file"]
