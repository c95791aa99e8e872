"""The hooks of pacman, as it reads and as it runs them."""

import io
import os
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kdump_initramfs.host.root import Root
from kdump_initramfs.loader import kernel_hook
from tests import programs
from tests.kernel_hooks import (
    HOOKS,
    NEW,
    OLD,
    OUTPUT,
    POSTINST,
    armed,
    image_of,
    images,
    remove_kernel,
    run_hook,
)


@pytest.fixture
def machine(host_root: Callable[[str], Root]) -> Root:
    return armed(host_root("debian-lvm-ext4"))


def read_hook(action: str) -> dict[str, list[str]]:
    """Return the keys of a hook of pacman, each with its values (alpm-hooks(5))."""
    found: dict[str, list[str]] = {}
    for line in (HOOKS / f"95-kdump-initramfs-{action}.hook").read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition(" = ")
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize(("action", "operations"), [("add", ["Install", "Upgrade"]), ("remove", ["Remove"])])
def test_hook_of_pacman_takes_all_kernels_of_a_transaction(
    action: str, operations: list[str], machine: Root, tmp_path: Path
) -> None:
    keys = read_hook(action)
    assert keys["Operation"] == operations
    assert keys["Target"] == ["usr/lib/modules/*/vmlinuz"]
    assert "NeedsTargets" in keys
    for release in (OLD, NEW):
        run_hook([POSTINST, release], machine, tmp_path)
    if action == "add":
        for path in (Path(machine.directory) / OUTPUT[1:]).iterdir():
            path.unlink()
    else:
        remove_kernel(machine, OLD, NEW)
    targets = f"usr/lib/modules/{OLD}/vmlinuz\nusr/lib/modules/{NEW}/vmlinuz\n"
    ended = run_hook(shlex.split(keys["Exec"][0]), machine, tmp_path, stdin=targets)
    assert ended.returncode == 0, ended.stderr
    assert images(machine) == ([image_of(OLD), image_of(NEW)] if action == "add" else [])


def test_a_kernel_that_cannot_be_built_for_does_not_keep_the_next_from_its_image(machine: Root, tmp_path: Path) -> None:
    targets = f"usr/lib/modules/9.9.9/vmlinuz\nusr/lib/modules/{NEW}/vmlinuz\n"
    ended = run_hook(shlex.split(read_hook("add")["Exec"][0]), machine, tmp_path, stdin=targets)
    assert ended.returncode == 0
    assert "kernel 9.9.9: no capture image was built; its own installation goes on" in ended.stderr
    assert images(machine) == [image_of(NEW)]


def make_package(place: Path, releases: Sequence[str]) -> None:
    """Write a package of pacman that has the images of kernels and nothing else."""
    info = b"pkgname = kernels\npkgver = 1-1\npkgdesc = x\nsize = 1\narch = any\n"
    files = {".PKGINFO": info, **{f"usr/lib/modules/{release}/vmlinuz": b"x" for release in releases}}
    with tarfile.open(place, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_pacman_itself_runs_the_hooks(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may chroot, as pacman does for its hooks")
    programs.need("pacman", "busybox")
    root = tmp_path / "root"
    for directory in ("bin", "usr/bin", "var/lib/pacman", "etc", "tmp", "cache"):
        (root / directory).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), root / "bin/busybox")
    for link in ("bin/sh", "bin/cat", "usr/bin/env"):
        (root / link).symlink_to("/bin/busybox")
    program = root / "usr/bin/kdump-initramfs"
    program.write_text('#!/bin/sh\n{ echo "$*"; cat; } >>/tmp/called\n')
    program.chmod(0o755)
    make_package(tmp_path / "kernels-1-1-any.pkg.tar", ["6.1", "6.2"])
    (tmp_path / "pacman.conf").write_text("[options]\nSigLevel = Never\nLocalFileSigLevel = Never\n")
    places = {"root": root, "dbpath": root / "var/lib/pacman", "cachedir": root / "cache", "hookdir": HOOKS}
    options = [f"--{name}={place}" for name, place in places.items()]
    options += [f"--config={tmp_path}/pacman.conf", f"--logfile={tmp_path}/log", "--noconfirm"]
    for words in (["-U", str(tmp_path / "kernels-1-1-any.pkg.tar")], ["-R", "kernels"]):
        ended = subprocess.run(["pacman", *options, *words], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
    targets = "usr/lib/modules/6.1/vmlinuz\nusr/lib/modules/6.2/vmlinuz\n"
    called = (root / "tmp/called").read_text()
    assert called == f"kernel-hook add -\n{targets}kernel-hook remove -\n{targets}"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["usr/lib/modules/6.1/vmlinuz\n", "usr/lib/modules/6.1/vmlinuz\n"], ["6.1"]),
        (["/lib/modules/6.2", "modules/6.3/x"], ["6.2", "6.3"]),
        (["boot/vmlinuz-6.1", "", "usr/lib/modules/"], []),
    ],
)
def test_releases_are_read_from_paths(lines: list[str], expected: list[str]) -> None:
    assert kernel_hook.releases_of(lines) == expected
