"""Volume keys that the kernel hands over: what is registered for a load, and what is not loaded without them."""

import ctypes
import os
import shlex
import subprocess
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
