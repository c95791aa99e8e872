"""What init systems get of a load."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from msgspec.structs import replace

from kdump_initramfs import config
from kdump_initramfs.host.root import Root
from kdump_initramfs.loader import emit, kexec
from tests import programs
from tests.test_enable import OPENRC_WORDS


@pytest.fixture
def awkward(machine: Root, image: str, tmp_path: Path) -> kexec.Command:
    """Return a command whose kexec writes down its words, and whose command line has all that must be quoted."""
    stub = tmp_path / "a dir" / "kexec"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" >{shlex.quote(str(tmp_path / "argv"))}\n')
    stub.chmod(0o755)
    settings = config.load(root="/no/such", overrides=['kernel.append=[\'x="a $(id) `id` %i b\\\\"\', "it\'s"]'])
    command = kexec.command(machine, settings, image)
    return replace(command, words=(str(stub), *command.words[1:]))


def called(tmp_path: Path) -> list[str]:
    return (tmp_path / "argv").read_text().split("\0")[:-1]


@pytest.mark.parametrize("form", ["local.d", "sh"])
@pytest.mark.parametrize("shell", ["sh", "dash", "busybox sh", "bash"])
def test_script_runs_the_very_command(shell: str, form: str, awkward: kexec.Command, tmp_path: Path) -> None:
    program, *rest = shell.split()
    programs.need(program)
    words = [str(shutil.which(program)), *rest]
    script = tmp_path / "kdump.start"
    script.write_text(emit.FORMS[form](awkward))
    assert subprocess.run([*words, "-n", str(script)], check=False).returncode == 0
    subprocess.run([*words, str(script)], cwd="/", env={"PATH": "/nowhere"}, check=True)
    assert called(tmp_path) == list(awkward.words[1:])


def test_openrc_script_runs_the_very_command_and_takes_it_back(awkward: kexec.Command, tmp_path: Path) -> None:
    script = tmp_path / "kdump"
    script.write_text(emit.openrc(awkward))
    for action, expected in (("start", list(awkward.words[1:])), ("stop", ["-p", "-u", "-a"])):
        text = f"{OPENRC_WORDS}\n. {shlex.quote(str(script))}\n{action}"
        subprocess.run(["/bin/sh", "-eu", "-c", text], cwd="/", env={"PATH": "/nowhere"}, check=True)
        assert called(tmp_path) == expected


def unit_words(unit: str, key: str) -> list[str]:
    """Return the words of a command of a unit, as systemd.service(5) reads them."""
    line = next(line for line in unit.splitlines() if line.startswith(f"{key}="))
    assert not {"%", "$"} & set(line.replace("%%", "").replace("$$", ""))
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line.partition("=")[2])]


def test_unit_runs_the_very_command_and_takes_it_back(awkward: kexec.Command, tmp_path: Path) -> None:
    unit = emit.systemd(awkward)
    assert unit_words(unit, "ExecStart") == list(awkward.words)
    assert unit_words(unit, "ExecStop") == [awkward.words[0], "-p", "-u", "-a"]
    programs.need("systemd-analyze")
    place = tmp_path / "kdump.service"
    place.write_text(unit)
    ended = subprocess.run(["systemd-analyze", "verify", str(place)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
