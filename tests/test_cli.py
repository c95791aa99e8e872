"""The command line, run as a process: exit statuses, what goes to which stream, and what is said about bad input."""

import argparse
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_initramfs import __version__, cli
from kdump_initramfs.formats import cpio
from kdump_initramfs.host.root import Root
from tests import command, trees

RELEASE = "6.1.0-35-amd64"
HOOKS = "etc/kdump-initramfs/hooks"


@pytest.fixture
def machine(host_root: Callable[[str], Root]) -> Path:
    """Return the root of a machine for which an image can be built."""
    return Path(host_root("debian-lvm-ext4").directory)


@pytest.fixture
def built(machine: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return a machine and an image that was built for it."""
    image = tmp_path / "crash.img"
    result = command.run("build", "--root", str(machine), "-o", str(image), "-q")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    return machine, image


def change(machine: Path, tree: str) -> None:
    trees.make(tree, machine)


def test_each_verb_is_in_one_group_and_needs_no_other() -> None:
    grouped = [verb for verbs in cli.GROUPS.values() for verb in verbs]
    assert sorted(grouped) == sorted(verbs_of(cli.parser()))
    for verbs in cli.GROUPS.values():
        for verb in verbs:
            assert verbs_of(cli.parser(verb)) == set(verbs)


def verbs_of(parser: argparse.ArgumentParser) -> set[str]:
    return set(re.findall(r"^    ([a-z-]+)", parser.format_help(), re.MULTILINE))


# --- bad input ---------------------------------------------------------------------------------------------------

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
        "mend the name",
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
    tree: str, arguments: list[str], problem: str, hint: str, machine: Path, tmp_path: Path
) -> None:
    change(machine, tree)
    output = tmp_path / "out"
    output.mkdir()
    (output / "crash.img").write_bytes(b"old image")
    (output / "crash.img.json").write_bytes(b"old record")
    result = command.run("build", *arguments, "--root", str(machine), "-o", str(output / "crash.img"))
    said, remedy = command.complaint(result)
    assert problem in said
    assert hint in remedy
    assert contents(output) == {"crash.img": b"old image", "crash.img.json": b"old record"}


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_output_directory_that_is_missing_is_named(machine: Path, tmp_path: Path) -> None:
    output = tmp_path / "missing" / "crash.img"
    said, remedy = command.complaint(command.run("build", "--root", str(machine), "-o", str(output)))
    assert said == f"{tmp_path}/missing: no such directory"
    assert remedy == f"create it: mkdir -m 0700 -p {tmp_path}/missing"
    assert not output.parent.exists()


def test_output_directory_that_is_a_file_is_named(machine: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said, _ = command.complaint(command.run("build", "--root", str(machine), "-o", str(tmp_path / "file" / "x.img")))
    assert said == f"{tmp_path}/file: Not a directory"


def test_default_output_directory_is_made_for_root_alone(machine: Path) -> None:
    result = command.run("build", "--root", str(machine))
    directory = machine / "var/lib/kdump-initramfs"
    assert result.returncode == 0
    assert sorted(os.listdir(directory)) == [f"initrd-{RELEASE}.img", f"initrd-{RELEASE}.img.json"]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_default_output_directory_that_cannot_be_made_is_named(machine: Path) -> None:
    change(machine, "file /var/lib x")
    said, _ = command.complaint(command.run("build", "--root", str(machine)))
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


def test_without_makedumpfile_a_plain_copy_is_built_in(machine: Path) -> None:
    change(machine, "remove /usr/bin/makedumpfile\nelf /usr/bin/vmcore-dmesg")
    result = command.run("plan", "--root", str(machine), "--json")
    assert result.returncode == 0
    settings = next(entry for entry in json.loads(result.stdout)["entries"] if entry["path"] == "/etc/kdump/settings")
    assert "export KDUMP_COLLECTORS=copy\n" in settings["content"]


# --- loading -----------------------------------------------------------------------------------------------------

LOAD_PROBLEMS = {
    "no kexec": ("remove /usr/sbin/kexec", "kexec: no such program", "install kexec-tools"),
    "nothing reserved": ("file /sys/kernel/kexec_crash_size 0", "no memory is reserved", "add crashkernel=256M"),
    "another kernel's image": (
        f"kernel /boot/vmlinuz-{RELEASE} 5.10.0-1-amd64",
        f"/boot/vmlinuz-{RELEASE}: is kernel 5.10.0-1-amd64, the image was built for {RELEASE}",
        "kdump-initramfs build",
    ),
    "a changed kernel": (
        f"file /boot/vmlinuz-{RELEASE} changed",
        f"/boot/vmlinuz-{RELEASE}: has changed since the image was built for it",
        "kdump-initramfs build",
    ),
    "no kernel": (f"remove /boot/vmlinuz-{RELEASE}", f"/boot/vmlinuz-{RELEASE}: no such kernel image", "mount /boot"),
    "a machine that is not this one": ("", "only the running system can be armed", "leave --root out"),
}


@pytest.mark.parametrize(("tree", "problem", "hint"), LOAD_PROBLEMS.values(), ids=LOAD_PROBLEMS.keys())
def test_what_cannot_be_loaded_is_named_with_a_remedy(
    tree: str, problem: str, hint: str, built: tuple[Path, Path]
) -> None:
    machine, image = built
    change(machine, tree)
    said, remedy = command.complaint(command.run("load", "--root", str(machine), "--image", str(image)))
    assert problem in said
    assert hint in remedy


def test_damaged_image_is_not_loaded(built: tuple[Path, Path]) -> None:
    machine, image = built
    image.write_bytes(image.read_bytes()[:-1])
    said, _ = command.complaint(command.run("load", "--print", "--root", str(machine), "--image", str(image)))
    assert said == f"{image}: is not the image that its manifest describes"


def test_image_that_was_never_built_is_named_with_the_command_that_builds_it(machine: Path) -> None:
    said, remedy = command.complaint(command.run("load", "--print", "--root", str(machine)))
    assert said == f"{machine}/var/lib/kdump-initramfs/initrd-{RELEASE}.img: no such file"
    assert remedy == "run: kdump-initramfs build"


def test_load_print_shows_the_command_and_nothing_else(built: tuple[Path, Path]) -> None:
    machine, image = built
    result = command.run("load", "--print", "--root", str(machine), "--image", str(image))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(
        f"/usr/sbin/kexec -p /boot/vmlinuz-{RELEASE} -a --initrd={image} '--append=console="
    )
    assert result.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["status"], 4),
        (["dumps", "list"], 0),
        (["dumps", "list", "--dir", "/no/such/directory"], 0),
        (["dumps", "show"], 1),
    ],
)
def test_exit_status_tells_the_state(arguments: list[str], status: int, machine: Path) -> None:
    assert command.run(*arguments, "--root", str(machine)).returncode == status


# --- usage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["rebuild"],
        ["build", "--no-such-option"],
        ["build", "one", "two"],
        ["build", "--verb"],
        ["emit", "upstart"],
        ["emit"],
        ["inspect"],
        ["inspect", "x", "--manifest", "--diff", "y"],
        ["dumps"],
        ["dumps", "show", "--lines", "many"],
        ["rehearse", "--accel", "xen"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    result = command.run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("usage: kdump-initramfs")


def test_version_is_told() -> None:
    assert command.run("--version").stdout == f"kdump-initramfs {__version__}\n"


def test_every_command_has_a_help() -> None:
    result = command.run("--help")
    assert result.returncode == 0
    verbs = ("build", "plan", "probe", "inspect", "load", "emit", "unload", "status", "rehearse", "dumps")
    listed = {line.split()[0] for line in result.stdout.splitlines() if line.startswith("    ")}
    assert listed >= {*verbs, "enable", "disable", "kernel-hook"}


# --- streams -----------------------------------------------------------------------------------------------------


def test_quiet_says_nothing_and_verbose_says_why(machine: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "x.img")
    quiet = command.run("build", "-q", "--root", str(machine), "-o", output)
    usual = command.run("build", "--root", str(machine), "-o", output)
    verbose = command.run("build", "-v", "--root", str(machine), "-o", output)
    assert [result.stdout for result in (quiet, usual, verbose)] == ["", "", ""]
    assert quiet.stderr == ""
    assert usual.stderr.startswith(f"{command.PREFIX}wrote {output}: ")
    assert "hook 30-disk" not in usual.stderr
    assert usual.stderr in verbose.stderr


def test_quiet_still_tells_errors() -> None:
    assert "no such file" in command.run("inspect", "-q", "/no/such.img").stderr.lower()


def test_verbose_plan_has_a_reason_for_each_module(machine: Path) -> None:
    plain = command.run("plan", "--root", str(machine)).stdout
    reasons = command.run("plan", "-v", "--root", str(machine)).stdout
    assert "#" not in plain
    assert "#   module jbd2: needed by ext4\n" in reasons
    assert [line for line in reasons.splitlines() if not line.startswith("#")] == plain.splitlines()


@pytest.mark.parametrize(
    "arguments", [["probe"], ["plan"], ["status"], ["dumps", "list"], ["build", "-o", "{tmp}/json.img"]]
)
def test_json_is_all_that_goes_to_stdout(arguments: list[str], machine: Path, tmp_path: Path) -> None:
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    result = command.run(*given, "--json", "-v", "--root", str(machine))
    assert "Traceback" not in result.stderr
    json.loads(result.stdout)


def test_facts_of_another_machine_replace_those_of_the_root(machine: Path, tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    facts.write_text(command.run("probe", "--json", "--root", str(machine)).stdout)
    expected = command.run("plan", "--root", str(machine)).stdout
    change(machine, "remove /proc\nremove /sys\nremove /var/crash")
    result = command.run("plan", RELEASE, "--root", str(machine), "--facts", str(facts))
    assert (result.returncode, result.stdout) == (0, expected)


def test_closed_pipe_is_no_traceback(machine: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        command.words("plan", "--root", str(machine)),
        env=command.environment(),
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, b"")


def test_full_output_is_one_line(machine: Path) -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            command.words("plan", "--root", str(machine)),
            env=command.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == f"{command.PREFIX}standard output: No space left on device\n"


def test_other_machine_is_not_disarmed(machine: Path) -> None:
    said, _ = command.complaint(command.run("unload", "--root", str(machine)))
    assert said == f"{machine}: only the running system can be armed or disarmed"


def test_argument_that_is_not_utf8_is_no_traceback(machine: Path) -> None:
    result = subprocess.run(
        [*command.words("build", "--root", str(machine)), b"\xff\xfe"],
        env=command.environment(),
        capture_output=True,
        check=False,
    )
    assert result.returncode == 1
    assert b"no such kernel is installed" in result.stderr
    assert b"Traceback" not in result.stderr


# --- a hostile working directory ---------------------------------------------------------------------------------


def test_installed_program_imports_nothing_from_the_working_directory(machine: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "kdump-initramfs"
    program.parent.mkdir()
    # What pip makes of [project.scripts].
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom kdump_initramfs.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for name in (
        "json",
        "msgspec",
        "kdump_initramfs",
        "zstandard",
        "jinja2",
        "elftools",
        "kdump_initramfs_hook_10_base",
    ):
        (hostile / f"{name}.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\nraise SystemExit('imported')\n")
    for name in ("hooks", "templates"):
        shutil.copytree(command.PROJECT / name, hostile / name)
        (hostile / name / "99-hostile.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    result = subprocess.run(
        [program, "build", "--root", str(machine), "-o", "here.img"],
        cwd=hostile,
        env=command.environment(),
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "marker").exists()
    assert (hostile / "here.img").is_file()


@pytest.mark.parametrize("variables", [{"PATH": ""}, {"PATH": ".:"}, {"LC_ALL": "tr_TR.UTF-8"}, {"TMPDIR": "/no/such"}])
def test_odd_environments_change_nothing(variables: dict[str, str], machine: Path) -> None:
    usual = command.run("plan", "--root", str(machine))
    assert command.run("plan", "--root", str(machine), env=command.environment(**variables)).stdout == usual.stdout


# --- inspect -----------------------------------------------------------------------------------------------------


def test_listing_has_a_line_for_every_entry(built: tuple[Path, Path]) -> None:
    machine, image = built
    lines = command.run("inspect", str(image)).stdout.splitlines()
    assert "crw------- " in next(line for line in lines if line.endswith("/dev/console"))
    assert next(line for line in lines if "/usr/bin/sh " in line).endswith(" -> /usr/bin/busybox")
    plan = [line for line in command.run("plan", "--root", str(machine)).stdout.splitlines() if line]
    assert len(lines) == len(plan) + 1  # the manifest


def test_one_file_of_an_image_is_printed(built: tuple[Path, Path]) -> None:
    _, image = built
    lines = command.run("inspect", str(image), "/etc/kdump/modules").stdout.splitlines()
    assert lines[-1] == f"/lib/modules/{RELEASE}/ext4.ko"


def test_manifest_inside_is_printed_as_it_is_beside(built: tuple[Path, Path]) -> None:
    _, image = built
    inside = json.loads(command.run("inspect", "--manifest", str(image)).stdout)
    assert inside == json.loads(Path(f"{image}.json").read_text())["manifest"]


def test_two_images_are_compared(built: tuple[Path, Path], tmp_path: Path) -> None:
    machine, image = built
    other = tmp_path / "other.img"
    assert command.run("inspect", str(image), "--diff", str(image)).stdout == "no differences\n"
    change(machine, "elf /usr/sbin/lvm needed=libc.so.6 interp=/lib64/ld-linux-x86-64.so.2")
    assert command.run("build", "--root", str(machine), "-o", str(other), "--set", "capture.cpus=2").returncode == 0
    lines = command.run("inspect", str(image), "--diff", str(other)).stdout.splitlines()
    assert "- /usr/lib/x86_64-linux-gnu/libdevmapper.so.1.02.1" in lines
    assert any(line.startswith("~ /usr/sbin/lvm (") for line in lines)
    assert any(line.startswith("~ /etc/kdump/manifest.json (") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["/etc/nothing"], "has no /etc/nothing"),
        (["--diff", "/no/such.img"], "/no/such.img: No such file or directory"),
    ],
)
def test_what_an_image_lacks_is_named(arguments: list[str], problem: str, built: tuple[Path, Path]) -> None:
    said, _ = command.complaint(command.run("inspect", str(built[1]), *arguments))
    assert problem in said


def test_image_is_extracted_as_the_kernel_would_unpack_it(built: tuple[Path, Path], tmp_path: Path) -> None:
    _, image = built
    place = tmp_path / "unpacked"
    assert command.run("inspect", str(image), "--extract", str(place)).returncode == 0
    assert os.access(place / "init", os.X_OK)
    assert (place / "usr/bin/sh").readlink() == Path("/usr/bin/busybox")
    assert stat.S_IMODE((place / "etc/kdump/settings").stat().st_mode) == 0o600
    said, _ = command.complaint(command.run("inspect", str(image), "--extract", str(place)))
    assert said == f"{place}: is not empty"


LEADING_OUT: dict[str, list[tuple[str, int, bytes]]] = {
    "two dots": [("../marker", stat.S_IFREG | 0o644, b"x")],
    "two dots further in": [("etc", stat.S_IFDIR | 0o755, b""), ("etc/../../marker", stat.S_IFREG | 0o644, b"x")],
    "a link to the outside": [("link", stat.S_IFLNK | 0o777, b".."), ("link/marker", stat.S_IFREG | 0o644, b"x")],
    "a link in place of the file": [
        ("file", stat.S_IFLNK | 0o777, b"../marker"),
        ("file", stat.S_IFREG | 0o644, b"x"),
    ],
    "a directory through a link": [("link", stat.S_IFLNK | 0o777, b".."), ("link/marker", stat.S_IFDIR | 0o755, b"")],
    "a directory that is a link": [("link", stat.S_IFLNK | 0o777, b"../target"), ("link", stat.S_IFDIR | 0o777, b"")],
}


@pytest.mark.parametrize("members", LEADING_OUT.values(), ids=LEADING_OUT.keys())
def test_hostile_archive_does_not_lead_out_of_the_directory(
    members: list[tuple[str, int, bytes]], tmp_path: Path
) -> None:
    image = tmp_path / "hostile.img"
    with open(image, "wb") as stream:
        writer = cpio.Writer(stream.write)
        for name, mode, data in members:
            writer.add(name, mode, data)
        writer.finish()
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    result = command.run("inspect", str(image), "--extract", str(tmp_path / "place"))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "marker").exists()
    assert stat.S_IMODE(target.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", [b"", b"x" * 200, b"\x28\xb5\x2f\xfd broken", b"\x1f\x8b broken"])
def test_file_that_is_no_image_is_one_line(content: bytes, tmp_path: Path) -> None:
    image = tmp_path / "broken.img"
    image.write_bytes(content)
    result = command.run("inspect", str(image))
    assert result.returncode == 1
    assert result.stdout == ""
    assert len([line for line in result.stderr.splitlines() if "hint:" not in line]) == 1
