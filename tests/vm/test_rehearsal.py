"""The product's own rehearsal, over the kernels, buses, file systems and collectors that it knows."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from kdump_initramfs import config
from kdump_initramfs.dumps import store
from kdump_initramfs.host.root import Root
from kdump_initramfs.rehearsal import rehearse
from kdump_initramfs.storage import TargetFacts
from tests import capture

pytestmark = pytest.mark.guest

TIMEOUT_S = 900
# Where the storage of a target cannot be found, the guest still has to end by itself.
DEVICE_TIMEOUT = "capture.device_timeout_s=5"


class Case(Struct, frozen=True, kw_only=True):
    kernel: capture.KernelKind
    target: TargetFacts
    overrides: tuple[str, ...] = ()
    # KASLR may put the kernel into the middle: what is left on either side must be enough for the reservation.
    memory_mib: int = 576
    crashkernel: str = "192M"
    saves: str = "vmcore"
    collector: str = "makedumpfile"


CASES = {
    "generic, LVM, ext4, 128M": Case(
        kernel="generic", target=capture.target(lvm=True), memory_mib=1024, crashkernel="128M"
    ),
    "compressed modules, LVM on a partition, xfs": Case(
        kernel="new", target=capture.target(lvm=True, partition=True, fs="xfs", directory="crash")
    ),
    # Of some 300 MB, at 5 MB/s; copies that are packed are what test_matrix and test_limits save, time and again.
    "SCSI disk, xfs, plain copy": Case(
        kernel="cloud",
        target=capture.target(driver="virtio_scsi", fs="xfs", size_bytes=1 << 30),
        overrides=("vmcore.collector=copy", "vmcore.compression=none"),
        memory_mib=384,
        crashkernel="128M",
        collector="copy",
    ),
    "NVMe partition, ext4, deep directory, zlib": Case(
        kernel="cloud",
        target=capture.target(
            driver="nvme", partition=True, directory="var/lib/of many/levels/crash", size_bytes=900 << 20
        ),
        overrides=("vmcore.compression=zlib",),
        memory_mib=384,
        crashkernel="128M",
    ),
    "SATA disk, the log alone": Case(
        kernel="generic",
        target=capture.target(driver="ahci"),
        overrides=("vmcore.collector=dmesg",),
        memory_mib=384,
        crashkernel="128M",
        saves="vmcore-dmesg.txt",
        collector="dmesg",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_crash_is_saved(case: Case, tmp_path: Path) -> None:
    kernel = capture.release(case.kernel)
    image = tmp_path / "capture.img"
    capture.build_image(kernel, capture.facts(case.target), image, *case.overrides)
    kept = tmp_path / "kept"
    options = rehearse.Options(
        accel="tcg",
        memory_mib=case.memory_mib,
        crashkernel=case.crashkernel,
        timeout_s=TIMEOUT_S,
        keep=str(kept),
    )
    configuration = config.load(root=str(tmp_path), overrides=[*capture.kernel_overrides(kernel), *case.overrides])
    result = rehearse.rehearse(Root(), configuration, str(image), options)
    assert result.passed, "\n".join(rehearse.summary(result))
    (dump,) = store.find([str(kept / "saved")])
    assert dump.record
    assert dump.record.collector.name == case.collector
    assert case.saves in dump.record.files
    assert dump.record.files.keys() >= {store.DMESG, "kexec-dmesg.log"}
    assert ("vmcore" in dump.record.files) is (case.saves == "vmcore")
    assert dump.record.panic == "Kernel panic - not syncing: sysrq triggered crash"
    assert dump.record.memory_low_kib > 0
    assert {step.name: step.status for step in dump.record.steps if step.status not in (0, 77)} == {}


# --- the command -------------------------------------------------------------------------------------------------


def run_command(words: Sequence[str], directory: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """Run `kdump-initramfs` and return what it said."""
    return subprocess.run(
        [*before, sys.executable, "-m", "kdump_initramfs", *words],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(directory), "HOME": str(directory)},
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_S,
        check=False,
    )


def rehearsal_words(kernel: str, image: Path, *overrides: str) -> list[str]:
    settings = [word for override in (*capture.kernel_overrides(kernel), *overrides) for word in ("--set", override)]
    return ["rehearse", kernel, *settings, "--image", str(image), "--accel", "tcg", "--memory", "512", "--json"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_nobody_can_rehearse(tmp_path_factory: pytest.TempPathFactory) -> None:
    kernel = capture.release("cloud")
    # pytest's own directories are for their owner alone.
    directory = Path(f"/tmp/kdump-rehearsal-of-nobody-{os.getpid()}")  # noqa: S108 - made below, and nobody's
    directory.mkdir(mode=0o700)
    try:
        image = directory / "capture.img"
        capture.build_image(kernel, capture.facts(capture.target()), image)
        for path in (directory, image, Path(f"{image}.json")):
            os.chown(path, 65534, 65534)
        # Nobody who may read: the kernels, and this Python, may be in root's home directory.
        identity = ("--reuid=65534", "--regid=65534", "--clear-groups")
        reading = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
        nobody = ("setpriv", *identity, *reading)
        ended = run_command(rehearsal_words(kernel, image), directory, *nobody)
    finally:
        subprocess.run(["rm", "-rf", directory], check=True)
    assert ended.returncode == 0, ended.stderr
    assert all(check["passed"] for check in msgspec.json.decode(ended.stdout)["checks"])


def test_an_image_that_finds_no_target_fails_the_rehearsal(tmp_path: Path) -> None:
    kernel = capture.release("cloud")
    image = tmp_path / "capture.img"
    other = capture.target(uuid=capture.OTHER_FS_UUID)
    record = capture.build_image(kernel, capture.facts(other), image, DEVICE_TIMEOUT)
    # The storage is made as the record says, which is not what the image looks for.
    right = msgspec.structs.replace(record.manifest, targets=(capture.target(),))
    beside = Path(f"{image}.json")
    beside.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, manifest=right)))
    kept = tmp_path / "kept"
    ended = run_command([*rehearsal_words(kernel, image), "--keep", str(kept)], tmp_path)
    assert ended.returncode == 1, ended.stderr
    failed = [check for check in msgspec.json.decode(ended.stdout)["checks"] if not check["passed"]]
    assert [check["name"] for check in failed] == ["one dump was saved"]
    console = (kept / "crash.console").read_text(errors="replace")
    assert "no device with file system UUID 7b0e4ff0" in console
    assert "nothing could be saved" in console


def test_an_image_without_a_collector_that_works_fails_the_rehearsal(tmp_path: Path) -> None:
    kernel = capture.release("cloud")
    image = tmp_path / "capture.img"
    capture.build_image(kernel, capture.facts(capture.target()), image)
    capture.patch_image(image, {"lib/kdump/hooks/70-vmcore.sh": lambda _: "exit 1\n"})
    kept = tmp_path / "kept"
    ended = run_command([*rehearsal_words(kernel, image), "--keep", str(kept)], tmp_path)
    assert ended.returncode == 1, ended.stderr
    failed = {check["name"] for check in msgspec.json.decode(ended.stdout)["checks"] if not check["passed"]}
    assert failed == {"it is complete", "the vmcore is whole"}
