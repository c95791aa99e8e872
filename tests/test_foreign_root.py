"""A root that is not running: an image is built for it by anybody, with nothing read outside of it and nothing run."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kdump_initramfs import config
from kdump_initramfs.config import DiskTarget, PathTarget
from kdump_initramfs.errors import HostError
from kdump_initramfs.host import fstab, kernel, targets
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import inspect
from kdump_initramfs.storage import DirectoryTarget
from tests import command, kernelmaker, programs, trees
from tests.narrow import only

ABSENT_UUID = "2f0c1a52-7d0a-4b3c-9f47-5d2f0d3f1a11"

# --- what is read of it ------------------------------------------------------------------------------------------


def test_fstab_is_read_as_mount_reads_it() -> None:
    text = (
        "# a comment\n\n"
        'UUID="AA-BB" / ext4 errors=remount-ro,ro 0 1\n'
        "/dev/sda2 none swap sw 0 0\n"
        "/srv/a\\040b /mnt/c\\011d/ none bind\n"
        "LABEL=x /y xfs\n"
        "too short\n"
    )
    assert [(each.spec, each.mount_point, each.fs_type, each.options) for each in fstab.parse(text)] == [
        ("UUID=AA-BB", "", "ext4", ("errors=remount-ro", "ro")),
        ("/srv/a b", "/mnt/c\td", "none", ("bind",)),
        ("LABEL=x", "/y", "xfs", ()),
    ]


@pytest.mark.parametrize(
    ("path", "spec"),
    [("/var/crash", "var"), ("/var", "var"), ("/variable", "root"), ("/var/lib/x", "lib"), ("/", "root")],
)
def test_the_longest_mount_point_holds_a_path(path: str, spec: str) -> None:
    entries = fstab.parse("root / ext4\nother /var ext4\nlib /var/lib ext4\nvar /var ext4\n")
    found = fstab.holder(entries, path)
    assert found
    assert found.spec == spec


def test_a_root_without_fstab_names_it(sysroot: Callable[..., Root]) -> None:
    root = sysroot({"/etc/hostname": "x"})
    with pytest.raises(HostError, match=r"^/var/crash: on no file system of .*/root/etc/fstab$"):
        targets.read(root, (PathTarget(),), generic=True)


def test_a_disk_that_is_there_is_looked_at_in_generic_mode_too(host_root: Callable[[str], Root]) -> None:
    root = host_root("two-targets")
    there = DiskTarget(device="UUID=99887766-5544-3322-1100-ffeeddccbbaa")
    path, disk = (only(DirectoryTarget, each) for each in targets.read(root, (PathTarget(), there), generic=True))
    assert [path.device.name, disk.device.name] == ["vda1", "vda2"]
    absent = DiskTarget(device=f"UUID={ABSENT_UUID}", fs_type="xfs")
    unseen = only(DirectoryTarget, *targets.read(root, (absent,), generic=True))
    assert (unseen.filesystem.type, unseen.filesystem.uuid, unseen.device.size_bytes) == ("xfs", ABSENT_UUID, 0)
    with pytest.raises(HostError, match="no such file system on this machine"):
        targets.read(root, (absent,))


@pytest.mark.parametrize(
    ("releases", "running", "expected"),
    [
        (["6.1"], "", "6.1"),
        (["6.1", "6.2"], "6.1", "6.1"),
        (["6.1"], "6.2", "no such kernel is installed"),
        (["6.1", "6.2"], "", "no running kernel to be seen"),
        ([], "", "no running kernel to be seen"),
    ],
)
def test_the_only_kernel_of_a_root_that_is_not_running_is_meant(
    releases: list[str], running: str, expected: str, sysroot: Callable[..., Root]
) -> None:
    files: dict[str, str | bytes] = {f"/lib/modules/{release}/modules.dep": "" for release in releases}
    files |= {f"/boot/vmlinuz-{release}": kernelmaker.bzimage(release) for release in releases}
    files |= {"/proc/sys/kernel/osrelease": running} if running else {"/etc/x": ""}
    try:
        found = kernel.read(sysroot(files), config.KernelSection(), "x86_64").release
    except HostError as error:
        found = str(error)
    assert expected in found


# --- the whole ---------------------------------------------------------------------------------------------------

# What Python itself and the libraries look at; the modules that a build imports when it needs them.
IMPORTS = """
import hashlib, importlib, pkgutil, kdump_initramfs
for module in pkgutil.walk_packages(kdump_initramfs.__path__, "kdump_initramfs."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from kdump_initramfs.image import render
render.render("settings.sh.j2", settings=[])
hashlib.sha256()
"""
_PATHS = re.compile(r'(?:[a-z]+at[0-9]*\([^"]*|[a-z0-9]+\()"((?:[^"\\]|\\.)*)"')


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a directory in which nobody may work; pytest's own are for their owner alone."""
    directory = Path(f"/tmp/kdump-foreign-root-{os.getpid()}")  # noqa: S108 - made below, and nobody's
    directory.mkdir(mode=0o700)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def as_nobody(directory: Path) -> list[str]:
    """Return the words that make root nobody, who still may read: this Python may be in root's home directory."""
    if os.geteuid() != 0:
        return []
    programs.need("setpriv")
    subprocess.run(["chown", "-R", "65534:65534", directory], check=True)
    identity = ("--reuid=65534", "--regid=65534", "--clear-groups")
    return ["setpriv", *identity, "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]


def touched(words: Sequence[str], log: Path) -> tuple[set[str], set[str]]:
    """Run a program and return the paths that it names to the kernel, and the programs that it runs."""
    programs.need("strace")
    # What was not there counts as well: on another machine it may be.
    traced = ["strace", "-f", "-qq", "-s", "4096", "-e", "trace=%file", "-e", "signal=none", "-o", str(log), *words]
    ended = subprocess.run(traced, env=command.environment(), cwd="/", capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    lines = log.read_text(errors="replace").splitlines()
    found = (match[1] for line in lines if (match := _PATHS.search(line)) and match[1].startswith("/"))
    # setpriv looks at itself.
    paths = {re.sub(r"^/proc/[0-9]+/", "/proc/self/", path) for path in found}
    return paths, {match[1] for line in lines if "execve(" in line and (match := _PATHS.search(line))}


def test_nothing_outside_of_the_root_is_read_and_nothing_of_it_is_run(place: Path) -> None:
    root, image = place / "root", place / "capture.img"
    trees.unpack("root-of-arm64", root)
    before = as_nobody(place)
    words = [*before, *command.words("build", "--root", str(root), "--quiet", "--output", str(image))]
    usual, _ = touched([*before, sys.executable, "-c", IMPORTS], place / "usual")
    paths, run = touched(words, place / "trace")
    own = (str(place), str(command.PROJECT), sys.prefix, sys.base_prefix + "/lib/python")
    above = {str(parent) for parent in command.PROJECT.parents}
    assert {path for path in paths - usual - above if not path.startswith(own)} == set()
    # setpriv, and Python, wherever the path is searched for them.
    assert {os.path.basename(path) for path in run} <= {"setpriv", os.path.basename(sys.executable)}
    assert any(path.startswith(f"{root}/usr/lib/modules/") for path in paths)
    found = inspect.manifest(str(image))
    assert found.kernel.release == "6.1.0-35-arm64"
    assert [only(DirectoryTarget, target).filesystem.type for target in found.targets] == ["ext4", "vfat"]
    assert all(each.path.startswith("/") and not each.path.startswith(str(place)) for each in found.inputs)
    names = {member.name for member in inspect.members(str(image))}
    assert names >= {"usr/bin/busybox", "usr/lib/ld-linux-aarch64.so.1", "usr/lib/modules/6.1.0-35-arm64/mmc_block.ko"}


def test_the_same_root_gives_the_same_image_wherever_it_lies(place: Path) -> None:
    digests = []
    for name in ("here", "elsewhere/deeper"):
        root = place / name
        trees.unpack("root-of-arm64", root)
        ended = command.run("build", "--root", str(root), "--quiet", "--output", str(place / "capture.img"))
        assert ended.returncode == 0, ended.stderr
        digests.append((place / "capture.img").read_bytes())
    assert digests[0] == digests[1]


def test_an_image_for_the_host_alone_is_refused_with_a_way_out(host_root: Callable[[str], Root]) -> None:
    root = host_root("root-without-proc")
    words = ["plan", "--root", root.directory, "--set", "image.mode=host"]
    problem, hint = command.complaint(command.run(*words))
    assert "has no /proc/self/mountinfo" in problem
    assert "--facts" in hint
    assert "image.mode=generic" in hint
