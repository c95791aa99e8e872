"""What the shipped hooks say of layers of storage: names that do not collide, and what stands against opening them."""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kdump_initramfs import config, hooks
from kdump_initramfs.errors import KdumpError
from kdump_initramfs.host import probe
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import plan
from kdump_initramfs.model import BlockDevice, File, HostFacts, Plan

HostRoot = Callable[[str], Root]


def facts(root: Root) -> HostFacts:
    return probe.read(root, config.Config())


def settings(root: Root, host: HostFacts, hook: str) -> list[dict[str, str]]:
    """Return the settings that a hook gives to each target."""
    runs = {run.name: run for run in hooks.contribute(config.Config(), host, root=root)}
    return [dict(runs[hook].contribution.target_settings[position]) for position in range(len(host.targets))]


def with_second_target(host: HostFacts, change: Callable[[BlockDevice], BlockDevice]) -> HostFacts:
    """Return the facts with another target beside the first, each of its layers changed."""
    (target,) = host.targets
    stack = tuple(change(device) for device in target.stack)
    second = msgspec.structs.replace(target, stack=stack, devices=(stack[0].name,))
    return msgspec.structs.replace(host, targets=(target, second))


def test_arrays_of_several_targets_get_names_of_their_own(host_root: HostRoot) -> None:
    def other(device: BlockDevice) -> BlockDevice:
        if device.kind == "md":
            return msgspec.structs.replace(device, name="md126")
        return msgspec.structs.replace(device, content_uuid="f" * 32)

    root = host_root("md-raid1")
    found = settings(root, with_second_target(facts(root), other), "32-md")
    assert [each["KDUMP_MD_ARRAYS"] for each in found] == [
        "md64 0a1b2c3d:4e5f6071:8293a4b5:c6d7e8f9",
        "md65 ffffffff:ffffffff:ffffffff:ffffffff",
    ]


def test_an_array_below_two_targets_keeps_its_name(host_root: HostRoot) -> None:
    root = host_root("md-raid1")
    first, second = settings(root, with_second_target(facts(root), lambda device: device), "32-md")
    assert first == second


def test_array_without_a_known_uuid_is_refused(host_root: HostRoot) -> None:
    root = host_root("md-raid1")
    for number in ("254:1", "254:2"):
        Path(root.directory, f"run/udev/data/b{number}").unlink()
    assert "md127: the UUID of this array is not to be found" in problem(root)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "is opened by a passphrase, which nobody can type"),
        ("vda2_crypt UUID=x none luks", "is opened by a passphrase, which nobody can type"),
        ("vda2_crypt UUID=x LABEL=stick luks", "is opened by a passphrase, which nobody can type"),
        ("other UUID=x /etc/keys/vda2 luks", "is opened by a passphrase, which nobody can type"),
        ("vda2_crypt UUID=x /etc/keys/vda2 luks,keyfile-size=32,header=/h", "(header, keyfile-size) is not followed"),
    ],
)
def test_what_crypttab_cannot_open_unattended_is_refused(line: str, said: str, host_root: HostRoot) -> None:
    root = host_root("lvm-on-luks")
    Path(root.directory, "etc/crypttab").write_text(f"{line}\n")
    assert said in problem(root)


def planned(root: Root) -> Plan:
    host = facts(root)
    return plan.make(root, config.Config(), host, hooks.contribute(config.Config(), host, root=root))


def test_key_file_is_that_of_the_root(host_root: HostRoot) -> None:
    root = host_root("lvm-on-luks")
    (key,) = (entry for entry in planned(root).entries if entry.path == "/etc/keys/vda2")
    assert isinstance(key, File)
    assert (key.source, key.mode) == (f"{root.directory}/etc/keys/vda2", 0o600)


def test_key_file_that_is_not_there_is_named(host_root: HostRoot) -> None:
    root = host_root("lvm-on-luks")
    Path(root.directory, "etc/keys/vda2").unlink()
    with pytest.raises(KdumpError, match=r"^/etc/keys/vda2: no such file$") as caught:
        planned(root)
    assert "crypttab" in str(caught.value.hint)


@pytest.mark.parametrize(("kib", "said"), [(128 << 10, ""), ((128 << 10) + 1, "takes 128 MiB to open (Argon2)")])
def test_key_that_takes_more_than_half_of_the_memory_is_refused(kib: int, said: str, host_root: HostRoot) -> None:
    root = host_root("lvm-on-luks")
    host = facts(root)
    (target,) = host.targets
    stack = tuple(msgspec.structs.replace(device, luks_kdf_kib=kib) for device in target.stack)
    host = msgspec.structs.replace(host, targets=(msgspec.structs.replace(target, stack=stack),))
    with pytest.raises(KdumpError, match=re.escape(said)) if said else contextlib.nullcontext():
        hooks.contribute(config.Config(), host, root=root)


# --- logical volumes without all of their physical volumes -------------------------------------------------------


def with_sectors(root: Root, volume: str, image: str) -> None:
    """Change the size of the RAID volume of lvm-raid1-degraded, and of its images."""
    for device, sectors in (("dm-6", volume), ("dm-1", image), ("dm-5", image)):
        Path(root.directory, f"sys/devices/virtual/block/{device}/size").write_text(f"{sectors}\n")


def test_raid_volume_without_an_image_is_degraded_and_says_so(host_root: HostRoot) -> None:
    root = host_root("lvm-raid1-degraded")
    assert planned(root).warnings == (
        "/var/crash: logical volume r of group mir is degraded: a physical volume is missing",
    )
    (found,) = settings(root, facts(root), "35-lvm")
    assert found["KDUMP_LVM_DEGRADED"] == "yes"


def test_half_of_a_striped_raid_volume_is_refused(host_root: HostRoot) -> None:
    root = host_root("lvm-raid1-degraded")
    with_sectors(root, "204800", "102400")
    assert "logical volume r of group mir lacks a physical volume" in problem(root)


def test_striped_raid_volume_that_is_whole_is_never_activated_in_part(host_root: HostRoot) -> None:
    root = host_root("lvm-raid1-degraded")
    with_sectors(root, "204800", "102400")
    host = facts(root)
    (target,) = host.targets
    stack = tuple(
        msgspec.structs.replace(device, dm_uuid=device.dm_uuid.partition("-missing")[0]) for device in target.stack
    )
    host = msgspec.structs.replace(host, targets=(msgspec.structs.replace(target, stack=stack),))
    (found,) = settings(root, host, "35-lvm")
    assert found["KDUMP_LVM_DEGRADED"] == ""


def test_every_problem_with_a_missing_physical_volume_is_named(host_root: HostRoot) -> None:
    root = host_root("lvm-missing-pv")

    def other(device: BlockDevice) -> BlockDevice:
        return msgspec.structs.replace(device, dm_name=device.dm_name.replace("lin--vg", "other"))

    with pytest.raises(KdumpError) as caught:
        hooks.contribute(config.Config(), with_second_target(facts(root), other), root=root)
    assert "the-lv of group lin-vg lacks" in str(caught.value)
    assert "the-lv of group other lacks" in str(caught.value)


def problem(root: Root) -> str:
    with pytest.raises(KdumpError) as caught:
        hooks.contribute(config.Config(), facts(root), root=root)
    assert caught.value.hint
    return str(caught.value)
