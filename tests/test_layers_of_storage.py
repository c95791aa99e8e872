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
from kdump_initramfs.model import Contribution, File, HostFacts, Plan, StorageLayer
from kdump_initramfs.storage import BlockDevice, Content, DirectoryTarget, LogicalVolume, LuksHeader, Partition
from tests import trees
from tests.narrow import only

HostRoot = Callable[[str], Root]


def facts(root: Root) -> HostFacts:
    return probe.read(root, config.Config())


def contributions(root: Root, host: HostFacts) -> dict[str, Contribution]:
    return {run.name: run.contribution for run in hooks.contribute(config.Config(), host, root=root)}


def settings(root: Root, host: HostFacts, hook: str) -> list[dict[str, str]]:
    """Return the settings that a hook gives to each target."""
    runs = contributions(root, host)
    return [
        dict(only(StorageLayer, runs[hook]).target_settings[only(DirectoryTarget, target)]) for target in host.targets
    ]


def with_second_target(host: HostFacts, change: Callable[[BlockDevice], BlockDevice]) -> HostFacts:
    """Return the facts with another target beside the first, each of its layers changed."""
    target = only(DirectoryTarget, *host.targets)
    stack = tuple(change(device) for device in target.stack)
    second = msgspec.structs.replace(target, stack=stack, devices=(stack[0].name,))
    return msgspec.structs.replace(host, targets=(target, second))


def test_arrays_of_several_targets_get_names_of_their_own(host_root: HostRoot) -> None:
    def other(device: BlockDevice) -> BlockDevice:
        if device.kind == "md":
            return msgspec.structs.replace(device, name="md126")
        return msgspec.structs.replace(device, content=msgspec.structs.replace(device.content, uuid="f" * 32))

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
    assert "md127: the UUID of this array cannot be found" in problem(root)


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
    target = only(DirectoryTarget, *host.targets)
    content = Content(type="crypto_LUKS", luks=LuksHeader(kdf_kib=kib))
    stack = tuple(
        msgspec.structs.replace(device, content=content) if isinstance(device, Partition) else device
        for device in target.stack
    )
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
    target = only(DirectoryTarget, *host.targets)

    def whole(device: BlockDevice) -> BlockDevice:
        if not isinstance(device, LogicalVolume):
            return device
        return msgspec.structs.replace(device, dm_uuid=device.dm_uuid.partition("-missing")[0])

    stack = tuple(whole(device) for device in target.stack)
    host = msgspec.structs.replace(host, targets=(msgspec.structs.replace(target, stack=stack),))
    (found,) = settings(root, host, "35-lvm")
    assert found["KDUMP_LVM_DEGRADED"] == ""


def test_every_problem_with_a_missing_physical_volume_is_named(host_root: HostRoot) -> None:
    root = host_root("lvm-missing-pv")

    def other(device: BlockDevice) -> BlockDevice:
        if not isinstance(device, LogicalVolume):
            return device
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


# --- volume keys that the kernel hands over ----------------------------------------------------------------------

UUID = "1f2e3d4c-5b6a-7988-1f2e-3d4c5b6a7988"
OWN_KEY = f"kdump-cryptsetup:vk-{UUID}"
PROC_KEYS = "12345678 I--Q---     1 perm 3f010000     0     0 logon     {}: 64\n"


def keys_of(root: Root) -> tuple[str, ...]:
    """Return what opens the devices of the first target."""
    (found,) = settings(root, facts(root), "33-crypt")
    return tuple(found["KDUMP_CRYPT"].split()[3::4])


def with_crypttab(root: Root, line: str) -> Root:
    Path(root.directory, "etc/crypttab").write_text(f"vda2_crypt UUID={UUID} {line}\n")
    return root


def test_passphrase_is_replaced_by_the_volume_key_that_crypttab_links(host_root: HostRoot) -> None:
    root = host_root("luks-volume-key")
    assert keys_of(root) == ("%user:vk:vda2",)
    made = planned(root)
    assert made.volume_keys == ("vk:vda2",)
    assert not [entry.path for entry in made.entries if isinstance(entry, File) and "key" in entry.reason]


def test_volume_key_that_is_in_a_keyring_needs_no_crypttab(host_root: HostRoot) -> None:
    root = host_root("luks-volume-key")
    Path(root.directory, "etc/crypttab").unlink()
    Path(root.directory, "proc/keys").write_text(PROC_KEYS.format(OWN_KEY))
    assert keys_of(root) == (f"%user:{OWN_KEY}",)


def test_key_file_is_preferred(host_root: HostRoot) -> None:
    root = with_crypttab(host_root("luks-volume-key"), "/etc/keys/vda2 link-volume-key=@u::%logon:vk:vda2")
    assert keys_of(root) == ("/etc/keys/vda2",)


@pytest.mark.parametrize(
    "line",
    [
        "/etc/keys/vda2 keyfile-size=32,link-volume-key=@u::%logon:vk:vda2",
        f"none link-volume-key=@u::%logon:{'x' * 127}",
    ],
)
def test_volume_key_is_taken_where_the_key_file_is_not_enough(line: str, host_root: HostRoot) -> None:
    assert keys_of(with_crypttab(host_root("luks-volume-key"), line))[0].startswith("%user:")


def test_volume_key_is_taken_where_the_key_file_takes_too_much_memory(host_root: HostRoot) -> None:
    root = with_crypttab(host_root("luks-volume-key"), "/etc/keys/vda2 link-volume-key=@u::%logon:vk:vda2")
    host = facts(root)
    target = only(DirectoryTarget, *host.targets)
    content = Content(type="crypto_LUKS", luks=LuksHeader(kdf_kib=1 << 20))
    stack = tuple(msgspec.structs.replace(device, content=content) for device in target.stack)
    host = msgspec.structs.replace(host, targets=(msgspec.structs.replace(target, stack=stack),))
    assert settings(root, host, "33-crypt")[0]["KDUMP_CRYPT"].endswith(" %user:vk:vda2")


LINE = f"vda2_crypt UUID={UUID} none"
CRYPTTAB_FILE = "file /etc/crypttab"
DM_UUID = "/sys/devices/virtual/block/dm-0/dm/uuid"
REMEDY = f"have its volume key handed over: add link-volume-key=@u::%logon:{OWN_KEY} to its options in /etc/crypttab"
REFUSED = {
    "a key that is linked nowhere": (f"{CRYPTTAB_FILE} {LINE} luks", REMEDY),
    "a key of another type": (f"{CRYPTTAB_FILE} {LINE} link-volume-key=@u::%user:vk:vda2", REMEDY),
    "a key of the default type": (f"{CRYPTTAB_FILE} {LINE} link-volume-key=@u::vk:vda2", REMEDY),
    "a keyring that load does not reach": (f"{CRYPTTAB_FILE} {LINE} link-volume-key=@s::%logon:vk:vda2", REMEDY),
    "a name that is too long": (f"{CRYPTTAB_FILE} {LINE} link-volume-key=@u::%logon:{'x' * 128}", REMEDY),
    "a header elsewhere": (f"{CRYPTTAB_FILE} {LINE} header=/h,link-volume-key=@u::%logon:vk:vda2", REMEDY),
    "a key of another device": (
        f"{CRYPTTAB_FILE}\nfile /proc/keys {PROC_KEYS.format(OWN_KEY[:-1] + '0').strip()}",
        REMEDY,
    ),
    "a cryptsetup before 2.7": (
        "elf /usr/sbin/cryptsetup needed=libc.so.6 interp=/lib64/ld-linux-x86-64.so.2",
        f"update cryptsetup to 2.7 and {REMEDY}",
    ),
    "a kernel that does not hand over": ("file /boot/config-6.1.0-35-amd64 CONFIG_RD_GZIP=y", "add a key file"),
    "a kernel that is not known": ("remove /boot/config-6.1.0-35-amd64", "add a key file"),
    "LUKS1": (f"file {DM_UUID} CRYPT-LUKS1-{UUID.replace('-', '')}-vda2_crypt", "add a key file"),
}


@pytest.mark.parametrize(("tree", "hint"), REFUSED.values(), ids=REFUSED.keys())
def test_what_the_kernel_cannot_hand_over_is_refused(tree: str, hint: str, host_root: HostRoot) -> None:
    root = host_root("luks-volume-key")
    trees.make(tree, Path(root.directory))
    with pytest.raises(KdumpError, match="is opened by a passphrase") as caught:
        hooks.contribute(config.Config(), facts(root), root=root)
    assert str(caught.value.hint).startswith(hint)
    assert "add a key file with cryptsetup luksAddKey" in str(caught.value.hint)


def test_other_machines_are_not_handed_volume_keys(host_root: HostRoot) -> None:
    root = host_root("luks-volume-key")
    host = msgspec.structs.replace(facts(root), machine="aarch64")
    with pytest.raises(KdumpError, match="is opened by a passphrase"):
        hooks.contribute(config.Config(), host, root=root)
