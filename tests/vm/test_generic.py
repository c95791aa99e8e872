"""Generic images: the disk is on a bus that nobody described, and its driver is found after the crash.

They boot without a first kernel, on a made-up core, as in test_faults.
"""

import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from kdump_initramfs import build, config
from kdump_initramfs.dumps import store
from kdump_initramfs.formats.modprobe_conf import ModuleSettings
from kdump_initramfs.host.root import Root
from kdump_initramfs.rehearsal import qemu, rehearse, storage
from tests import capture, kernels, programs
from tests.vm import test_faults as direct

pytestmark = pytest.mark.guest

_MIB = 1 << 20
_START = _MIB
GENERIC = ("image.mode=generic", "capture.device_timeout_s=20")
# What drives a disk on each bus; sd_mod is asked for by the SCSI disk that the host driver has found.
DRIVERS: dict[qemu.Bus, set[str]] = {
    "nvme": {"nvme"},
    "ahci": {"ahci", "sd_mod"},
    "virtio-scsi": {"virtio_scsi", "sd_mod"},
    "usb-storage": {"xhci_pci", "usb_storage", "uas", "sd_mod"},
}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> direct.Core:
    return direct.make_core(tmp_path_factory.mktemp("core"), 8)


def configuration(directory: Path) -> config.Config:
    """Return that of an image for a file system that this machine does not have, known by its UUID and type alone."""
    target = f'target=[{{kind = "disk", device = "UUID={capture.FS_UUID}", fs_type = "ext4", path = "/crash"}}]'
    words = [*capture.kernel_overrides(capture.release("generic")), *GENERIC, target]
    return config.load(root=str(directory / "no-configuration"), overrides=words)


def make_disk_with_partition(directory: Path) -> Path:
    """Return a disk whose one partition has the file system that is wanted."""
    content = direct.make_disk(directory / "partition").read_bytes()
    disk = directory / "disk"
    storage.write_disk(str(disk), _START + len(content), "mbr")
    with disk.open("r+b") as stream:
        stream.seek(_START)
        stream.write(content)
    return disk


def saved_in_partition(disk: Path, directory: Path) -> store.Dump:
    """Return the one dump on the partition of a disk."""
    partition = directory / "partition"
    partition.write_bytes(disk.read_bytes()[_START:])
    (dump,) = store.find([str(direct.on_disk(partition, directory) / "crash")])
    return dump


def loaded_drivers(console: str) -> set[str]:
    return {word for line in console.splitlines() for word in line.partition("] drivers: ")[2].split()}


@pytest.mark.parametrize("bus", DRIVERS)
def test_a_file_system_that_is_known_by_its_uuid_alone_is_found_on_any_bus(
    bus: qemu.Bus, tmp_path: Path, core: direct.Core
) -> None:
    image, disk = tmp_path / "capture.img", make_disk_with_partition(tmp_path)
    build.build(Root(), configuration(tmp_path), output=str(image))
    ran = direct.boot(image, [qemu.Disk(path=str(disk), bus=bus)], core, kind="generic")
    assert "saved to target 0" in ran.console
    dump = saved_in_partition(disk, tmp_path)
    assert dump.is_complete
    assert dump.record
    assert {step.name: step.status for step in dump.record.steps}["55-free"] == 0
    # What no device asks for is not loaded, whatever is in the image.
    assert loaded_drivers(ran.console) - {"virtio_pci"} == DRIVERS[bus]


def vendors_kernel(directory: Path) -> list[str]:
    """Return the `--set` words for a kernel whose NVMe driver is a vendor's, of another name and in another place."""
    release = capture.release("generic")
    modules = directory / "lib/modules" / release
    modules.parent.mkdir(parents=True)
    subprocess.run(["cp", "-a", f"{kernels.roots()[release]}/lib/modules/{release}", modules], check=True)
    ours = next(modules.glob("kernel/drivers/nvme/host/nvme.ko*"))
    (modules / "extra/acme").mkdir(parents=True)
    ours.rename(modules / f"extra/acme/acme_disk{ours.name.removeprefix('nvme')}")
    subprocess.run(["depmod", "-b", directory, release], check=True)
    return [*capture.kernel_overrides(release), f"kernel.modules_dir={modules}"]


def test_a_vendors_driver_is_found_by_its_device_and_gets_its_parameters(tmp_path: Path, core: direct.Core) -> None:
    programs.need("depmod")
    image, disk = tmp_path / "capture.img", make_disk_with_partition(tmp_path)
    described = capture.facts(capture.target(driver="virtio_blk", partition=True, directory="crash"))
    options = (("nvme_core", 'of_modprobe_d="a b"'), ("acme_disk", "io_queue_depth=64"))
    described = replace(described, module_settings=ModuleSettings(options=options))
    configured = config.load(root=str(tmp_path / "no-configuration"), overrides=[*vendors_kernel(tmp_path), *GENERIC])
    build.build(Root(), configured, output=str(image), facts_of=described)
    ran = direct.boot(image, [qemu.Disk(path=str(disk), bus="nvme")], core, kind="generic")
    assert "saved to target 0" in ran.console
    assert "acme_disk" in loaded_drivers(ran.console)
    dump = saved_in_partition(disk, tmp_path)
    assert dump.is_complete
    said = Path(dump.path, "kexec-dmesg.log").read_text(errors="replace")
    # What a driver does not know it names, and is loaded.
    assert "nvme_core: unknown parameter 'of_modprobe_d' ignored" in said


def test_an_image_for_an_absent_disk_can_be_rehearsed(tmp_path: Path) -> None:
    image = tmp_path / "capture.img"
    build.build(Root(), configuration(tmp_path), output=str(image))
    options = rehearse.Options(accel="tcg", memory_mib=576, crashkernel="192M", timeout_s=240)
    result = rehearse.rehearse(Root(), configuration(tmp_path), str(image), options)
    assert result.passed, "\n".join(rehearse.summary(result))
    # The drivers that nobody asked for do not stay in memory.
    assert result.memory_low_kib > 16 << 10


def test_a_disk_that_was_described_on_another_bus_is_found(tmp_path: Path, core: direct.Core) -> None:
    image, disk = tmp_path / "capture.img", make_disk_with_partition(tmp_path)
    described = capture.facts(capture.target(driver="virtio_blk", partition=True, directory="crash"))
    capture.build_image(capture.release("generic"), described, image, *GENERIC)
    assert (
        "saved to target 0" in direct.boot(image, [qemu.Disk(path=str(disk), bus="nvme")], core, kind="generic").console
    )
    assert saved_in_partition(disk, tmp_path).is_complete


def test_an_image_for_the_host_does_not_find_a_disk_on_another_bus(tmp_path: Path, core: direct.Core) -> None:
    image, disk = tmp_path / "capture.img", make_disk_with_partition(tmp_path)
    described = capture.facts(capture.target(driver="virtio_blk", partition=True, directory="crash"))
    capture.build_image(capture.release("generic"), described, image, direct.DEVICE_TIMEOUT)
    ran = direct.boot(image, [qemu.Disk(path=str(disk), bus="nvme")], core, kind="generic")
    direct.assert_gave_up(ran)
    assert f"no device with file system UUID {capture.FS_UUID}" in ran.console
