"""A machine on which kernels come and go, and how hooks are run for it."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kdump_initramfs.host.root import Root
from tests import command, trees

HOOKS = command.PROJECT / "contrib" / "kernel-hooks"
PLUGIN = HOOKS / "90-kdump-initramfs.install"
POSTINST = HOOKS / "zz-kdump-initramfs.postinst"
POSTRM = HOOKS / "zz-kdump-initramfs.postrm"
OLD, NEW = "6.1.0-35-amd64", "6.1.0-36-amd64"
OUTPUT = "/var/lib/kdump-initramfs"


def armed(root: Root) -> Root:
    """Make of a root a machine that is to be armed, runs one kernel, and has another one installed; return it."""
    add_kernel(root, NEW)
    trees.make("file /etc/kdump-initramfs/config.toml", Path(root.directory))
    return root


def add_kernel(root: Root, release: str) -> None:
    base = Path(root.directory)
    subprocess.run(["cp", "-a", base / f"usr/lib/modules/{OLD}", base / f"usr/lib/modules/{release}"], check=True)
    trees.make(f"kernel /boot/vmlinuz-{release} {release}", base)


def remove_kernel(root: Root, *releases: str) -> None:
    """Remove the images of kernels, as package managers do before they run their hooks; what depmod wrote may stay."""
    trees.make("".join(f"remove /boot/vmlinuz-{release}\n" for release in releases), Path(root.directory))


def images(root: Root) -> list[str]:
    return sorted(name for name in root.list(OUTPUT) if name.endswith(".img"))


def image_of(release: str) -> str:
    return f"initrd-{release}.img"


def path_of(root: Root, release: str) -> str:
    return f"{root.directory}{OUTPUT}/{image_of(release)}"


def run_hook(
    words: Sequence[object], root: Root, tmp_path: Path, *, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a hook whose `kdump-initramfs` is this checkout's, for the machine at `root`."""
    program = tmp_path / "bin" / "kdump-initramfs"
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        "#!/bin/sh\n"
        f"PYTHONPATH={shlex.quote(str(command.PROJECT))} PYTHONDONTWRITEBYTECODE=1 "
        f'exec {shlex.quote(sys.executable)} -m kdump_initramfs "$@" --root {shlex.quote(root.directory)}\n'
    )
    program.chmod(0o755)
    env = {"PATH": f"{program.parent}:/usr/sbin:/usr/bin:/sbin:/bin", **environment}
    return subprocess.run(
        list(map(str, words)), input=stdin, env=env, cwd="/", capture_output=True, text=True, timeout=120, check=False
    )
