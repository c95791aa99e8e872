"""What a build says of bad input, run as a process: one line for each problem, with a remedy, and nothing is lost."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_initramfs.host.root import Root
from tests import command, trees

RELEASE = "6.1.0-35-amd64"
HOOKS = "etc/kdump-initramfs/hooks"

BAD_INPUT = {
    "no kernel of that version": (
        "",
        ["9.9.9-none"],
        "/lib/modules/9.9.9-none: no such kernel is installed",
        f"installed kernels: {RELEASE}",
    ),
    "no modules.dep": (
        f"remove /usr/lib/modules/{RELEASE}/modules.dep",
        [],
        f"/lib/modules/{RELEASE}: has no modules.dep",
        f"run: depmod {RELEASE}",
    ),
    "no modules": (
        "remove /usr/lib/modules",
        [],
        f"/lib/modules/{RELEASE}: no such kernel is installed",
        "install a kernel with its modules",
    ),
    "no kernel image": (
        f"remove /boot/vmlinuz-{RELEASE}",
        [],
        f"kernel {RELEASE}: no bootable image in /boot, /usr/lib/modules/{RELEASE}, ",
        "--set kernel.image=PATH",
    ),
    "another kernel's image": (
        f"kernel /boot/vmlinuz-{RELEASE} 5.10.0-1-amd64",
        [],
        f"passed over: /boot/vmlinuz-{RELEASE} (is kernel 5.10.0-1-amd64)",
        "kernel.image",
    ),
    "a release that is a path": ("", ["../../etc"], "../../etc: not the name of a kernel release", RELEASE),
    "nothing running and none named": (
        "remove /proc/sys/kernel/osrelease",
        [],
        "no running kernel to be seen",
        "name the kernel",
    ),
    "no busybox": ("remove /usr/bin/busybox", [], "busybox: no such program", "busybox-static"),
    "no lvm": ("remove /usr/sbin/lvm", [], "lvm: no such program", "install lvm2"),
    "nothing to save the log with": (
        "remove /usr/bin/makedumpfile",
        [],
        "makedumpfile, vmcore-dmesg: neither is there",
        "install makedumpfile",
    ),
    "makedumpfile asked for and not there": (
        "remove /usr/bin/makedumpfile\nelf /usr/bin/vmcore-dmesg",
        ["--set", "vmcore.collector=makedumpfile"],
        "makedumpfile: no such program, but vmcore.collector asks for it",
        "leave vmcore.collector at auto",
    ),
    "a compression that makedumpfile lacks": (
        "",
        ["--set", "vmcore.compression=zstd"],
        "/usr/bin/makedumpfile: was built without zstd",
        "it can: lzo, zlib",
    ),
    "a compression that the kernel lacks": (
        f"file /boot/config-{RELEASE} CONFIG_RD_GZIP=y",
        ["--set", "image.compression=zstd"],
        f"kernel {RELEASE}: cannot unpack zstd (CONFIG_RD_ZSTD)",
        "it can unpack: gzip",
    ),
    "no library": (
        "remove /usr/lib/x86_64-linux-gnu/liblzo2.so.2",
        [],
        "/usr/bin/makedumpfile: needs the library liblzo2.so.2, which is not there",
        "install the package that holds liblzo2.so.2",
    ),
    "no such extra program": (
        "",
        ["--set", 'image.extra_binaries=["gdb"]'],
        "gdb: no such program",
        "image.extra_binaries",
    ),
    "no such extra module": (
        "",
        ["--set", 'image.extra_modules=["nbd"]'],
        f"/lib/modules/{RELEASE}: this kernel has no module nbd",
        "correct the name",
    ),
    "no such extra file": (
        "",
        ["--set", 'image.extra_files=["/etc/nothing"]'],
        "/etc/nothing: no such file",
        "image.extra_files",
    ),
    "target directory absent": (
        "remove /var/crash",
        [],
        "/var/crash: no such directory",
        "mkdir -m 0700 -p /var/crash",
    ),
    "target directory is a file": ("file /var/crash x", [], "/var/crash: is no directory", "mkdir"),
    "file system that cannot be mounted": (
        "file /proc/self/mountinfo 28 1 254:1 / / rw - nilfs2 /dev/vda1 rw",
        [],
        "/var/crash: on nilfs2, which the capture environment cannot mount",
        "ext2, ext3, ext4, xfs",
    ),
    "memory file system": (
        "file /proc/self/mountinfo 28 1 0:25 / / rw - tmpfs tmpfs rw",
        [],
        "/var/crash: on tmpfs (tmpfs), which is not on a block device",
        "[[target]]",
    ),
    "no /proc": ("remove /proc/self", [], "has no /proc/self/mountinfo", "--facts"),
    "no /sys": ("remove /sys", [], "/sys/dev/block/253:1: no such block device", "mount /sys"),
    "hook with a syntax error in Python": (
        f"file /{HOOKS}/45-bad.py\n| def contribute(config, host):\n|     return (",
        [],
        f"{HOOKS}/45-bad.py:2: '(' was never closed",
        "mend or mask this hook",
    ),
    "hook with a syntax error in shell": (
        f"file /{HOOKS}/45-bad.sh\n| #!/bin/sh\n| if true; then\n|     echo",
        [],
        f"{HOOKS}/45-bad.sh: ",
        "mend or mask this hook",
    ),
    "configuration that is no TOML": (
        "file /etc/kdump-initramfs/config.toml [vmcore",
        [],
        "etc/kdump-initramfs/config.toml: ",
        "TOML",
    ),
    "unknown key": (
        "file /etc/kdump-initramfs/conf.d/10-site.toml vmcore.dumplevel = 1",
        [],
        "conf.d/10-site.toml: vmcore.dumplevel: unknown key",
        "did you mean vmcore.dump_level?",
    ),
    "configuration file absent": (
        "",
        ["--config", "/no/such.toml"],
        "/no/such.toml: No such file or directory",
        "name",
    ),
    "facts absent": ("", ["--facts", "/no/such.json"], "/no/such.json: No such file or directory", "probe --json"),
    "facts that are none": ("", ["--facts", __file__], f"{__file__}: ", "probe --json"),
}


@pytest.mark.parametrize(("tree", "arguments", "problem", "hint"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_line_with_a_remedy_and_leaves_everything_as_it_was(
    tree: str, arguments: list[str], problem: str, hint: str, machine: Root, tmp_path: Path
) -> None:
    trees.make(tree, Path(machine.directory))
    output = tmp_path / "out"
    output.mkdir()
    (output / "crash.img").write_bytes(b"old image")
    (output / "crash.img.json").write_bytes(b"old record")
    result = command.run("build", *arguments, "--root", machine.directory, "-o", str(output / "crash.img"))
    said, remedy = command.complaint(result)
    assert problem in said
    assert hint in remedy
    assert contents(output) == {"crash.img": b"old image", "crash.img.json": b"old record"}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_output_directory_that_is_missing_is_named(machine: Root, tmp_path: Path) -> None:
    output = tmp_path / "missing" / "crash.img"
    said, remedy = command.complaint(command.run("build", "--root", machine.directory, "-o", str(output)))
    assert said == f"{tmp_path}/missing: no such directory"
    assert remedy == f"create it: mkdir -m 0700 -p {tmp_path}/missing"
    assert not output.parent.exists()


def test_output_directory_that_is_a_file_is_named(machine: Root, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said, _ = command.complaint(
        command.run("build", "--root", machine.directory, "-o", str(tmp_path / "file" / "x.img"))
    )
    assert said == f"{tmp_path}/file: Not a directory"


def test_default_output_directory_is_made_for_root_alone(machine: Root) -> None:
    result = command.run("build", "--root", machine.directory)
    directory = Path(machine.directory) / "var/lib/kdump-initramfs"
    assert result.returncode == 0
    assert sorted(os.listdir(directory)) == [f"initrd-{RELEASE}.img", f"initrd-{RELEASE}.img.json"]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_default_output_directory_that_cannot_be_made_is_named(machine: Root) -> None:
    trees.make("file /var/lib x", Path(machine.directory))
    said, _ = command.complaint(command.run("build", "--root", machine.directory))
    assert "var/lib" in said


def test_several_problems_are_all_named_in_one_run(host_root: Callable[[str], Root]) -> None:
    root = host_root("several-problems")
    result = command.run("plan", "--root", root.directory)
    problems = [line for line in result.stderr.splitlines() if not line.startswith(f"{command.PREFIX}  hint: ")]
    assert result.returncode == 1
    assert [line.removeprefix(command.PREFIX).split(":")[0] for line in problems] == [
        "/var/crash",
        "/srv/crash",
        "UUID=99887766-5544-3322-1100-FFEEDDCCBBAA",
    ]


def test_without_makedumpfile_a_plain_copy_is_built_in(machine: Root) -> None:
    trees.make("remove /usr/bin/makedumpfile\nelf /usr/bin/vmcore-dmesg", Path(machine.directory))
    result = command.run("plan", "--root", machine.directory, "--json")
    assert result.returncode == 0
    settings = next(entry for entry in json.loads(result.stdout)["entries"] if entry["path"] == "/etc/kdump/settings")
    assert "export KDUMP_COLLECTORS=copy\n" in settings["content"]
