"""What check knows: which makedumpfile reads which kernel, how much room is enough, where debug info is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdump_initramfs.check import collector, debuginfo, options, target
from kdump_initramfs.check.finding import State
from kdump_initramfs.config import RetentionSection
from kdump_initramfs.host import kernel_config
from kdump_initramfs.host.root import Root
from kdump_initramfs.storage import DeviceTarget, Disk, Partition
from tests import kernels

_MIB = 1 << 20
RELEASE = "6.1.0-35-amd64"


@pytest.mark.parametrize(
    ("number", "kernel", "expected"),
    [
        ((1, 7, 2), (6, 0), True),
        ((1, 7, 2), (6, 1), False),
        ((1, 7, 2), (5, 10), True),
        ((1, 7, 4), (5, 15), True),
        ((1, 7, 4), (6, 6), None),
        ((1, 7, 4), (6, 12), False),
        ((1, 7, 6), (6, 12), False),
        ((1, 7, 7), (6, 12), None),
        ((1, 7, 8), (6, 12), True),
        ((1, 7, 9), (7, 0), True),
        ((1, 7, 9), (7, 1), False),
        ((1, 8, 0), (7, 1), None),
        ((1, 6, 0), (4, 4), None),
        ((1, 6, 0), (6, 1), False),
    ],
)
def test_makedumpfile_knows_what_its_version_is_known_to_know(
    number: tuple[int, int, int], kernel: tuple[int, int], *, expected: bool | None
) -> None:
    assert collector.knows(number, kernel) is expected


def test_version_is_in_the_binary_of_makedumpfile() -> None:
    path = Path("/usr/bin/makedumpfile")
    if not path.exists():
        pytest.skip("no makedumpfile")
    found = collector.parse(path.read_bytes())
    assert found is not None
    assert (1, 6, 0) <= found < (3, 0, 0)
    assert collector.parse(b"makedumpfile: version x") is None


@pytest.mark.parametrize(
    ("wanted", "binary", "expected"),
    [
        ("auto", b"makedumpfile: version 1.7.9 (", State.OK),
        ("auto", b"makedumpfile: version 1.7.2++ (", State.WEAK),
        ("auto", b"", State.UNKNOWN),
        ("makedumpfile", None, State.BROKEN),
        ("auto", None, State.WEAK),
        ("copy", None, State.OK),
    ],
)
def test_makedumpfile_in_every_state(
    wanted: str, binary: bytes | None, expected: State, sysroot: Callable[..., Root]
) -> None:
    root = sysroot({"/m": binary} if binary is not None else {})
    (found,) = collector.findings(root, "/m" if binary is not None else "", wanted, RELEASE)
    assert found.state is expected


# --- targets -----------------------------------------------------------------------------------------------------


def room(**changes: Any) -> target.Room:
    whole = {"total_bytes": 10 << 30, "free_bytes": 5 << 30, "total_inodes": 1000, "free_inodes": 500}
    return target.Room(**whole | {"is_read_only": False} | changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, State.OK),
        ({"free_bytes": 600 * _MIB}, State.WEAK),
        ({"free_bytes": 110 * _MIB}, State.BROKEN),
        ({"free_bytes": 0}, State.BROKEN),
    ],
)
def test_room_is_what_is_left_above_the_reserve(changes: dict[str, Any], expected: State) -> None:
    found = next(target.space("/x", room(**changes), 1 << 30))
    assert found.state is expected


def test_inodes_and_file_systems_without() -> None:
    states = [
        next(each.state for each in target.space("/x", room(**changes), 0) if each.name == "inodes on /x")
        for changes in ({"free_inodes": 3}, {"free_inodes": 500}, {"total_inodes": 0, "free_inodes": 0})
    ]
    assert states == [State.BROKEN, State.OK, State.OK]


def test_dump_is_as_large_as_what_its_level_keeps() -> None:
    memory = {"MemTotal": 1000, "MemFree": 500, "Cached": 200, "AnonPages": 100}
    assert target.dump_bytes(memory, 31, "auto") == 200
    assert target.dump_bytes(memory, 16, "auto") == 500
    assert target.dump_bytes(memory, 31, "copy") == 1000
    assert target.dump_bytes({"MemTotal": 1000, "MemFree": 990}, 31, "auto") == 50
    assert target.dump_bytes({}, 31, "auto") == 0


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (RetentionSection(), State.WEAK),
        (RetentionSection(keep=2), State.OK),
        (RetentionSection(max_bytes="1M"), State.WEAK),
        (RetentionSection(max_bytes="4G"), State.OK),
        (RetentionSection(min_free="1G"), State.OK),
    ],
)
def test_retention_that_leaves_no_room_is_weak(section: RetentionSection, expected: State) -> None:
    assert target.retention(section, 1 << 30, 2 << 30).state is expected
    assert target.retention(RetentionSection(), 1 << 30, 5 << 30).state is State.OK


def test_raw_partition_has_a_size() -> None:
    device = Partition(name="sda1", number="8:1", size_bytes=1 << 30)
    facts = DeviceTarget(kind="raw", name="/dev/sda1", stack=(device,))
    assert target.raw_size(facts, 1 << 29).state is State.OK
    assert target.raw_size(facts, 1 << 31).state is State.WEAK


def test_drivers_are_those_of_the_file_system_and_of_every_layer() -> None:
    device = Disk(name="sda", number="8:0", size_bytes=0, drivers=("sd_mod", "ahci"))
    facts = DeviceTarget(kind="raw", name="/dev/sda", stack=(device,))
    (found,) = target.drivers(facts, {"sd_mod"})
    assert (found.state, found.seen) == (State.BROKEN, "the kernel has no ahci")
    (found,) = target.drivers(facts, {"sd_mod", "ahci"})
    assert found.state is State.OK


# --- debug info --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    ["/usr/lib/debug/lib/modules/{}/vmlinux", "/lib/modules/{}/build/vmlinux", "/usr/lib/debug/boot/vmlinux-{}.debug"],
)
def test_vmlinux_is_found_where_distributions_put_it(place: str, sysroot: Callable[..., Root]) -> None:
    path = place.format(RELEASE)
    assert debuginfo.find(sysroot({path: ""}), RELEASE) == path


def test_distribution_is_known_by_what_it_is_like(sysroot: Callable[..., Root]) -> None:
    root = sysroot({"/usr/lib/os-release": 'ID="almalinux"\nID_LIKE="rhel centos fedora"\n'})
    assert debuginfo.distribution(root) == ("almalinux", "rhel", "centos", "fedora")


# --- real configurations -----------------------------------------------------------------------------------------


def test_kernels_of_debian_have_all_that_is_needed() -> None:
    for release, place in kernels.roots().items():
        known = kernel_config.read(Root(place), release, "/boot", f"/lib/modules/{release}")
        found = list(options.findings(known, "x86_64", release, None))
        assert [each.name for each in found if each.state in (State.BROKEN, State.WEAK)] == []
