"""What is remembered of a load, and what it tells."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_initramfs import build as spine
from kdump_initramfs import config
from kdump_initramfs.errors import HostError
from kdump_initramfs.host.root import Root
from kdump_initramfs.loader import kexec, state, status
from tests import trees

LOADED_FILES = ("/sys/kernel/kexec_crash_loaded", "/sys/kernel/kexec/crash_loaded")


def arm(root: Root, image: str, *, loaded_file: str = LOADED_FILES[0]) -> None:
    """Make the machine look as after a successful load."""
    trees.make(f"file {loaded_file} 1", Path(root.directory))
    command = kexec.command(root, config.Config(), image)
    state.write(root, image=image, described=command.record, words=command.words)


@pytest.mark.parametrize("loaded_file", LOADED_FILES)
def test_armed_machine_says_with_what(loaded_file: str, machine: Root, image: str) -> None:
    arm(machine, image, loaded_file=loaded_file)
    found = status.read(machine, config.Config())
    assert (found.armed, found.stale, found.exit_code, found.reserved_bytes) == (True, (), 0, 256 << 20)
    assert found.loaded is not None
    assert (found.loaded.image, found.loaded.kernel_release) == (image, "6.1.0-35-amd64")


def test_machine_that_is_not_armed_is_status_4_whatever_is_remembered(machine: Root, image: str) -> None:
    arm(machine, image)
    trees.make(f"file {LOADED_FILES[0]} 0", Path(machine.directory))
    found = status.read(machine, config.Config())
    assert (found.armed, found.loaded, found.exit_code) == (False, None, 4)


@pytest.mark.parametrize(
    ("files", "followed"),
    [
        ("", ()),
        ("file /sys/devices/system/cpu/crash_hotplug 1\nfile /sys/devices/system/memory/crash_hotplug 0", ("cpu",)),
        (
            "file /sys/devices/system/cpu/crash_hotplug 1\nfile /sys/devices/system/memory/crash_hotplug 1",
            ("cpu", "memory"),
        ),
    ],
)
def test_armed_machine_tells_which_hot_plugging_the_kernel_follows(
    files: str, followed: tuple[str, ...], machine: Root, image: str
) -> None:
    arm(machine, image)
    trees.make(files, Path(machine.directory))
    assert status.read(machine, config.Config()).follows_hotplug == followed


PLUGGED = {
    "memory": ("dir /sys/devices/system/memory/memory1", "memory: 1 blocks were there when it was loaded, 2 are now"),
    "cpu": ("file /sys/devices/system/cpu/present 0-3", "processors: 0-1 were there when it was loaded, 0-3 are now"),
}


@pytest.mark.parametrize("kind", PLUGGED)
@pytest.mark.parametrize("follows", [False, True], ids=["the kernel does not follow", "the kernel follows"])
def test_what_is_plugged_in_later_is_not_in_the_core_header(
    kind: str, *, follows: bool, machine: Root, image: str
) -> None:
    before = "dir /sys/devices/system/memory/memory0\nfile /sys/devices/system/cpu/present 0-1"
    trees.make(before, Path(machine.directory))
    arm(machine, image)
    assert status.read(machine, config.Config()).stale == ()
    change, said = PLUGGED[kind]
    trees.make(f"{change}\nfile /sys/devices/system/{kind}/crash_hotplug {follows:d}", Path(machine.directory))
    expected = () if follows else (f"{said}; run: kdump-initramfs load",)
    assert status.read(machine, config.Config()).stale == expected


def test_machine_without_kexec_support_is_not_armed(sysroot: Callable[..., Root]) -> None:
    assert status.read(sysroot({}), config.Config()).exit_code == 4


def test_what_another_tool_loaded_is_armed_and_weak(machine: Root) -> None:
    trees.make(f"file {LOADED_FILES[0]} 1", Path(machine.directory))
    found = status.read(machine, config.Config())
    assert (found.stale, found.exit_code) == (("not loaded by kdump-initramfs; run: kdump-initramfs load",), 3)


STALE = {
    "the kernel": ("file /boot/vmlinuz-6.1.0-35-amd64 new", "/boot/vmlinuz-6.1.0-35-amd64: has changed"),
    "a program": ("elf /usr/sbin/lvm soname=new", "/usr/sbin/lvm: has changed"),
    "a program that is gone": ("remove /usr/sbin/lvm", "/usr/sbin/lvm: has changed"),
    "a module": (
        "module /usr/lib/modules/6.1.0-35-amd64/kernel/fs/ext4/ext4.ko name=new",
        "kernel/fs/ext4/ext4.ko: has changed",
    ),
}


@pytest.mark.parametrize(("tree", "reason"), STALE.values(), ids=STALE.keys())
def test_changed_input_makes_what_is_loaded_stale(tree: str, reason: str, machine: Root, image: str) -> None:
    arm(machine, image)
    trees.make(tree, Path(machine.directory))
    found = status.read(machine, config.Config())
    assert found.exit_code == 3
    assert len(found.stale) == 1
    assert reason in found.stale[0]


def test_image_that_was_built_again_is_stale(machine: Root, image: str) -> None:
    arm(machine, image)
    spine.build(machine, config.load(root="/no/such", overrides=["capture.deadline_s=7"]), output=image)
    reason = f"{image}: was built again since it was loaded; run: kdump-initramfs load"
    assert status.read(machine, config.Config()).stale == (reason,)


def test_image_that_is_gone_is_stale(machine: Root, image: str) -> None:
    arm(machine, image)
    os.unlink(image)
    reason = f"{image}: no such file; run: kdump-initramfs load --rebuild"
    assert status.read(machine, config.Config()).stale == (reason,)


def test_what_is_remembered_is_for_root_alone_and_forgotten_on_request(machine: Root, image: str) -> None:
    arm(machine, image)
    file = Path(machine.directory) / "run/kdump-initramfs/loaded.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    state.forget(machine)
    state.forget(machine)
    assert state.read(machine) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}'])
def test_broken_memory_is_named_with_the_command_that_mends_it(content: str, sysroot: Callable[..., Root]) -> None:
    root = sysroot({"/run/kdump-initramfs/loaded.json": content})
    with pytest.raises(HostError, match=r"^/run/kdump-initramfs/loaded\.json: ") as caught:
        state.read(root)
    assert caught.value.hint == "run: kdump-initramfs load"
