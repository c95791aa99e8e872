"""Capture images for tests: facts of made-up hosts, images built from them, and an unpacked image to run scripts in."""

import hashlib
import io
import os
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pytest
from msgspec import Struct, structs

from kdump_initramfs import build, config
from kdump_initramfs.formats import cpio
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import inspect, record, unpack
from kdump_initramfs.model import HostFacts, ImageRecord, Kernel
from kdump_initramfs.storage import (
    BlockDevice,
    DirectoryTarget,
    Disk,
    Filesystem,
    LogicalVolume,
    Partition,
    TargetFacts,
)
from tests import kernels

HOST = "demo"
LV_UUID = "LVM-HTbPoqVJXl0PUOy2FLoVNVIDMOyP3bJYJrTlDZGcJsEpEZ0Pb1vJ6E3sWzQOqCnK"
FS_UUID = "2f0c1a52-7d0a-4b3c-9f47-5d2f0d3f1a11"
OTHER_FS_UUID = "7b0e4ff0-0e5c-4a5c-8d53-b1a1f0a1c0de"

KernelKind = Literal["generic", "cloud", "new"]

# Drivers from the disk up to its bus, as sysfs tells them.
_DRIVERS = {
    "virtio_blk": ("virtio_blk", "virtio_pci"),
    "virtio_scsi": ("sd_mod", "virtio_scsi", "virtio_pci"),
    "nvme": ("nvme",),
    "ahci": ("sd_mod", "ahci"),
}


def release(kind: KernelKind) -> str:
    """Return the release of the oldest generic kernel, of the newest one, or of the one for clouds."""
    names = list(kernels.roots())
    generic = sorted((name for name in names if "cloud" not in name), key=_version)
    cloud = [name for name in names if "cloud" in name]
    found = {"generic": generic[:1], "new": generic[1:][-1:], "cloud": cloud[:1]}[kind]
    if not found:
        pytest.skip(f"no {kind} kernel among {', '.join(names) or 'none'}")
    return found[0]


def _version(name: str) -> tuple[int, ...]:
    major, minor, *_ = name.split(".")
    return int(major), int(minor)


def kernel_image(name: str) -> str:
    return f"{kernels.roots()[name]}/boot/vmlinuz-{name}"


def booted_kernel(name: str) -> str:
    """Return what QEMU boots that kernel from, where it need not be what an administrator boots."""
    return kernels.unpacked(kernel_image(name), os.path.join(os.path.dirname(kernels.roots_directory()), "unpacked"))


def kernel_overrides(name: str) -> list[str]:
    """Return the `--set` words for a kernel that is not installed but unpacked."""
    root = kernels.roots()[name]
    return [
        f"kernel.version={name}",
        f"kernel.image={kernel_image(name)}",
        f"kernel.modules_dir={root}/lib/modules/{name}",
    ]


def target(
    *,
    driver: str = "virtio_blk",
    fs: str = "ext4",
    uuid: str = FS_UUID,
    directory: str = "",
    partition: bool = False,
    lvm: bool = False,
    size_bytes: int = 0,
) -> DirectoryTarget:
    """Return a target on a disk of that driver, or on a partition of it, or on a logical volume on either.

    `size_bytes` is that of the partition, or of the disk; 0 was not seen, and any will do.
    """
    disk = Disk(name="disk0", number="8:0", size_bytes=size_bytes, drivers=_DRIVERS[driver])
    stack: list[BlockDevice] = [disk]
    if partition:
        below = (stack[0].name,)
        stack.insert(0, Partition(name="part1", number="8:1", size_bytes=size_bytes, below=below))
    if lvm:
        volume = LogicalVolume(
            name="dm-0",
            number="254:0",
            size_bytes=1 << 30,
            dm_name="crash--vg-dump--lv",
            dm_uuid=LV_UUID,
            below=(stack[0].name,),
        )
        stack.insert(0, volume)
    return DirectoryTarget(
        kind="path",
        name=f"/srv/{uuid[:8]}/{directory}",
        directory=directory,
        filesystem=Filesystem(type=fs, uuid=uuid),
        stack=tuple(stack),
        devices=(stack[0].name,),
    )


def facts(*targets: TargetFacts) -> HostFacts:
    """Return the facts of a host; the kernel and the programs are those of the machine that builds."""
    elsewhere = Kernel(release="x", image="/x", modules_dir="/x", initramfs_compressions=None)
    return HostFacts(hostname=HOST, machine="x86_64", kernel=elsewhere, targets=targets)


def build_image(kernel: str, host: HostFacts, output: Path, *overrides: str) -> ImageRecord:
    """Build an image with the product."""
    root = Root()
    words = [*kernel_overrides(kernel), *overrides]
    configuration = config.load(root=str(output.parent / "no-configuration"), overrides=words)
    return build.build(root, configuration, output=str(output), facts_of=host)


def patch_image(image: Path, changes: Mapping[str, Callable[[str], str]]) -> None:
    """Change text files of an image (path -> what becomes of the text), so that it still fits its record."""
    members = list(inspect.members(str(image)))
    names = {member.name: member.name.removeprefix("usr/") for member in members}
    assert changes.keys() <= set(names.values())
    content = io.BytesIO()
    archive = cpio.Writer(content.write)
    for member in members:
        data = member.data
        if change := changes.get(names[member.name]):
            data = change(data.decode(errors="replace")).encode()
        archive.add(member.name, member.mode, data, device=member.device)
    archive.finish()
    described = structs.replace(
        record.read(str(image)), image_sha256=hashlib.sha256(content.getvalue()).hexdigest(), compression="none"
    )
    image.write_bytes(content.getvalue())
    record.write_beside(record.path_of(str(image)), record.to_json(described))


# --- an unpacked image to run scripts in -------------------------------------------------------------------------

_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL")
# What a script of the image may do as root of the chroot. Neither mount nor load modules: /init tries both. With
# sys_boot, reboot(2) in a PID namespace ends that namespace and no machine (reboot_pid_ns(), kernel/pid_namespace.c).
_CAPABILITIES = "-all,+chown,+dac_override,+fowner,+kill,+sys_chroot"
# The real /proc is at /.proc; what scripts need of it is linked, and what could hurt this machine is a plain file.
_ENTER = """\
[ $$ = 1 ] || exit 99
root=$1 capabilities=$2
shift 2
mount -t proc proc "$root/.proc" || exit 99
[ ! -e "$root/.proc/sysrq-trigger" ] || mount --bind /dev/null "$root/.proc/sysrq-trigger" || exit 99
exec setpriv --bounding-set="$capabilities" chroot "$root" "$@"
"""
_LINKED = ("self", "uptime", "meminfo", "mounts")

SYSRQ = "/proc/sysrq-trigger"
DROP_CACHES = "/proc/sys/vm/drop_caches"
CONSOLE = "/dev/console"
VMCORE = "/proc/vmcore"
LOG = "/run/kdump/log"


class Ended(Struct, frozen=True):
    # Exit status, minus the signal that killed it, or None where it did not end in time.
    status: int | None
    output: str


class Step(Struct, frozen=True):
    """What /init writes down of one hook."""

    status: int
    began_cs: int
    took_cs: int
    name: str


def can_enter() -> bool:
    """Whether this process may make namespaces and device nodes, as root usually may."""
    if os.geteuid() != 0:
        return False
    words = [*_NAMESPACES, "sh", "-c", "mount -t tmpfs none /mnt && mknod /mnt/null c 1 3"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


class Environment:
    """A capture environment without a kernel of its own: the unpacked image in a chroot and in namespaces."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def unpack(cls, image: Path, directory: Path) -> "Environment":
        unpack.unpack(str(image), str(directory))
        made = cls(directory)
        for path in (".proc", "proc/sys/vm", "sys/block", "sys/class/block"):
            (directory / path).mkdir(parents=True)
        for name in _LINKED:
            (directory / "proc" / name).symlink_to(f"/.proc/{name}")
        os.mknod(directory / "dev/null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        return made

    def copy_to(self, directory: Path) -> "Environment":
        """Return a copy, quickly: both share their files until `write` replaces one."""
        subprocess.run(["cp", "-al", self.directory, directory], check=True)
        made = Environment(directory)
        for path in (SYSRQ, DROP_CACHES, CONSOLE, LOG):
            made.write(path, "")
        return made

    # --- files ---

    def path(self, inside: str) -> Path:
        """Return where a path of the environment is; never what a link in it means outside of it."""
        parent = Path(Root(str(self.directory)).host(os.path.dirname(inside)))
        return Path(os.path.realpath(parent)) / os.path.basename(inside)

    def write(self, path: str, content: str | bytes, *, mode: int = 0o600) -> None:
        place = self.path(path)
        assert place.is_relative_to(os.path.realpath(self.directory))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        place.chmod(mode)

    def program(self, path: str, script: str) -> None:
        """Put a shell script in the place of a program."""
        self.write(path, f"#!/bin/sh\n{script}\n", mode=0o755)

    def append(self, path: str, text: str) -> None:
        self.write(path, self.read(path) + text)

    def replace(self, path: str, old: str, new: str) -> None:
        text = self.read(path)
        assert text.count(old) == 1, f"{path} has {old!r} {text.count(old)} times"
        self.write(path, text.replace(old, new))

    def read(self, path: str) -> str:
        return self.path(path).read_text(errors="replace")

    def exists(self, path: str) -> bool:
        return self.path(path).exists()

    def files(self, below: str) -> dict[str, Path]:
        """Return every regular file below a directory of the environment."""
        base = self.path(below)
        return {str(file.relative_to(base)): file for file in sorted(base.rglob("*")) if file.is_file()}

    # --- runs ---

    def run(self, words: Sequence[str], *, timeout_s: float = 30, may_reboot: bool = False, closed: str = "") -> Ended:
        """Run a program as process 1 of a namespace, to its end or till time is up; `closed` is a shell redirection."""
        capabilities = _CAPABILITIES + (",+sys_boot" if may_reboot else "")
        enter = _ENTER.rstrip() + f" {closed}\n"
        process = subprocess.Popen(
            [*_NAMESPACES, "sh", "-c", enter, "sh", str(self.directory), capabilities, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        with process:
            try:
                output, _ = process.communicate(timeout=timeout_s)
                status: int | None = process.returncode
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                status = None
        assert status != 99, output
        return Ended(status, output.decode(errors="replace"))

    def shell(self, script: str, *, timeout_s: float = 30) -> Ended:
        """Run lines of shell as /init would: library, settings and the first target's settings loaded."""
        head = "umask 077\n. /etc/kdump/settings\n. /etc/kdump/targets/0\n"
        head += "".join(f". /lib/kdump/{name}.sh\n" for name in ("lib", "process", "devices", "directory"))
        head += ": >>/run/kdump/sessions\n"
        return self.run(["/bin/sh", "-c", head + script], timeout_s=timeout_s)

    def hook(self, name: str, *, before: str = "", timeout_s: float = 30) -> Step:
        """Run a hook as /init does, and return the step that it wrote down."""
        ended = self.shell(f"{before}\nrun_hook {name}\n", timeout_s=timeout_s)
        assert ended.status is not None, self.read(LOG)
        return self.steps()[-1]

    def steps(self) -> list[Step]:
        lines = self.read("/run/kdump/steps").splitlines()
        parts = [line.split(" ", 3) for line in lines]
        return [Step(int(status), int(began), int(took), name) for status, began, took, name in parts]

    def init(self, *, timeout_s: float = 30, may_reboot: bool = True, closed: str = "") -> Ended:
        return self.run(["/init"], timeout_s=timeout_s, may_reboot=may_reboot, closed=closed)
