"""Multipath devices: what the build side says of them, and the capture side in a chroot with a dmsetup of our own."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kdump_initramfs.host.root import Root
from kdump_initramfs.model import HostFacts, StorageLayer
from kdump_initramfs.storage import BlockDevice, DirectoryTarget, Disk, MultipathDevice
from tests import capture
from tests.capture import LOG, Environment
from tests.narrow import only
from tests.test_layers_of_storage import contributions, facts, problem, settings, with_second_target

HostRoot = Callable[[str], Root]

HOOK = "29-multipath"
UUID = "mpath-360014051234567890abcdef012345678"
PART = f"part1-{UUID}"
ID = "naa.60014051234567890abcdef012345678"
SCSI = "sys/devices/pci0000:00/0000:00:0{}.0/virtio{}/host{}/target{}:0:0/{}:0:0:1"
PATHS = tuple(SCSI.format(5 + n, 3 + n, n, n, n) for n in (0, 1))

# --- build side --------------------------------------------------------------------------------------------------


def test_each_device_and_each_partition_gets_a_name_of_its_own(host_root: HostRoot) -> None:
    def other(device: BlockDevice) -> BlockDevice:
        if isinstance(device, MultipathDevice):
            return msgspec.structs.replace(device, dm_uuid=device.dm_uuid + "9")
        if isinstance(device, Disk):
            return msgspec.structs.replace(device, disk_id="t10.Other   disk  ")
        return device

    root = host_root("multipath")
    first, second = settings(root, with_second_target(facts(root), other), HOOK)
    assert first["KDUMP_MULTIPATH"] == f"kdump-mpath0 {UUID} {ID} 2"
    assert first["KDUMP_MULTIPATH_PARTITIONS"] == f"kdump-mpath1 {PART} {UUID} 1"
    assert second["KDUMP_MULTIPATH"] == f"kdump-mpath2 {UUID}9 t10.Other_disk 2"
    assert second["KDUMP_MULTIPATH_PARTITIONS"] == f"kdump-mpath3 {PART}9 {UUID}9 1"


def test_a_device_below_two_targets_keeps_its_name(host_root: HostRoot) -> None:
    root = host_root("multipath")
    first, second = settings(root, with_second_target(facts(root), lambda device: device), HOOK)
    assert first == second


def test_a_target_beside_it_has_no_such_settings(host_root: HostRoot) -> None:
    root = host_root("multipath")
    host = facts(root)
    target = only(DirectoryTarget, *host.targets)
    disk = msgspec.structs.replace(target.stack[-1], below=())
    second = msgspec.structs.replace(target, stack=(disk,), devices=(disk.name,))
    both = msgspec.structs.replace(host, targets=(target, second))
    assert list(only(StorageLayer, contributions(root, both)[HOOK]).target_settings) == [target]


def test_a_path_without_an_id_is_refused(host_root: HostRoot) -> None:
    root = host_root("multipath")
    Path(root.directory, PATHS[1], "wwid").unlink()
    assert "/var/crash: dm-0 (mpatha): sdb says no WWN or serial number in sysfs" in problem(root)


def test_a_device_without_paths_is_refused(host_root: HostRoot) -> None:
    root = host_root("multipath")
    for name in ("sda", "sdb"):
        Path(root.directory, "sys/devices/virtual/block/dm-0/slaves", name).unlink()
    assert "/var/crash: dm-0 (mpatha): no path leads to it" in problem(root)


def test_paths_that_disagree_are_refused(host_root: HostRoot) -> None:
    root = host_root("multipath")
    Path(root.directory, PATHS[1], "wwid").write_text("naa.5\n")
    assert f"disagree on which disk they lead to: naa.5, {ID}" in problem(root)


@pytest.mark.parametrize("wwid", ["SATA disk", "*", "a[b]", "x\\y", "$(reboot)", "a'b"])
def test_a_uuid_that_is_no_plain_word_is_refused(wwid: str, host_root: HostRoot) -> None:
    root = host_root("multipath")
    for number, part in ((0, ""), (1, "part1-")):
        Path(root.directory, f"sys/devices/virtual/block/dm-{number}/dm/uuid").write_text(f"{part}mpath-{wwid}\n")
    assert f"dm-0 (mpatha): its dm UUID, {f'mpath-{wwid}'!r}, has characters that" in problem(root)


def test_without_dmsetup_the_hint_says_where_it_is(host_root: HostRoot) -> None:
    root = host_root("multipath")
    Path(root.directory, "usr/sbin/dmsetup").unlink()
    assert "dmsetup: no such program" in problem(root)


# --- capture side ------------------------------------------------------------------------------------------------

capture_side = pytest.mark.skipif(
    not capture.can_enter(), reason="needs root that may make namespaces and device nodes"
)

# What device-mapper does with `create NAME --uuid UUID --table TABLE`, and a record of it.
DMSETUP = r"""
[ "$DM_DISABLE_UDEV" = 1 ] || exit 1
[ ! -e /refuse ] || exit 1
echo "$*" >>/created
set -- "$4" $6
number=$(ls -d /sys/block/dm-* 2>/dev/null | wc -l)
directory=/sys/block/dm-$number
mkdir -p $directory/dm $directory/slaves
echo "$1" >$directory/dm/uuid
echo "254:$number" >$directory/dev
for word; do
    for disk in /sys/devices/*; do
        [ "$(cat $disk/dev)" != "$word" ] || ln -s $disk $directory/slaves/
    done
done
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Return an image for a file system on a partition of a multipath device."""
    directory = tmp_path_factory.mktemp("multipath")
    output = directory / "capture.img"
    words = ("image.compression=none", "vmcore.collector=copy")
    capture.build_image(capture.release("generic"), host(), output, *words)
    return Environment.unpack(output, directory / "root")


def host() -> HostFacts:
    """Return the facts of a host with a target on a partition of a multipath device with two paths."""
    plain = capture.target(driver="virtio_scsi")
    disk = only(Disk, *plain.stack)
    paths = tuple(msgspec.structs.replace(disk, name=name, disk_id=ID) for name in ("sda", "sdb"))
    whole = MultipathDevice(
        name="dm-0",
        number="254:0",
        size_bytes=1 << 30,
        dm_name="mpatha",
        dm_uuid=UUID,
        below=("sda", "sdb"),
    )
    partition = msgspec.structs.replace(whole, name="dm-1", number="254:1", dm_uuid=PART, below=("dm-0",))
    return capture.facts(msgspec.structs.replace(plain, stack=(partition, whole, *paths), devices=("dm-1",)))


@pytest.fixture
def environment(unpacked: Environment, tmp_path: Path) -> Environment:
    made = unpacked.copy_to(tmp_path / "root")
    made.program("/usr/sbin/dmsetup", DMSETUP)
    made.write("/created", "")
    return made


def add_disk(environment: Environment, name: str, number: str, *, wwid: str = ID, size: int = 2097152) -> None:
    """Add a disk with one partition, as sysfs shows them."""
    directory = f"/sys/devices/{name}"
    environment.write(f"{directory}/dev", f"{number}\n")
    environment.write(f"{directory}/size", f"{size}\n")
    environment.write(f"{directory}/device/wwid", f"{wwid}\n")
    for file, content in (("partition", "1"), ("start", "2048"), ("size", "4096"), ("dev", "259:1")):
        environment.write(f"{directory}/{name}1/{file}", f"{content}\n")
    for block, target in ((name, name), (f"{name}1", f"{name}/{name}1")):
        environment.write(f"/dev/{block}", "")
        environment.path(f"/sys/class/block/{block}").symlink_to(f"../../devices/{target}")


def run(environment: Environment, *, waited_s: int = 0, before: str = "") -> int:
    return environment.hook(HOOK, before=f"export KDUMP_WAITED_S={waited_s}\n{before}").status


def created(environment: Environment) -> list[str]:
    return environment.read("/created").splitlines()


def table(*numbers: str) -> str:
    groups = "".join(f" round-robin 0 1 0 {number}" for number in numbers)
    return f"0 2097152 multipath 3 retain_attached_hw_handler pg_init_retries 10 0 {len(numbers)} 1{groups}"


def device(*numbers: str) -> str:
    return f"create kdump-mpath0 --uuid {UUID} --table {table(*numbers)}"


PARTITION = f"create kdump-mpath1 --uuid {PART} --table 0 4096 linear 254:0 2048"


@capture_side
def test_all_paths_become_a_device_and_the_partition_one_on_it(environment: Environment) -> None:
    add_disk(environment, "sda", "8:0")
    add_disk(environment, "sdb", "8:16")
    assert run(environment) == 0, environment.read(LOG)
    assert created(environment) == [device("8:0", "8:16"), PARTITION]
    assert f"{UUID}: 2 of 2 paths are there: sda sdb\n" in environment.read(LOG)


@capture_side
def test_what_is_there_is_not_made_again(environment: Environment) -> None:
    add_disk(environment, "sda", "8:0")
    add_disk(environment, "sdb", "8:16")
    assert [run(environment), run(environment)] == [0, 0]
    assert len(created(environment)) == 2


@capture_side
def test_a_target_on_no_such_device_has_nothing_to_make(environment: Environment) -> None:
    assert run(environment, before="unset KDUMP_MULTIPATH") == 77


@capture_side
@pytest.mark.parametrize(("waited_s", "status"), [(0, 76), (14, 76), (15, 0)])
def test_a_missing_path_is_waited_for_but_not_for_ever(environment: Environment, waited_s: int, status: int) -> None:
    add_disk(environment, "sdb", "8:16")
    assert run(environment, waited_s=waited_s) == status
    assert created(environment) == ([device("8:16"), PARTITION] if status == 0 else [])


@capture_side
def test_a_path_more_than_there_was_is_taken_too(environment: Environment) -> None:
    for name, number in (("sda", "8:0"), ("sdb", "8:16"), ("sdc", "8:32")):
        add_disk(environment, name, number)
    assert run(environment) == 0
    assert created(environment)[0] == device("8:0", "8:16", "8:32")


@capture_side
@pytest.mark.parametrize("waited_s", [0, 15, 10**6])
def test_without_any_path_there_is_nothing_to_go_on_with(environment: Environment, waited_s: int) -> None:
    assert run(environment, waited_s=waited_s) == 76
    assert created(environment) == []


@capture_side
@pytest.mark.parametrize("wrong", ["other disk", "no size", "cannot be opened", "no node"])
def test_what_is_no_path_is_left_alone(environment: Environment, wrong: str) -> None:
    add_disk(environment, "sdb", "8:16")
    add_disk(environment, "sda", "8:0", wwid="naa.5" if wrong == "other disk" else ID, size=0 if "size" in wrong else 8)
    if wrong in ("cannot be opened", "no node"):
        environment.path("/dev/sda").unlink()
    if wrong == "cannot be opened":
        environment.path("/dev/sda").symlink_to("/dev/sda")
    assert run(environment, waited_s=15) == 0
    assert created(environment)[0] == device("8:16")


@capture_side
def test_the_path_that_the_array_prefers_comes_first(environment: Environment) -> None:
    states = {"sda": "standby", "sdb": "active/non-optimized", "sdc": "active/optimized"}
    for number, (name, state) in enumerate(states.items()):
        add_disk(environment, name, f"8:{16 * number}")
        environment.write(f"/sys/devices/{name}/device/access_state", f"{state}\n")
    assert run(environment) == 0
    assert created(environment)[0] == device("8:32", "8:0", "8:16")


@capture_side
def test_a_partition_is_found_on_any_path(environment: Environment) -> None:
    add_disk(environment, "sda", "8:0")
    add_disk(environment, "sdb", "8:16")
    # As where the storage does not let this path read.
    for file in ("partition", "start", "size"):
        environment.path(f"/sys/devices/sda/sda1/{file}").unlink()
    environment.path("/sys/class/block/sda1").unlink()
    assert run(environment) == 0
    assert created(environment) == [device("8:0", "8:16"), PARTITION]


@capture_side
def test_a_partition_that_is_not_there_is_waited_for(environment: Environment) -> None:
    add_disk(environment, "sda", "8:0")
    add_disk(environment, "sdb", "8:16")
    for name in ("sda", "sdb"):
        environment.write(f"/sys/devices/{name}/{name}1/partition", "2\n")
    assert run(environment, waited_s=60) == 76
    assert created(environment) == [device("8:0", "8:16")]


@capture_side
def test_a_device_that_device_mapper_refuses_is_tried_again(environment: Environment) -> None:
    add_disk(environment, "sda", "8:0")
    add_disk(environment, "sdb", "8:16")
    environment.write("/refuse", "")
    assert run(environment) == 76
    environment.path("/refuse").unlink()
    assert run(environment) == 0


@capture_side
@pytest.mark.parametrize(("waited_s", "status"), [(0, 76), (15, 0)])
def test_a_lost_device_beside_another_is_left_to_the_layers_above(
    environment: Environment, waited_s: int, status: int
) -> None:
    add_disk(environment, "sda", "8:0")
    add_disk(environment, "sdb", "8:16")
    lost = 'export KDUMP_MULTIPATH="kdump-mpath3 mpath-lost naa.0 2 $KDUMP_MULTIPATH"\n'
    lost += 'export KDUMP_MULTIPATH_PARTITIONS="kdump-mpath2 part1-mpath-lost mpath-lost 1 $KDUMP_MULTIPATH_PARTITIONS"'
    assert run(environment, waited_s=waited_s, before=lost) == status
    assert created(environment) == [device("8:0", "8:16"), *([PARTITION] if status == 0 else [])]


# --- the library -------------------------------------------------------------------------------------------------


@capture_side
def test_no_hook_behind_one_that_holds_is_run(environment: Environment) -> None:
    environment.write("/lib/kdump/hooks/01-hold.sh", "[ -e /go ] || { touch /go; exit 76; }\n")
    environment.write("/lib/kdump/hooks/02-behind.sh", "[ -e /held ] || { touch /held; exit 75; }; echo ran >>/ran\n")
    environment.write("/lib/kdump/hooks/00-before.sh", "echo before >>/ran\n")
    ended = environment.shell("assemble 00-before 01-hold 02-behind && echo done; [ ! -e /held ] || echo held")
    assert ended.output == "done\nheld\n"
    assert environment.read("/ran").split() == ["before", "before", "before", "ran"]
    assert [(step.name, step.status) for step in environment.steps()] == [
        ("00-before", 0),
        ("01-hold", 0),
        ("02-behind", 0),
    ]


@capture_side
def test_who_holds_for_ever_is_named(environment: Environment) -> None:
    environment.write("/lib/kdump/hooks/01-hold.sh", "exit 76\n")
    environment.write("/lib/kdump/hooks/02-behind.sh", "touch /ran\n")
    ended = environment.shell("export KDUMP_DEVICE_TIMEOUT_S=1; assemble 01-hold 02-behind || echo given up")
    assert ended.output.endswith("given up\n")
    assert not environment.exists("/ran")
    assert [(step.name, step.status) for step in environment.steps()] == [("01-hold", 76)]
    assert "storage is not there after 1 s: 01-hold\n" in environment.read(LOG)


@capture_side
@pytest.mark.parametrize(
    ("holder", "held"),
    [("", []), ("sda", ["sda", "sda1"]), ("sda/sda1", ["sda1"]), ("sdb", ["sdb", "sdb1"])],
)
def test_a_partition_of_a_held_disk_is_held(environment: Environment, holder: str, held: list[str]) -> None:
    add_disk(environment, "sda", "8:0")
    add_disk(environment, "sdb", "8:16")
    if holder:
        environment.write(f"/sys/devices/{holder}/holders/dm-0", "")
    ended = environment.shell("for name in $(block_devices); do ! has_holder $name || echo $name; done")
    assert ended.output.split() == held
