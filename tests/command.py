"""Runs the tool as a user does: as a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PROJECT = Path(__file__).parent.parent
PREFIX = "kdump-initramfs: "


def environment(**changes: str) -> dict[str, str]:
    """Return an environment in which this checkout can be imported, and nothing else is inherited.

    No cache of bytecode is written, only read: a process that is broken on purpose would leave half of one in the
    checkout.
    """
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**own, **changes}


def words(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "kdump_initramfs", *arguments]


def run(
    *arguments: str, cwd: Path = PROJECT, env: Mapping[str, str] | None = None, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the tool to its end; `before` is put in front of its words (such as `unshare -m`)."""
    return subprocess.run(
        [*before, *words(*arguments)],
        cwd=cwd,
        env=environment() if env is None else env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def complaint(result: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """Return the one line and the one hint with which the tool gave up; fail where it said anything else."""
    lines = result.stderr.splitlines()
    assert result.returncode == 1, result
    assert result.stdout == ""
    assert len(lines) == 2, result.stderr
    assert all(line.startswith(PREFIX) for line in lines)
    problem, hint = (line.removeprefix(PREFIX) for line in lines)
    assert hint.startswith("  hint: ")
    return problem, hint.removeprefix("  hint: ")
