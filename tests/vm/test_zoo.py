"""Every kind of block device that a Debian guest can make: saved to, or refused by name. None is accepted and lost.

The outcomes are printed as rows of a table, and added to the file that KDUMP_TEST_ZOO names.
"""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from kdump_initramfs.rehearsal.qemu import Bus
from tests import kernels
from tests.vm import zoo
from tests.vm.cases import CASES
from tests.vm.debian import DATA_DISK_BYTES, Hardware, releases
from tests.vm.storage import RELEASE
from tests.vm.zoo import Exhibit
from tests.vm.zoo_disks import ARRAYS, CACHES, FILE_SYSTEMS, HARDWARE, LOOPS, MEMORY, NETWORK, hardware
from tests.vm.zoo_dm import CRYPT, TABLES, VOLUMES
from tests.vm.zoo_visit import BANKS, FULL, Plan, visit, wrong

GROUPS: Mapping[str, Mapping[str, Exhibit]] = {
    "device-mapper": TABLES,
    "volumes": {**VOLUMES, **CRYPT},
    "arrays-and-file-systems": {**ARRAYS, **LOOPS, **FILE_SYSTEMS},
    "memory-network-and-hardware": {**MEMORY, **CACHES, **NETWORK, **HARDWARE},
}
EVERY = {name: exhibit for group in GROUPS.values() for name, exhibit in group.items()}
NEWER = next((release for release in releases()[::-1] if "cloud" not in release and release != RELEASE), "")
MEMORY_MIB = 1024
PMEM = "memmap=96M!512M"


def drivers(release: str) -> set[str]:
    """Return the modules of a kernel that make block devices, as far as their directory tells."""
    tree = Path(kernels.roots()[release], "lib/modules", release, "kernel/drivers")
    places = ("md", "block", "nvme/host", "nvme/target", "mtd/devices", "nvdimm", "target/loopback")
    files = (path for place in places for path in (tree / place).rglob("*.ko*"))
    return {path.name.partition(".ko")[0].replace("-", "_") for path in files}


def machine(directory: Path, group: str) -> Hardware:
    words: tuple[str, ...] = ()
    if any(name in GROUPS[group] for name in HARDWARE):
        words = make_files(directory)
    banks: dict[str, Bus] = dict.fromkeys(BANKS, "virtio-blk")
    return Hardware(disks=banks, extra=words, memory_mib=MEMORY_MIB)


def make_files(directory: Path) -> tuple[str, ...]:
    """Make what is behind the disks of HARDWARE, and return QEMU's words for them."""
    sizes = {"mmc": DATA_DISK_BYTES, "shared": 100 << 20, "pmem": 128 << 20, "vpmem": 128 << 20, "floppy": 1440 << 10}
    for name, size in {**sizes, "sealed": 100 << 20, "cdrom": 100 << 20}.items():
        with (directory / name).open("wb") as stream:
            stream.truncate(size)
    for name in ("sealed", "cdrom"):
        subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", directory / name], check=True)
    return hardware(str(directory))


# Six minutes each.
SAVED_ELSEWHERE = ("volumes", "arrays-and-file-systems")


@pytest.mark.guest
@pytest.mark.skipif(not RELEASE, reason="tests/run makes the Debian guest")
@pytest.mark.long
@pytest.mark.parametrize("group", GROUPS)
def test_no_device_is_accepted_and_lost(group: str, tmp_path: Path) -> None:
    if group in SAVED_ELSEWHERE and not FULL:
        pytest.skip("most of it is saved to by tests/vm/test_storage.py, too: tests/run --full")
    seen = visit(RELEASE, GROUPS[group], machine(tmp_path, group), tmp_path, Plan(append=PMEM))
    assert wrong(GROUPS[group], seen) == {}


@pytest.mark.guest
@pytest.mark.skipif(not NEWER, reason="tests/run makes the Debian guest")
@pytest.mark.parametrize("group", GROUPS)
def test_no_device_of_the_newer_kernel_is_accepted_and_lost(group: str, tmp_path: Path) -> None:
    older = drivers(RELEASE)
    chosen = {
        name: exhibit for name, exhibit in GROUPS[group].items() if FULL or {*exhibit.needs} & drivers(NEWER) - older
    }
    if not chosen:
        pytest.skip("what it has, the older kernel has: tests/run --full")
    seen = visit(NEWER, chosen, machine(tmp_path, group), tmp_path, Plan(append=PMEM))
    assert wrong(chosen, seen) == {}


# --- what the table leaves out -----------------------------------------------------------------------------------


def test_each_kind_that_is_proved_elsewhere_has_its_case() -> None:
    here = Path(__file__).parent
    called = re.compile(r'(?:crash|unplug|lose_paths|lose)\(\s*"([a-z0-9-]+)"')
    cases = {*CASES, *(name for path in here.glob("test_*.py") for name in called.findall(path.read_text()))}
    assert {proved.case for proved in zoo.PROVED.values()} - cases == set()
    print("\n".join((*zoo.proved_rows(), *zoo.not_made_rows())))


@pytest.mark.parametrize("release", list(kernels.roots()))
def test_each_driver_of_a_block_device_is_tried_or_proved_or_cannot_be_made(release: str) -> None:
    tried = {module for exhibit in EVERY.values() for module in exhibit.needs}
    proved = {module for each in zoo.PROVED.values() for module in each.covers}
    assert drivers(release) - tried - proved - {*zoo.NOT_MADE} == set()
