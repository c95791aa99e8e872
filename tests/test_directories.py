"""Directories that dumps go to: those in which nothing could be made after a crash are refused, by name."""

import fcntl
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from kdump_initramfs.config import DiskTarget, PathTarget
from kdump_initramfs.errors import HostError
from kdump_initramfs.host import automount, btrfs, directory, mounts, targets
from kdump_initramfs.host.root import Root
from kdump_initramfs.storage import DirectoryTarget
from tests import command, trees
from tests.narrow import only

MachineOf = Callable[[str, str], Root]
HostRoot = Callable[[str], Root]
Mounter = Callable[..., Path]

BY_UUID, UUID = "/dev/disk/by-uuid", "0b5a9f5c-54b4-4a7c-8a4c-0a2f6f3d1e01"


def refusal(root: Root, path: str, *, generic: bool = False) -> HostError:
    with pytest.raises(HostError) as caught:
        targets.read(root, (PathTarget(path=path),), generic=generic)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value


# --- real file systems -------------------------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounter]:
    """Return a function that makes a file system in a file and mounts it."""
    places: list[Path] = []

    def mount(*make: str, size_mib: int = 64, options: str = "loop") -> Path:
        image, place = tmp_path / f"image-{len(places)}", tmp_path / f"mounted-{len(places)}"
        with image.open("wb") as stream:
            stream.truncate(size_mib << 20)
        place.mkdir()
        subprocess.run([*make, image], check=True, capture_output=True)
        if subprocess.run(["mount", "-o", options, image, place], check=False, capture_output=True).returncode:
            pytest.skip("this machine mounts no files")
        places.append(place)
        return place

    yield mount
    for place in reversed(places):
        subprocess.run(["umount", "-R", place], check=False)


EXT4 = ("mkfs.ext4", "-q", "-O", "encrypt")
BTRFS = ("mkfs.btrfs", "-q")
XFS = ("mkfs.xfs", "-q")


def encrypt(place: Path) -> None:
    """Put a directory under a policy of fscrypt, then take the key away (include/uapi/linux/fscrypt.h)."""
    top = os.open(place.parent, os.O_RDONLY)
    # FS_IOC_ADD_ENCRYPTION_KEY: a key that is called by an identifier, which the kernel makes.
    key = bytearray(struct.pack("=II32sI36s", 2, 0, b"", 64, b"") + os.urandom(64))
    try:
        fcntl.ioctl(top, 0xC0506617, key)
    except OSError:
        pytest.skip("this kernel does not encrypt directories")
    place.mkdir()
    inside = os.open(place, os.O_RDONLY)
    fcntl.ioctl(inside, 0x800C6613, struct.pack("=BBBBB3s16s", 2, 1, 4, 0, 0, b"", bytes(key[8:24])))
    (place / "below").mkdir()
    os.close(inside)
    # FS_IOC_REMOVE_ENCRYPTION_KEY: a struct of 64 bytes that begins alike.
    fcntl.ioctl(top, 0xC0406618, bytearray(key[:40] + bytes(24)))
    os.close(top)


def test_directory_under_an_encryption_policy_is_refused_without_its_key(mounted: Mounter) -> None:
    place = mounted(*EXT4) / "secret"
    encrypt(place)
    with pytest.raises(OSError, match="key not available"):
        (place / "dump").mkdir()
    error = refusal(Root(), str(place))
    assert str(error).startswith(f"{place}: under an encryption policy")


def test_directory_below_one_under_a_policy_is_refused(mounted: Mounter) -> None:
    place = mounted(*EXT4) / "secret"
    encrypt(place)
    (below,) = place.iterdir()
    assert "encryption policy" in str(refusal(Root(), str(below)))


def test_directory_beside_one_under_a_policy_is_taken(mounted: Mounter) -> None:
    top = mounted(*EXT4)
    encrypt(top / "secret")
    (top / "plain").mkdir()
    directory.check_attributes(Root(), str(top / "plain"), "plain")


@contextmanager
def attribute(place: Path, letter: str) -> Iterator[None]:
    subprocess.run(["chattr", f"+{letter}", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", f"-{letter}", place], check=True)


@pytest.mark.parametrize(("letter", "said"), [("i", "is immutable"), ("a", "can only be appended to")])
@pytest.mark.parametrize("make", [EXT4, BTRFS, XFS], ids=["ext4", "btrfs", "xfs"])
def test_directory_that_cannot_be_changed_is_refused(
    letter: str, said: str, make: tuple[str, ...], mounted: Mounter
) -> None:
    place = mounted(*make, size_mib=512) / "crash"
    place.mkdir()
    with attribute(place, letter):
        error = refusal(Root(), str(place))
        assert said in str(error)
        assert error.hint == f"chattr -{letter} {place}"


def test_harmless_attributes_are_taken(mounted: Mounter) -> None:
    place = mounted(*EXT4) / "crash"
    place.mkdir()
    for letter in "ASDd":
        subprocess.run(["chattr", f"+{letter}", place], check=True)
    directory.check_attributes(Root(), str(place), "crash")


def test_subvolume_that_is_read_only_is_refused(mounted: Mounter) -> None:
    volume = mounted(*BTRFS, size_mib=256) / "volume"
    subprocess.run(["btrfs", "subvolume", "create", volume], check=True, capture_output=True)
    (volume / "crash").mkdir()
    directory.check_attributes(Root(), str(volume / "crash"), "crash")
    subprocess.run(["btrfs", "property", "set", volume, "ro", "true"], check=True)
    assert "subvolume of btrfs that is read-only" in str(refusal(Root(), str(volume / "crash")))


def test_mount_that_is_read_only_is_no_matter_to_the_capture_kernel(mounted: Mounter) -> None:
    place = mounted(*EXT4)
    (place / "crash").mkdir()
    subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
    directory.check_attributes(Root(), str(place / "crash"), "crash")


def test_btrfs_tells_its_devices_whatever_it_was_mounted_by(mounted: Mounter) -> None:
    place = mounted(*BTRFS, size_mib=256)
    mount = mounts.holder(mounts.read(Root()), str(place))
    assert mount
    known = btrfs.carriers(Root(), mount)
    assert len(known) == 1
    for source in ("/dev/root", "none", "/dev/mapper/not-there"):
        assert btrfs.carriers(Root(), replace(mount, source=source)) == known


# --- automounts --------------------------------------------------------------------------------------------------

# A daemon for one direct mount (Documentation/filesystems/autofs.rst, protocol 5). Processes of its group pass by.
AUTOFS_DAEMON = """
import ctypes, fcntl, os, subprocess, sys
place, answer = sys.argv[1:]
reads, writes = os.pipe()
options = f"fd={writes},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct"
if ctypes.CDLL(None).mount(b"test", place.encode(), b"autofs", 0, options.encode()):
    sys.exit("no autofs")
top = os.open(place, os.O_RDONLY)
print("ready", flush=True)
while packet := os.read(reads, 4096):
    token = int.from_bytes(packet[8:12], sys.byteorder)
    if answer == "hangs":
        continue
    if answer.startswith("/"):
        subprocess.run(["mount", "--bind", answer, place], check=True)
    fcntl.ioctl(top, 0x9361 if answer == "fails" else 0x9360, token)
"""


@contextmanager
def automount_at(place: Path, answer: str) -> Iterator[None]:
    """Mount an autofs, whose daemon mounts the directory `answer` there, or "fails", or "hangs"."""
    daemon = subprocess.Popen(
        [sys.executable, "-c", AUTOFS_DAEMON, place, answer],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert daemon.stdout
    if not daemon.stdout.readline():
        pytest.skip("this machine has no autofs")
    try:
        yield
    finally:
        daemon.kill()
        daemon.communicate()
        while not subprocess.run(["umount", "-l", place], check=False, capture_output=True).returncode:
            pass


@pytest.mark.parametrize("below", ["", "/dumps"])
def test_idle_automount_is_opened(below: str, tmp_path: Path) -> None:
    real, place = tmp_path / "real", tmp_path / "auto"
    (real / "dumps").mkdir(parents=True)
    place.mkdir()
    with automount_at(place, str(real)):
        path = f"{place}{below}"
        before = mounts.holder(mounts.read(Root()), path)
        assert before
        assert before.fs_type == "autofs"
        after = mounts.holder(automount.awake(Root(), mounts.read(Root()), path), path)
        assert after
        assert after.fs_type != "autofs"
        assert mounts.directory_inside(after, path).endswith(f"real{below}")


def test_automount_that_mounts_nothing_is_named(tmp_path: Path) -> None:
    place = tmp_path / "auto"
    place.mkdir()
    with automount_at(place, "fails"):
        assert f"{place}: on an automount that is idle" in str(refusal(Root(), str(place)))


def test_automount_that_hangs_is_left_in_time(tmp_path: Path) -> None:
    place = tmp_path / "auto"
    place.mkdir()
    with automount_at(place, "hangs"):
        began = time.monotonic()
        with pytest.raises(HostError, match=r"has mounted nothing within 0\.3 s"):
            automount.awake(Root(), mounts.read(Root()), f"{place}/dumps", wait_s=0.3)
        assert time.monotonic() - began < 5


def test_automount_elsewhere_is_left_alone(tmp_path: Path) -> None:
    place, other = tmp_path / "auto", tmp_path / "other"
    place.mkdir()
    other.mkdir()
    with automount_at(place, "hangs"):
        assert mounts.holder(automount.awake(Root(), mounts.read(Root()), str(other), wait_s=5), str(other))


ROOT = "28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"
IDLE = "30 28 0:40 / /var/crash rw - autofs systemd-1 rw,fd=48,pgrp=1,timeout=0,minproto=5,maxproto=5,direct\n"


@pytest.fixture
def machine_of(host_root: HostRoot) -> MachineOf:
    """Return a function that makes a machine: / is ext4 on vda1, with more mounts, and more files (tests/trees.py)."""

    def make(mountinfo: str, tree: str) -> Root:
        root = host_root("bind-mount")
        base = Path(root.directory)
        (base / "proc/self/mountinfo").write_text(ROOT + mountinfo)
        trees.make(f"link {BY_UUID}/{UUID} ../../vda1\n{tree}", base)
        return root

    return make


@pytest.mark.parametrize(
    ("path", "at", "tree"),
    [
        ("/var/crash", "/var/crash", ""),
        ("/net/server/dumps", "/net", "dir /net/server/dumps"),
        ("/link", "/srv", "dir /srv/x\nlink /link srv/x"),
    ],
)
def test_idle_automount_of_another_root_is_named(path: str, at: str, tree: str, machine_of: MachineOf) -> None:
    error = refusal(machine_of(IDLE.replace("/var/crash", at), tree), path)
    assert f"{path}: on an automount that is idle ({at})" in str(error)
    assert str(error.hint).startswith(f"access it once: ls {path}/.")


# --- mounts that are not there -----------------------------------------------------------------------------------

LATE: dict[str, tuple[str, str, str]] = {
    "nofail": ("/var/crash", "file /etc/fstab UUID=x /var/crash ext4 nofail 0 2", "/etc/fstab"),
    "above it": ("/var", "file /etc/fstab UUID=x /var ext4 defaults 0 2", "/etc/fstab"),
    "a slash at the end": ("/var/crash", "file /etc/fstab UUID=x /var/crash/ xfs defaults 0 0", "/etc/fstab"),
    "a bind mount": ("/var/crash", "file /etc/fstab /srv /var/crash none bind 0 0", "/etc/fstab"),
    "a network file system": ("/var/crash", "file /etc/fstab s:/e /var/crash nfs _netdev 0 0", "/etc/fstab"),
    "an automount that is not set up": (
        "/var/crash",
        "file /etc/fstab LABEL=x /var/crash ext4 noauto,x-systemd.automount 0 2",
        "/etc/fstab",
    ),
    "the nearer of two": (
        "/var",
        "file /etc/fstab\n| LABEL=x /var/crash ext4 defaults 0 2\n| LABEL=y /var ext4 defaults 0 2",
        "/etc/fstab",
    ),
    "a link in fstab": (
        "/var/crash",
        "link /dumps var/crash\nfile /etc/fstab LABEL=x /dumps ext4 nofail 0 2",
        "/etc/fstab",
    ),
    "bytes in octal": (
        "/var/crash",
        "file /etc/fstab LABEL=x /var/\\143rash ext4 nofail 0 2",
        "/etc/fstab",
    ),
    "a unit": (
        "/var/crash",
        "file /etc/systemd/system/local-fs.target.wants/var-crash.mount [Mount]",
        "the unit var-crash.mount",
    ),
    "an automount unit": (
        "/var/crash",
        "file /etc/systemd/system/remote-fs.target.requires/var-crash.automount [Automount]",
        "the unit var-crash.automount",
    ),
    "a partition that GPT says the use of": (
        "/var",
        "file /run/systemd/generator.late/local-fs.target.wants/var.mount [Mount]",
        "the unit var.mount",
    ),
    "a unit with an escape": (
        "/var/crash",
        "file /etc/systemd/system/local-fs.target.wants/var-\\x63rash.mount [Mount]",
        "the unit var-\\x63rash.mount",
    ),
}


@pytest.mark.parametrize(("at", "tree", "by"), LATE.values(), ids=LATE.keys())
@pytest.mark.parametrize("generic", [False, True])
def test_file_system_below_one_that_is_not_mounted_is_not_taken(
    at: str, tree: str, by: str, *, generic: bool, machine_of: MachineOf
) -> None:
    error = refusal(machine_of("", tree), "/var/crash", generic=generic)
    assert str(error) == f"{at}: is not mounted, though {by} has it and a dump target is on it"
    assert error.hint == f"mount {at}"


NOT_LATE: dict[str, tuple[str, str]] = {
    "noauto": ("", "file /etc/fstab LABEL=x /var/crash ext4 noauto 0 2"),
    "swap": ("", "file /etc/fstab LABEL=x none swap sw 0 0"),
    "elsewhere": ("", "file /etc/fstab LABEL=x /var/crashes ext4 defaults 0 0"),
    "below it": ("", "file /etc/fstab LABEL=x /var/crash/other ext4 defaults 0 0"),
    "the root": ("", "file /etc/fstab LABEL=x / ext4 defaults 0 1"),
    "the unit of the root": ("", "link /run/systemd/generator/local-fs.target.requires/-.mount ../-.mount"),
    "a comment": ("", "file /etc/fstab # LABEL=x /var/crash ext4 defaults 0 1"),
    "a loop of links": ("", "link /loop loop\nfile /etc/fstab LABEL=x /loop/x ext4 defaults 0 2"),
    "a unit that is not enabled": ("", "file /etc/systemd/system/var-crash.mount [Mount]"),
    "mounted": (
        "40 28 254:2 / /var/crash rw - xfs /dev/vda2 rw\n",
        "file /etc/fstab LABEL=x /var/crash xfs nofail 0 2",
    ),
    "mounted below what is not": (
        "40 28 254:2 / /var/crash rw - xfs /dev/vda2 rw\n",
        "file /etc/fstab LABEL=x /var ext4 nofail 0 2",
    ),
    "mounted where a link leads": (
        "40 28 254:2 / /var/crash rw - xfs /dev/vda2 rw\n",
        "link /dumps var/crash\nfile /etc/fstab LABEL=x /dumps xfs nofail 0 2",
    ),
}


@pytest.mark.parametrize(("mountinfo", "tree"), NOT_LATE.values(), ids=NOT_LATE.keys())
def test_directory_on_what_is_mounted_is_taken(mountinfo: str, tree: str, machine_of: MachineOf) -> None:
    found = only(DirectoryTarget, *targets.read(machine_of(mountinfo, tree), (PathTarget(path="/var/crash"),)))
    assert found.directory == ("" if mountinfo else "var/crash")


def test_directory_that_a_link_leads_to_below_a_mount_is_not_asked_to_be_made(machine_of: MachineOf) -> None:
    root = machine_of("", "link /var/crash ../data/crash\nfile /etc/fstab LABEL=x /data ext4 nofail 0 2")
    assert str(refusal(root, "/var/crash")).startswith("/data: is not mounted")


def test_every_command_has_the_one_rule(machine: Root) -> None:
    base = Path(machine.directory)
    trees.make("file /etc/kdump-initramfs/config.toml", base)
    built = command.run("build", "--root", machine.directory, "-q")
    assert built.returncode == 0, built.stderr
    mountinfo = base / "proc/self/mountinfo"
    lines = mountinfo.read_text().splitlines()
    mountinfo.write_text("".join(f"{line}\n" for line in lines if "/var/crash" not in line))
    trees.make("dir /var/crash\nfile /etc/fstab /dev/vg-data/var-crash /var/crash ext4 nofail 0 2", base)
    said = "/var/crash: is not mounted, though /etc/fstab has it"
    release = "6.1.0-35-amd64"
    rebuild = ["load", "--rebuild", "--print"]
    for words in (["build"], ["plan"], ["probe"], ["check"], ["kernel-hook", "add", release], rebuild):
        ended = command.run(*words, "--root", machine.directory)
        # A kernel's own installation goes on, and a machine stays armed with what is there.
        assert bool(ended.returncode) is (words[0] not in ("kernel-hook", "load")), words
        assert said in ended.stdout + ended.stderr, words


# --- what the table of mounts tells ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("254:2 /old//deleted /var/crash rw - xfs /dev/vda2 rw", "no longer exists"),
        ("254:2 /../old /var/crash rw - xfs /dev/vda2 rw", "no longer exists"),
        ("254:2 / /var/crash rw,idmapped - xfs /dev/vda2 rw", "is an idmapped mount"),
        ("254:2 / /var/crash ro - squashfs /dev/vda2 ro", "on squashfs (/dev/vda2), which cannot be written to"),
        ("254:2 / /var/crash ro - erofs /dev/vda2 ro", "on erofs (/dev/vda2), which cannot be written to"),
        ("0:50 / /var/crash rw - ecryptfs /home/.private rw", "on ecryptfs (/home/.private), which is not on a block"),
        ("0:50 / /var/crash rw - fuse.gocryptfs /home/c rw", "on fuse.gocryptfs (/home/c), which is not on a block"),
        ("0:50 / /var/crash rw - fuse.encfs encfs rw", "on fuse.encfs (encfs), which is not on a block device"),
        ("0:50 / /var/crash rw - overlay overlay rw", "on overlay (overlay), which is not on a block device"),
        ("0:50 / /var/crash rw - rootfs rootfs rw", "on rootfs (rootfs), which is not on a block device"),
    ],
)
def test_mount_that_is_no_place_for_dumps_is_refused_by_name(line: str, said: str, machine_of: MachineOf) -> None:
    assert said in str(refusal(machine_of(f"40 28 {line}\n", ""), "/var/crash"))


@pytest.mark.parametrize("source", ["/dev/root", "rootfs", "/dev/vda1", "none"])
def test_file_system_is_known_by_its_number_whatever_its_source(source: str, machine_of: MachineOf) -> None:
    root = machine_of("", "")
    mountinfo = Path(root.directory, "proc/self/mountinfo")
    mountinfo.write_text(ROOT.replace("/dev/vda1", source))
    found = only(DirectoryTarget, *targets.read(root, (PathTarget(path="/var/crash"),)))
    assert (found.device.number, found.directory) == ("254:1", "var/crash")


BTRFS_ROOT = "28 1 0:25 /@ / rw,relatime - btrfs /dev/root rw,subvolid=256,subvol=/@\n"
OTHER_BTRFS = "dir /sys/fs/btrfs/99887766-5544-3322-1100-ffeeddccbbaa/devices\n"


@pytest.mark.parametrize(
    "tree",
    ["", f"{OTHER_BTRFS}file /proc/cmdline root=/dev/vda1 rw", f"{OTHER_BTRFS}file /proc/cmdline quiet root=UUID={{}}"],
    ids=["the only one", "root=", "root=UUID="],
)
def test_btrfs_that_the_kernel_itself_has_mounted_is_known(tree: str, host_root: HostRoot) -> None:
    root = host_root("btrfs")
    base = Path(root.directory)
    (base / "proc/self/mountinfo").write_text(BTRFS_ROOT)
    trees.make(f"link {BY_UUID}/{UUID} ../../vda1\n{tree.format(UUID)}", base)
    found = only(DirectoryTarget, *targets.read(root, (PathTarget(path="/var/crash"),)))
    assert (found.devices, found.directory) == (("vda1", "vda2"), "@/var/crash")


def test_btrfs_that_nothing_tells_from_another_is_refused(host_root: HostRoot) -> None:
    root = host_root("btrfs")
    (Path(root.directory) / "proc/self/mountinfo").write_text(BTRFS_ROOT)
    trees.make(f"{OTHER_BTRFS}file /proc/cmdline quiet", Path(root.directory))
    assert "on btrfs (root), whose devices /sys/fs/btrfs does not tell" in str(refusal(root, "/var/crash"))


# --- paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a b", "it's", 'say "x"', "back\\slash", "$(id)", "ümlaut", "-n", "a;b", "*"])
def test_any_plain_name_is_taken_as_it_is(name: str, machine_of: MachineOf) -> None:
    root = machine_of("", "")
    (Path(root.directory) / "srv" / name).mkdir(parents=True)
    ended = command.run("plan", "--root", root.directory, "--config", str(_configured(root, f"/srv/{name}")))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", [b"new\nline", b"\xff", b"tab\t", b"\x1b[2J", b"caf\xe9"])
def test_name_that_is_no_text_is_refused_in_one_line(name: bytes, machine_of: MachineOf) -> None:
    root = machine_of("", "")
    base = os.fsencode(root.directory)
    os.makedirs(base + b"/srv/" + name)
    os.rmdir(base + b"/var/crash")
    os.symlink(b"/srv/" + name, base + b"/var/crash")
    for words in (["build", "-o", f"{root.directory}/image"], ["probe", "--json"], ["check"]):
        ended = command.run(*words, "--root", root.directory)
        assert "/var/crash" in ended.stdout + ended.stderr
        assert "is not UTF-8, or has control characters" in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr


def _configured(root: Root, path: str) -> Path:
    file = Path(root.directory, "config.toml")
    file.write_text(f'[[target]]\nkind = "path"\npath = {json.dumps(path, ensure_ascii=False)}\n')
    return file


def test_path_with_dots_is_the_one_that_it_leads_to(machine_of: MachineOf) -> None:
    root = machine_of("", "dir /srv/a/b\nlink /short srv/a/b")
    found = only(DirectoryTarget, *targets.read(root, (PathTarget(path="/short/../../../srv/../srv/./a//"),)))
    assert found.directory == "srv/a"


def test_loop_of_links_is_refused(machine_of: MachineOf) -> None:
    root = machine_of("", "link /var/crash crash")
    assert "too many levels of symbolic links" in str(refusal(root, "/var/crash"))


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o2775])
def test_directory_above_that_others_may_change_is_refused_as_after_the_crash(mode: int, machine_of: MachineOf) -> None:
    root = machine_of("", "dir /var/local/crash")
    (Path(root.directory) / "var/local").chmod(mode)
    error = refusal(root, "/var/local/crash")
    assert str(error).startswith("/var/local/crash: /var/local, which it is in, may be changed by others than root")
    assert error.hint == "chown root /var/local && chmod go-w /var/local"


def test_directory_above_with_the_sticky_bit_is_taken(machine_of: MachineOf) -> None:
    root = machine_of("", "dir /var/local/crash")
    (Path(root.directory) / "var/local").chmod(0o1777)
    assert targets.read(root, (PathTarget(path="/var/local/crash"),))


# --- directories of a device -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "path", "said"),
    [
        ("dir /mnt/x/y\nlink /mnt/dumps x", "dumps/y", "/mnt/dumps/y leads to /mnt/x/y, and links are not followed"),
        ("link /mnt/dumps ../var", "dumps", "/mnt/dumps leads to /var, and links are not followed"),
    ],
)
def test_link_on_a_device_that_is_mounted_is_refused(tree: str, path: str, said: str, machine_of: MachineOf) -> None:
    root = machine_of("40 28 254:2 / /mnt rw - xfs /dev/vda2 rw\n", tree)
    with pytest.raises(HostError) as caught:
        targets.read(root, (DiskTarget(device="/dev/vda2", path=path),))
    assert said in str(caught.value)


def test_directory_of_a_device_that_others_may_change_is_refused(machine_of: MachineOf) -> None:
    root = machine_of("40 28 254:2 / /mnt rw - xfs /dev/vda2 rw\n", "dir /mnt/dumps")
    (Path(root.directory) / "mnt/dumps").chmod(0o777)
    with pytest.raises(HostError, match="may be changed by others"):
        targets.read(root, (DiskTarget(device="/dev/vda2", path="dumps/new"),))


def test_directory_of_a_device_that_is_not_there_yet_is_taken(machine_of: MachineOf) -> None:
    root = machine_of("40 28 254:2 / /mnt rw - xfs /dev/vda2 rw\n", "dir /mnt/dumps")
    found = only(DirectoryTarget, *targets.read(root, (DiskTarget(device="/dev/vda2", path="dumps/new"),)))
    assert found.directory == "dumps/new"


def test_directory_of_a_device_that_another_is_mounted_over_is_not_looked_at(machine_of: MachineOf) -> None:
    table = "40 28 254:2 / /mnt rw - xfs /dev/vda2 rw\n41 40 254:1 / /mnt/dumps rw - ext4 /dev/vda1 rw\n"
    root = machine_of(table, "dir /mnt/dumps")
    (Path(root.directory) / "mnt/dumps").chmod(0o777)
    found = only(DirectoryTarget, *targets.read(root, (DiskTarget(device="/dev/vda2", path="dumps"),)))
    assert found.directory == "dumps"


@pytest.mark.parametrize("letter", ["i", "a"])
def test_device_whose_directory_cannot_be_changed_is_refused(letter: str, mounted: Mounter) -> None:
    place = mounted(*EXT4)
    (place / "dumps").mkdir()
    mount = mounts.holder(mounts.read(Root()), str(place))
    assert mount
    with attribute(place / "dumps", letter), pytest.raises(HostError, match=r"immutable|appended"):
        directory.check_inside(Root(), (mount,), (mount.number,), "dumps/below", "/dev/x")
