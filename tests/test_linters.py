"""Linters as tests, on what is written and on what is rendered. A missing tool is a skip, but a failure in CI."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kdump_initramfs import build as spine
from kdump_initramfs import config
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import Text
from tests import programs, trees
from tests.test_golden import GOLDEN

PROJECT = Path(__file__).parent.parent

# What runs in the capture environment: POSIX sh, `.` of a path that is there only then.
CAPTURE = sorted(
    path for place in ("hooks", "templates", "contrib/example-hooks") for path in (PROJECT / place).glob("*.sh")
)
SHELLS = ("dash", "busybox sh")
RENDERED_EXCEPTIONS = (
    *("SC1090", "SC1091", "SC2154"),  # settings and library are files of the image
    "SC2016",  # a quoted value may have a $ in it
    "SC2043",  # one target is a loop that runs once
)


def check(words: Sequence[str], text: str | None = None) -> None:
    result = subprocess.run(words, cwd=PROJECT, input=text, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def shebang(path: Path) -> str:
    """Return the shell that a file is for, or "" if it is no shell script."""
    try:
        first = path.read_text().partition("\n")[0]
    except (UnicodeDecodeError, OSError):
        return ""
    words = first.removeprefix("#!").split()
    name = Path(words[-1]).name if first.startswith("#!") and words else ""
    return name if name in ("sh", "bash", "dash") else ""


def scripts() -> list[Path]:
    """Return all shell scripts that run on the machine of a developer or an administrator."""
    places = [PROJECT / name for name in ("tests", "contrib", ".ci")]
    files = [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(
        path for path in files if path not in CAPTURE and not {"golden", "hosts"} & {*path.parts} and shebang(path)
    )


def name_of(path: Path) -> str:
    return str(path.relative_to(PROJECT))


# --- Python ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["ruff", "check", "--no-cache"], ["ruff", "format", "--check", "--no-cache"], ["mypy"]]
)
def test_python_is_clean(arguments: list[str]) -> None:
    program = Path(sys.executable).parent / arguments[0]
    if not program.exists():
        programs.need(arguments[0])
    check([str(program) if program.exists() else arguments[0], *arguments[1:]])


# --- shell -------------------------------------------------------------------------------------------------------


def test_shellcheck_finds_nothing_in_what_runs_after_a_crash() -> None:
    programs.need("shellcheck")
    # SC1091: the library is sourced by the path that it has in the image.
    check(["shellcheck", "--shell=dash", "--exclude=SC1091", *map(str, CAPTURE)])


@pytest.mark.parametrize("path", scripts(), ids=name_of)
def test_shellcheck_finds_nothing_in_scripts(path: Path) -> None:
    programs.need("shellcheck")
    check(["shellcheck", "--external-sources", f"--shell={shebang(path)}", str(path)])


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("path", CAPTURE, ids=name_of)
def test_capture_script_is_read_by_every_small_shell(path: Path, shell: str) -> None:
    programs.need(shell.split(maxsplit=1)[0])
    check([*shell.split(), "-n", str(path)])


def test_capture_scripts_stop_at_the_first_error() -> None:
    for path in sorted((PROJECT / "hooks").glob("*.sh")):
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert path.read_text().startswith("#!/bin/sh\n"), path
        assert lines[0] == "set -eu", path


@pytest.mark.parametrize("name", [name for name in trees.names() if (GOLDEN / name / "init").is_file()])
def test_what_is_rendered_for_a_machine_is_clean_shell(name: str, host_root: Callable[[str], Root]) -> None:
    programs.need("shellcheck", "dash", "busybox")
    root = host_root(name)
    plan = spine.plan(root, config.load(root=root.directory))
    texts = {entry.path: entry.content for entry in plan.entries if isinstance(entry, Text)}
    rendered = [path for path in texts if path in ("/init", "/etc/kdump/settings") or "/kdump/targets/" in path]
    assert len(rendered) >= 3
    for path in rendered:
        for shell in SHELLS:
            check([*shell.split(), "-n"], texts[path])
        check(["shellcheck", "--shell=dash", f"--exclude={','.join(RENDERED_EXCEPTIONS)}", "-"], texts[path])
