"""Raw targets without a first kernel: what is written, what is refused, and what is there when the device is full."""

import gzip
import subprocess
from pathlib import Path

import pytest

from kdump_initramfs.dumps import recover, store
from kdump_initramfs.rehearsal import qemu, verify
from kdump_initramfs.storage import DeviceTarget, Disk, TargetFacts
from tests import capture
from tests.vm import test_faults as direct

pytestmark = pytest.mark.guest

_MIB = 1 << 20
SERIAL = "raw-disk"
DISK_MIB = 32


def raw(size_mib: int = DISK_MIB, serial: str = SERIAL) -> DeviceTarget:
    disk = Disk(
        name="disk0",
        number="8:0",
        size_bytes=size_mib * _MIB,
        drivers=("virtio_blk", "virtio_pci"),
        disk_id=serial,
    )
    return DeviceTarget(kind="raw", name="/dev/disk0", stack=(disk,))


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> direct.Core:
    return direct.make_core(tmp_path_factory.mktemp("core"), 8)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(DISK_MIB * _MIB))
    return path


@pytest.fixture
def recovered(tmp_path: Path) -> Path:
    directory = tmp_path / "recovered"
    directory.mkdir()
    return directory


def boot(directory: Path, disk: Path, core: direct.Core, target: TargetFacts, serial: str = SERIAL) -> direct.Ran:
    image = direct.make_image(directory, [target])
    return direct.boot(image, [qemu.Disk(path=str(disk), serial=serial)], core)


def test_what_was_saved_is_recovered_as_it_was(tmp_path: Path, disk: Path, core: direct.Core, recovered: Path) -> None:
    assert "saved to target 0" in boot(tmp_path, disk, core, raw()).console
    path = recover.recover(str(disk), str(recovered)).path
    dump = store.read(path)
    assert path == str(recovered / direct.STAMP)
    assert dump.is_complete
    assert dump.record
    assert dump.record.files.keys() >= {"vmcore.gz", "kexec-dmesg.log"}
    assert [check for check in verify.check_files(dump, dump.record) if not check.passed] == []
    assert gzip.decompress((Path(path) / "vmcore.gz").read_bytes()).endswith(core.memory)


def test_dump_that_nobody_has_recovered_is_not_overwritten(
    tmp_path: Path, disk: Path, core: direct.Core, recovered: Path
) -> None:
    boot(tmp_path, disk, core, raw())
    before = direct.digest(disk)
    ran = boot(tmp_path, disk, core, raw())
    direct.assert_gave_up(ran)
    assert "holds a dump that has not been recovered" in ran.console
    assert direct.digest(disk) == before
    recover.recover(str(disk), str(recovered))
    assert "saved to target 0" in boot(tmp_path, disk, core, raw()).console


def test_device_that_has_got_a_file_system_is_left_alone(tmp_path: Path, disk: Path, core: direct.Core) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    before = direct.digest(disk)
    ran = boot(tmp_path, disk, core, raw())
    direct.assert_gave_up(ran)
    assert "is not empty: ext4 is on it" in ran.console
    assert direct.digest(disk) == before


@pytest.mark.parametrize(("size_mib", "serial"), [(DISK_MIB + 1, SERIAL), (DISK_MIB, "another")])
def test_one_thing_that_agrees_is_not_enough(
    size_mib: int, serial: str, tmp_path: Path, disk: Path, core: direct.Core
) -> None:
    before = direct.digest(disk)
    ran = boot(tmp_path, disk, core, raw(size_mib), serial)
    direct.assert_gave_up(ran)
    assert "no device with the identity of /dev/disk0" in ran.console
    assert direct.digest(disk) == before


def test_device_that_is_too_small_has_the_log_and_may_be_used_again(
    tmp_path: Path, core: direct.Core, recovered: Path
) -> None:
    small = tmp_path / "small"
    # Not more than what the logs and the record may need.
    small.write_bytes(bytes(4 * _MIB))
    image = direct.make_image(tmp_path, [raw(4)])
    log = {direct.MAKEDUMPFILE: lambda _: direct.SAVES_LOG + "exit 1\n"}
    capture.patch_image(image, log)
    for _ in range(2):
        ran = direct.boot(image, [qemu.Disk(path=str(small), serial=SERIAL)], core)
        direct.assert_gave_up(ran)
        assert "no room for a vmcore" in ran.console
    dump = store.read(recover.recover(str(small), str(recovered)).path)
    assert dump.record
    assert not dump.is_complete
    assert (Path(dump.path) / "vmcore-dmesg.txt").read_text() == "a log\n"
