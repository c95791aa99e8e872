"""Volume keys that the kernel hands over: what is registered for a load, and what is not loaded without them."""

import ctypes
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from kdump_initramfs import build as spine
from kdump_initramfs import config, run
from kdump_initramfs.errors import ConfigError, LoadError
from kdump_initramfs.host.root import Root
from kdump_initramfs.loader import emit, kexec, volume_keys
from kdump_initramfs.loader.volume_keys import DIRECTORY
from tests.command import environment

Make = Callable[..., Root]

# linux/keyctl.h and asm/unistd_64.h
ADD_KEY, PROCESS_KEYRING = 248, -2


@pytest.fixture
def configfs(sysroot: Make, monkeypatch: pytest.MonkeyPatch) -> Root:
    """Return a machine whose kernel hands keys over; another tool has left something there."""
    rmdir = os.rmdir

    def remove(path: str) -> None:
        # The attributes of an item do not keep configfs from removing it.
        os.unlink(f"{path}/description")
        rmdir(path)

    monkeypatch.setattr(os, "rmdir", remove)
    return sysroot(
        {
            f"{DIRECTORY}/count": "1\n",
            f"{DIRECTORY}/reuse": "1\n",
            f"{DIRECTORY}/left-over/description": "gone\n",
        }
    )


def items(root: Root) -> dict[str, str]:
    """Return the descriptions that stand in configfs."""
    names = [name for name in root.list(DIRECTORY) if root.is_dir(f"{DIRECTORY}/{name}")]
    return {name: root.read_text(f"{DIRECTORY}/{name}/description") or "" for name in names}


def test_the_keys_of_a_load_are_registered_while_it_lasts_and_no_others(configfs: Root) -> None:
    with volume_keys.registered(configfs, ("vk:one", "vk:two")):
        assert items(configfs) == {"kdump-initramfs-0": "vk:one", "kdump-initramfs-1": "vk:two"}
        assert configfs.read_text(f"{DIRECTORY}/reuse") == "0"
    assert items(configfs) == {}


def test_nothing_stays_registered_when_the_load_fails(configfs: Root) -> None:
    with pytest.raises(LoadError, match=r"^no$"), volume_keys.registered(configfs, ("vk:one",)):
        raise LoadError("no")
    assert items(configfs) == {}


def test_nothing_is_touched_for_an_image_that_needs_no_keys(configfs: Root) -> None:
    with volume_keys.registered(configfs, ()):
        assert items(configfs) == {"left-over": "gone\n"}
    assert items(configfs) == {"left-over": "gone\n"}


def test_kernel_that_hands_nothing_over_is_named_with_the_remedy(sysroot: Make) -> None:
    with (
        pytest.raises(LoadError, match=r"crash_dm_crypt_keys: no such directory") as caught,
        volume_keys.registered(sysroot({}), ("vk:one",)),
    ):
        pytest.fail("this must not be loaded")
    assert "mount -t configfs" in str(caught.value.hint)
    assert "CONFIG_CRASH_DM_CRYPT" in str(caught.value.hint)


def test_what_the_kernel_says_of_a_registration_is_passed_on(configfs: Root) -> None:
    Path(configfs.directory, DIRECTORY[1:], "reuse").unlink()
    Path(configfs.directory, DIRECTORY[1:], "kdump-initramfs-0").write_text("in the way")
    with (
        pytest.raises(LoadError, match=r"kdump-initramfs-0: File exists"),
        volume_keys.registered(configfs, ("vk:one",)),
    ):
        pytest.fail("this must not be loaded")


# --- keys in real keyrings ---------------------------------------------------------------------------------------


def test_key_that_kexec_would_not_find_is_named_with_the_remedy() -> None:
    with pytest.raises(LoadError, match=r"^kdump-test:none: no such logon key") as caught:
        volume_keys.check(["kdump-test:none"])
    assert "--link-vk-to-keyring @u::%logon:kdump-test:none" in str(caught.value.hint)
    assert "what was loaded before still is" in str(caught.value.hint)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="images for x86_64 alone ask for keys")
def test_key_that_kexec_would_find_is_all_that_is_asked_for() -> None:
    syscall = ctypes.CDLL(None).syscall
    arguments = (b"logon", b"kdump-test:here", b"secret", ctypes.c_size_t(6), ctypes.c_long(PROCESS_KEYRING))
    if syscall(ctypes.c_long(ADD_KEY), *arguments) < 0:
        pytest.skip("this process may not add keys")
    volume_keys.check(["kdump-test:here"])
    with pytest.raises(LoadError, match=r"^kdump-test:none: "):
        volume_keys.check(["kdump-test:here", "kdump-test:none"])


# What `sudo` does: a shell of uid 1000 in a session of its own, whose child is root in the same session; and what the
# shell can do afterwards. Says which keys root's process has found, and what of root's the user can find or list.
SUDO = """
import ctypes, os, sys
from kdump_initramfs.errors import KdumpError
from kdump_initramfs.loader import volume_keys
description, wanted = sys.argv[1:3]
syscall = ctypes.CDLL(None).syscall
syscall.restype = ctypes.c_long
def call(number, *arguments):
    return syscall(*(ctypes.c_long(each) if isinstance(each, int) else each for each in (number, *arguments)))
ADD_KEY, REQUEST_KEY, KEYCTL = 248, 249, 250
JOIN, UNLINK, READ, SESSION, USER = 1, 9, 11, -3, -4
key = call(ADD_KEY, b"logon", description.encode(), b"secret", 6, USER)
if key < 0:
    sys.exit(77)
os.setresuid(1000, 1000, 0)
if call(KEYCTL, JOIN, None) < 0:
    sys.exit(77)
os.setresuid(0, 0, 0)
child = os.fork()
if not child:
    try:
        volume_keys.check(wanted.split())
    except KdumpError as error:
        print(error)
        os._exit(1)
    os._exit(0)
_, status = os.waitpid(child, 0)
root_found = os.waitstatus_to_exitcode(status) == 0
user = os.fork()
if not user:
    os.setresuid(1000, 1000, 1000)
    found = call(REQUEST_KEY, b"logon", description.encode(), None, 0) >= 0
    listed = call(KEYCTL, READ, SESSION, ctypes.create_string_buffer(64), 64)
    print("root", root_found, "user", found, "in the session", listed // 4)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(user, 0)
call(KEYCTL, UNLINK, key, USER)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="images for x86_64 alone ask for keys")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    ("wanted", "root_found"),
    [
        ("kdump-test:of-root", True),
        ("kdump-test:none", False),
        ("kdump-test:of-root kdump-test:none", False),
        ("", True),
    ],
)
def test_nothing_of_root_is_left_in_the_session_of_who_called_sudo(wanted: str, *, root_found: bool) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SUDO, "kdump-test:of-root", wanted],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if ended.returncode == 77:
        pytest.skip("this process may not add keys")
    assert ended.stdout.splitlines()[-1:] == [f"root {root_found} user False in the session 0"], ended.stderr


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="images for x86_64 alone ask for keys")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_key_that_the_caller_has_put_into_his_session_is_not_root_s() -> None:
    """It would be handed over in place of root's, and open nothing."""
    planted = SUDO.replace(
        "os.setresuid(0, 0, 0)", 'call(ADD_KEY, b"logon", wanted.encode(), b"x", 1, SESSION)\nos.setresuid(0, 0, 0)'
    )
    ended = subprocess.run(
        [sys.executable, "-c", planted, "kdump-test:of-root", "kdump-test:planted"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if ended.returncode == 77:
        pytest.skip("this process may not add keys")
    assert ended.stdout.splitlines()[-1:] == ["root False user False in the session 1"], ended.stderr


# --- the load ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(host_root: Callable[[str], Root], tmp_path: Path) -> kexec.Command:
    """Return the command for an image whose target is opened by a volume key."""
    root, image = host_root("luks-volume-key"), str(tmp_path / "image")
    spine.build(root, config.Config(), output=image)
    return kexec.command(root, config.Config(), image)


def test_only_kexec_file_load_hands_keys_over(command: kexec.Command, host_root: Callable[[str], Root]) -> None:
    assert command.words[3] == "-s"
    settings = config.load(root="/no/such", overrides=["kexec.syscall=load"])
    with pytest.raises(ConfigError, match=r"^kexec\.syscall: ") as caught:
        kexec.command(host_root("luks-volume-key"), settings, command.image)
    assert '"auto" or "file"' in str(caught.value.hint)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, configfs: Root) -> list[dict[str, str]]:
    """Let `load` work on a tree of files, and return what is registered whenever it runs kexec."""
    seen: list[dict[str, str]] = []

    def run_kexec(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        seen.append(items(configfs))
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(run, "run", run_kexec)
    monkeypatch.setattr(kexec, "_check_may_load", lambda _: None)
    for path in ("usr/sbin/kexec", "sys/kernel/kexec_crash_size"):
        place = Path(configfs.directory, path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("268435456")
    return seen


def test_load_runs_kexec_with_the_keys_registered(
    command: kexec.Command, configfs: Root, runs: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_keys, "check", lambda _: None)
    kexec.load(configfs, command)
    assert runs == [{"kdump-initramfs-0": "vk:vda2"}]
    assert items(configfs) == {}


def test_load_does_not_run_kexec_without_the_key(
    command: kexec.Command, configfs: Root, runs: list[dict[str, str]]
) -> None:
    """Running it would take away what is loaded (kexec_file_load() of kernel/kexec_file.c)."""
    with pytest.raises(LoadError, match=r"^vk:vda2: no such logon key"):
        kexec.load(configfs, command)
    assert runs == []


@pytest.mark.parametrize("status", [0, 7])
def test_local_d_file_registers_the_keys_for_its_command(
    status: int, command: kexec.Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    monkeypatch.setattr(volume_keys, "DIRECTORY", str(keys))
    stub = tmp_path / "kexec"
    stub.write_text(f"#!/bin/sh\ncat {keys}/*/description >{tmp_path}/seen\nexit {status}\n")
    stub.chmod(0o755)
    whole = replace(command, words=(str(stub), *command.words[1:]))
    script = f"rmdir() {{ rm -r {shlex.quote(str(keys))}/*; }}\n{emit.local_d(whole)}"
    assert subprocess.run(["sh", "-eu", "-c", script], check=False).returncode == status
    assert (tmp_path / "seen").read_text() == "vk:vda2\n"
    assert list(keys.iterdir()) == []


def test_unit_registers_the_keys_as_the_script_does(command: kexec.Command) -> None:
    unit = emit.systemd(command)
    line = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    shell, option, script = shlex.split(line.partition("=")[2])
    assert (shell, option) == ("/bin/sh", "-c")
    text = script.replace("\\n", "\n").replace("$$", "$").replace("%%", "%")
    assert text in emit.local_d(command)
