"""Why an image is stale: each input is named, and what does not matter is not taken for a change."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kdump_initramfs import build as spine
from kdump_initramfs import config
from kdump_initramfs.errors import HostError, ImageError, LoadError
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.loader import kexec, rearm, staleness, state, status
from tests import command, trees
from tests.test_golden import GOLDEN

MODULES = "/usr/lib/modules/6.1.0-35-amd64"
LIBC = "/usr/lib/x86_64-linux-gnu/libc.so.6"
SITE = "/etc/kdump-initramfs"


def settings(root: Root, *overrides: str) -> config.Config:
    return config.load(root=root.directory, overrides=overrides)


def build(root: Root, *overrides: str) -> str:
    """Build the image of a fake machine where it belongs, and return its path."""
    described = spine.build(root, settings(root, *overrides))
    return f"{root.directory}/var/lib/kdump-initramfs/{described.image}"


def reasons(root: Root, image: str, *overrides: str) -> list[str]:
    return list(staleness.reasons(root, settings(root, *overrides), record.read(image)))


CHANGES = {
    "kernel": ("file /boot/vmlinuz-6.1.0-35-amd64 new", "kernel /boot/vmlinuz-6.1.0-35-amd64: has changed"),
    "program": ("elf /usr/sbin/lvm needed=libc.so.6 holds=x", "program /usr/sbin/lvm: has changed"),
    "library": (
        f"elf {LIBC} soname=libc.so.6 holds=x",
        f"library {LIBC}: has changed",
    ),
    "module": (f"module {MODULES}/kernel/fs/ext4/ext4.ko name=new", "ext4/ext4.ko: has changed"),
    "list of modules": (f"file {MODULES}/modules.dep x.ko:", f"{MODULES}/modules.dep: has changed"),
    "configuration": (f"file {SITE}/config.toml capture.deadline_s = 7", "capture.deadline_s: was 3600, is 7"),
    "long value": (
        f'file {SITE}/config.toml kernel.modules_dir = "{MODULES}/a/long/way/down/below"',
        "kernel.modules_dir: has changed",
    ),
    "new hook": (f"file {SITE}/hooks/90-own.sh :", f"hook {SITE}/hooks/90-own.sh: is new"),
    "hook that is replaced": (f"file {SITE}/hooks/60-dmesg.py contribute = None", "hook hooks/60-dmesg.py: is gone"),
    "host name": ("file /etc/hostname other", 'host name: was "crashbox", is "other"'),
    "program that is new": ("elf /usr/bin/zstd", 'program zstd: was "", is "/usr/bin/zstd"'),
    "size of the device": (
        "file /sys/devices/virtual/block/dm-1/size 41943040",
        "target /var/crash: size_bytes of a lvm below it was 10737418240, is 21474836480",
    ),
    "file system": (
        "link /dev/disk/by-uuid/11112222-6c8e-4f0e-9d3a-3f1f0e2b7c11 ../../dm-1",
        "target /var/crash: was on ext4 7a1c5a52-6c8e-4f0e-9d3a-3f1f0e2b7c11, is on ext4 11112222-",
    ),
    "watchdog": (
        "file /sys/class/watchdog/watchdog0/state active\nfile /sys/class/watchdog/watchdog0/identity iTCO_wdt",
        "watchdog iTCO_wdt: is active, and the image does not know it",
    ),
    "option": (
        "file /etc/modprobe.d/a.conf options ext4 x=1",
        'options of module ext4: was "", is "x=1"',
    ),
    "blacklist": (
        "file /usr/lib/modprobe.d/b.conf blacklist virtio-blk",
        "module virtio_blk: is blacklisted or disabled by modprobe.d since the image was built",
    ),
    "script": (f"file {SITE}/pre.d/10-own #!/bin/sh", f"script {SITE}/pre.d/10-own of pre.d: has come or gone"),
    "directory that is gone": (
        "file /proc/self/mountinfo 28 1 0:21 / / rw - tmpfs none rw",
        "cannot be built now: /var/crash: ",
    ),
}


@pytest.fixture
def machine(host_root: Callable[[str], Root]) -> Root:
    root = host_root("debian-lvm-ext4")
    trees.make("file /etc/hostname crashbox", Path(root.directory))
    return root


def test_nothing_is_stale_right_after_a_build(machine: Root) -> None:
    assert reasons(machine, build(machine)) == []


@pytest.mark.parametrize("name", [name for name in trees.names() if not (GOLDEN / name / "error.txt").exists()])
def test_no_fake_machine_is_stale_right_after_a_build(name: str, host_root: Callable[[str], Root]) -> None:
    root = host_root(name)
    assert reasons(root, build(root)) == []


@pytest.mark.parametrize(("tree", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_what_has_changed_is_named(tree: str, expected: str, machine: Root) -> None:
    image = build(machine)
    if tree.startswith("link /dev/disk"):
        trees.make("remove /dev/disk/by-uuid", Path(machine.directory))
    trees.make(tree, Path(machine.directory))
    for script in Path(machine.directory).glob("etc/kdump-initramfs/pre.d/*"):
        script.chmod(0o755)
    found = reasons(machine, image)
    assert any(expected in reason for reason in found), found
    assert all("\n" not in reason for reason in found)


def test_options_of_modules_that_are_not_in_the_image_do_not_matter(machine: Root) -> None:
    image = build(machine)
    trees.make(
        "file /etc/modprobe.d/a.conf\n| options snd_hda_intel power_save=1\n| blacklist pcspkr", Path(machine.directory)
    )
    assert reasons(machine, image) == []


def test_times_and_names_of_devices_do_not_matter(machine: Root) -> None:
    image = build(machine)
    base = Path(machine.directory)
    for path in base.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (time.time() + 1000, time.time() + 1000))
    # The volume group was found in another order: the same volume is dm-7, and has another number.
    mountinfo = base / "proc/self/mountinfo"
    mountinfo.write_text(mountinfo.read_text().replace("253:1", "253:7"))
    (base / "sys/devices/virtual/block/dm-1").rename(base / "sys/devices/virtual/block/dm-7")
    trees.make(
        "link /sys/dev/block/253:7 ../../devices/virtual/block/dm-7\n"
        "link /sys/class/block/dm-7 ../../devices/virtual/block/dm-7\n"
        "file /sys/devices/virtual/block/dm-7/dev 253:7\n"
        "remove /sys/dev/block/253:1\n"
        "remove /sys/class/block/dm-1\n"
        "link /dev/disk/by-uuid/7a1c5a52-6c8e-4f0e-9d3a-3f1f0e2b7c11 ../../dm-7\n"
        "link /dev/mapper/vg--data-var--crash ../dm-7\n"
        "file /dev/dm-7\n",
        base,
    )
    assert reasons(machine, image) == []


def test_a_watchdog_that_is_not_active_yet_and_a_name_that_is_not_known_yet_do_not_matter(machine: Root) -> None:
    base = Path(machine.directory)
    trees.make(
        "remove /etc/hostname\nfile /proc/sys/kernel/hostname crashbox\n"
        "file /sys/class/watchdog/watchdog0/state active\nfile /sys/class/watchdog/watchdog0/identity iTCO_wdt",
        base,
    )
    image = build(machine)
    assert reasons(machine, image) == []
    trees.make("remove /sys/class/watchdog\nfile /proc/sys/kernel/hostname (none)", base)
    assert reasons(machine, image) == []


def test_what_load_alone_uses_makes_no_image_stale(machine: Root) -> None:
    image = build(machine)
    overrides = ("kernel.append=['x=1']", "kexec.extra_args=['-d']", "image.output=/boot/x-{kernel}")
    assert reasons(machine, image, *overrides) == []


def test_an_image_of_a_root_that_was_not_running_fits_the_machine_that_runs(host_root: Callable[[str], Root]) -> None:
    root = host_root("root-without-proc")
    image = build(root)
    assert reasons(root, image) == []
    (fstab := Path(root.directory) / "etc/fstab").write_text(fstab.read_text().replace("btrfs", "ext4"))
    found = reasons(root, image)
    assert any(reason.startswith("target /var/crash: was") for reason in found), found


def test_drivers_are_an_input_of_an_image_for_this_machine_alone(machine: Root) -> None:
    for mode in ("host", "generic"):
        build(machine, f"image.mode={mode}", f"image.output=/boot/{mode}")
    trees.make("link /sys/bus/virtio/drivers/virtio_blk/module ../../../../module/other_blk", Path(machine.directory))
    for mode in ("host", "generic"):
        found = reasons(machine, machine.host(f"/boot/{mode}"), f"image.mode={mode}")
        assert any("drivers of a disk below it was" in reason for reason in found) is (mode == "host"), found


def test_crypttab_is_an_input_where_a_target_is_encrypted(host_root: Callable[[str], Root]) -> None:
    root = host_root("luks-volume-key")
    image = build(root)
    table = Path(root.directory) / "etc/crypttab"
    table.write_text(table.read_text().replace("luks", "luks,discard", 1) + "other /dev/x none\n")
    assert any(reason.startswith("/etc/crypttab: says something else of ") for reason in reasons(root, image))


def test_a_record_of_an_older_version_is_stale(machine: Root) -> None:
    described = msgspec.structs.replace(record.read(build(machine)), basis=None)
    found = staleness.reasons(machine, settings(machine), described)
    assert len(found) == 1
    assert found[0].endswith("did not record what it decided from")


# --- status ------------------------------------------------------------------------------------------------------


def arm(root: Root, image: str) -> None:
    trees.make("file /sys/kernel/kexec_crash_loaded 1", Path(root.directory))
    loaded = kexec.command(root, settings(root), image)
    state.write(root, image=image, described=loaded.record, words=loaded.words)


def test_an_image_whose_record_has_facts_of_an_older_schema_can_still_be_loaded(machine: Root) -> None:
    image = build(machine)
    path = Path(record.path_of(image))
    text = path.read_text().replace('"schema": 2', '"schema": 1').replace('"type": "directory"', '"old": ""')
    path.write_text(text)
    kexec.command(machine, settings(machine), image)
    assert any("did not record what it decided from" in reason for reason in reasons(machine, image))
    path.write_text(text.replace('"schema": 1', '"schema": 2'))
    with pytest.raises(ImageError, match=r"capture|initrd"):
        record.read(image)


def test_status_names_each_reason_with_its_remedy(machine: Root) -> None:
    arm(machine, build(machine))
    trees.make(f"file {SITE}/config.toml capture.cpus = 1\nfile /etc/hostname x", Path(machine.directory))
    ended = command.run("status", "--root", machine.directory, "--set", "capture.stall_s=9")
    assert ended.returncode == status.WEAK
    assert ended.stdout.splitlines()[2:] == [
        "stale: configuration capture.stall_s: was 120, is 9; run: kdump-initramfs load --rebuild",
        'stale: host name: was "crashbox", is "x"; run: kdump-initramfs load --rebuild',
    ]


def test_another_command_line_needs_a_load_and_no_build(machine: Root) -> None:
    arm(machine, build(machine))
    (reason,) = status.read(machine, settings(machine, "kernel.append=['x=1']")).stale
    assert reason.startswith("kexec command: would be another one now")
    assert reason.endswith("; run: kdump-initramfs load")


# --- building again ----------------------------------------------------------------------------------------------


def test_a_missing_image_is_built_and_a_fresh_one_is_left_alone(machine: Root) -> None:
    image = machine.host("/var/lib/kdump-initramfs/initrd-6.1.0-35-amd64.img")
    rearm.rebuild(machine, settings(machine), image)
    first = os.stat(image).st_ino
    rearm.rebuild(machine, settings(machine), image)
    assert os.stat(image).st_ino == first
    rearm.rebuild(machine, settings(machine, "capture.cpus=2"), image)
    assert reasons(machine, image, "capture.cpus=2") == []


def test_an_older_image_is_taken_where_none_can_be_built(
    machine: Root,
) -> None:
    image = build(machine)
    trees.make("remove /usr/sbin/lvm", Path(machine.directory))
    before = Path(image).read_bytes()
    ended = command.run("load", "--rebuild", "--print", "--root", machine.directory)
    assert ended.returncode == 0, ended.stderr
    assert f"--initrd={image}" in ended.stdout
    assert "could not be built again, so the one that is there is taken" in ended.stderr
    assert Path(image).read_bytes() == before


@pytest.mark.parametrize("change", ["file /boot/vmlinuz-6.1.0-35-amd64 another", "remove /boot/vmlinuz-6.1.0-35-amd64"])
def test_an_older_image_that_does_not_fit_the_kernel_is_not_taken(change: str, machine: Root) -> None:
    image = build(machine)
    trees.make(f"remove /usr/sbin/lvm\n{change}", Path(machine.directory))
    with pytest.raises((HostError, LoadError)):
        rearm.rebuild(machine, settings(machine), image)


def test_nothing_is_built_for_a_directory_whose_file_system_is_not_mounted(machine: Root) -> None:
    image = build(machine)
    base = Path(machine.directory)
    mountinfo = base / "proc/self/mountinfo"
    mountinfo.write_text(
        "".join(f"{line}\n" for line in mountinfo.read_text().splitlines() if "/var/crash" not in line)
    )
    trees.make("dir /var/crash\nfile /etc/fstab /dev/vg-data/var-crash /var/crash ext4 nofail 0 2", base)
    before = Path(image).read_bytes()
    ended = command.run("load", "--rebuild", "--print", "--root", machine.directory)
    assert ended.returncode == 0, ended.stderr
    assert "/var/crash: is not mounted, though /etc/fstab has it" in ended.stderr
    assert Path(image).read_bytes() == before
