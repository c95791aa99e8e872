"""Dumps, whole and after real panics, on what only its own layer tells the needs of.

One guest makes many of them and saves to each, so that they cost one crash; see scripts/zoo-all-targets.sh.
"""

from pathlib import Path

import pytest

from tests.vm.debian import Hardware
from tests.vm.recognition import GENERIC, HOST, SETUP_GENERIC
from tests.vm.storage import RELEASE
from tests.vm.zoo_disks import shared
from tests.vm.zoo_visit import Plan, visit, wrong

pytestmark = [
    pytest.mark.guest,
    pytest.mark.long,
    pytest.mark.skipif(not RELEASE, reason="tests/run makes the Debian guest"),
]

MEMORY_MIB = 768
# A target has to hold a whole vmcore.
PART_MIB = 250


def test_dump_is_whole_on_what_needs_more_than_its_disk_tells(tmp_path: Path) -> None:
    with (tmp_path / "shared").open("wb") as stream:
        stream.truncate(PART_MIB << 20)
    hardware = Hardware(
        disks={
            "bank0": "virtio-blk",
            "bank1": "virtio-blk",
            "uneven": "virtio-blk",
            "far-scsi": "virtio-scsi",
            "far-sata": "ahci",
        },
        extra=shared(str(tmp_path)),
        memory_mib=MEMORY_MIB,
    )
    seen = visit(RELEASE, HOST, hardware, tmp_path, Plan(config="", part_mib=PART_MIB))
    assert wrong(HOST, seen) == {}


def test_dump_is_whole_on_drivers_of_vendors_and_with_their_parameters_by_a_generic_image(tmp_path: Path) -> None:
    hardware = Hardware(
        disks={"uneven": "virtio-blk", "far-nvme": "nvme", "far-sata": "ahci", "far-scsi": "virtio-scsi"},
        memory_mib=MEMORY_MIB,
    )
    plan = Plan(config='[image]\nmode = "generic"\n', setup=SETUP_GENERIC, append="raid0.default_layout=2")
    seen = visit(RELEASE, GENERIC, hardware, tmp_path, plan)
    assert wrong(GENERIC, seen) == {}
