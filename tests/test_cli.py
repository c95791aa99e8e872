"""The command line, run as a process: exit statuses, loading, what goes to which stream, odd environments."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_initramfs import __version__, cli
from kdump_initramfs.host.root import Root
from tests import command, trees

RELEASE = "6.1.0-35-amd64"


@pytest.fixture
def machine(host_root: Callable[[str], Root]) -> Path:
    """Return the root of a machine for which an image can be built."""
    return Path(host_root("debian-lvm-ext4").directory)


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


def test_width_of_the_help_is_that_of_the_terminal_or_80() -> None:
    usual, narrow, none = (
        command.run("build", "--help", env=command.environment(**columns)).stdout
        for columns in ({}, {"COLUMNS": "50"}, {"COLUMNS": "0"})
    )
    assert none == usual
    assert 50 >= max(map(len, narrow.splitlines())) > 40
    assert 80 >= max(map(len, usual.splitlines())) > 70


def test_an_answer_imports_nothing_that_it_does_not_need(machine: Path) -> None:
    heavy = ("ctypes", "elftools", "jinja2", "shutil", "subprocess", "zstandard")
    script = f"""
import sys
from kdump_initramfs import cli
cli.main(["check", "--root", sys.argv[1]])
print([name for name in {heavy} if name in sys.modules])
"""
    words = [sys.executable, "-c", script, str(machine)]
    ended = subprocess.run(words, env=command.environment(), capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


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
