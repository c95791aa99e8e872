"""The kinds of targets that the matrix of faults is about, each with its disks, made anew for each run."""

import fcntl
import os
import subprocess
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

from kdump_initramfs.model import CryptEntry, HostFacts
from kdump_initramfs.rehearsal.qemu import Bus
from kdump_initramfs.storage import TargetFacts
from tests import capture
from tests.vm import powercut
from tests.vm.debian import Hardware, run_script
from tests.vm.storage import CLOUD_RELEASE, SCRIPTS, last_words
from tests.vm.test_raw import raw

_MIB = 1 << 20
DISK_MIB = 400
UUID = capture.FS_UUID
SHORT_UUID = "1234-ABCD"

# What is made here: a file system on a disk, by the program that makes it.
MAKERS = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-U", UUID],
    "xfs": ["mkfs.xfs", "-q", "-f", "-m", f"uuid={UUID}"],
    "vfat": ["mkfs.vfat", "-F", "32", "-i", SHORT_UUID.replace("-", "")],
}
# What a guest makes once, by scripts/fault_targets.sh: the serial numbers of the disks.
STACKS = {
    "btrfs": ("btrfs-1", "btrfs-2"),
    "lvm": ("lvm-1",),
    "thin": ("thin-1",),
    "luks": ("luks-1",),
    "md": ("md-1", "md-2"),
    "stack": ("stack-1", "stack-2"),
}
KINDS = ("ext4", "xfs", "btrfs", "vfat", "raw", "lvm", "thin", "luks", "md", "stack")
# A disk less is no harm to them.
REDUNDANT = frozenset({"btrfs", "md", "stack"})


class Made(Struct, frozen=True):
    target: TargetFacts
    # Serial number -> image.
    disks: dict[str, Path]
    crypttab: tuple[CryptEntry, ...] = ()


def make(kind: str, directory: Path, factory: pytest.TempPathFactory) -> Made:
    """Return a target of that kind, on new disks in `directory`."""
    if kind in STACKS:
        return _copy_of_stack(kind, directory, factory)
    # The serial number is the one by which a raw target knows its disk.
    disk = directory / "raw-disk"
    with disk.open("wb") as stream:
        stream.truncate(DISK_MIB * _MIB)
    if kind == "raw":
        return Made(raw(DISK_MIB, disk.name), {disk.name: disk})
    subprocess.run([*MAKERS[kind], disk], check=True, capture_output=True)
    return Made(capture.target(fs=kind, uuid=SHORT_UUID if kind == "vfat" else UUID), {disk.name: disk})


def _copy_of_stack(kind: str, directory: Path, factory: pytest.TempPathFactory) -> Made:
    place = _stacks(factory)
    host = msgspec.json.decode((place / "facts.json").read_bytes(), type=HostFacts)
    (target,) = (target for target in host.targets if target.name == f"/srv/{kind}")
    for serial in STACKS[kind]:
        powercut.copy_sparse(place / serial, directory / serial)
    crypttab = tuple(replace(entry, key_file=str(place / "key")) for entry in host.crypttab)
    return Made(target, {serial: directory / serial for serial in STACKS[kind]}, crypttab)


def _stacks(factory: pytest.TempPathFactory) -> Path:
    """Return the directory of what a guest has made; the first who asks makes it, of all processes that test."""
    if not CLOUD_RELEASE:
        pytest.skip("tests/run makes the Debian guest")
    base = factory.getbasetemp()
    # A process of several that test side by side has a directory of its own, below the common one.
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "stacks"
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "facts.json").exists():
            _make_stacks(place)
    return place


def _make_stacks(place: Path) -> None:
    disks: dict[str, Bus] = {serial: "virtio-blk" for serials in STACKS.values() for serial in serials}
    report = run_script(CLOUD_RELEASE, SCRIPTS / "fault_targets.sh", place, hardware=Hardware(disks=disks))
    assert report.status == 0, last_words(report)
    (place / "key").write_bytes(report.files["key"])
    (place / "key").chmod(0o600)
    (place / "facts.json").write_bytes(report.files["facts.json"])
