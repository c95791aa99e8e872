"""Rehearsals on the machine itself: who is in the way, and the verdict after the reboot; tests/vm has the crash."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_initramfs import config
from kdump_initramfs.dumps import store
from kdump_initramfs.errors import RehearsalError
from kdump_initramfs.host import activity
from kdump_initramfs.host.root import Root
from kdump_initramfs.loader import proof
from kdump_initramfs.rehearsal import attempt, live
from tests import command

Make = Callable[..., Root]

# --- who is in the way -------------------------------------------------------------------------------------------

PTS_0, PTS_1, TTY_1 = 136 << 8, 136 << 8 | 1, 4 << 8 | 1


def process(pid: int, name: str, parent: int, terminal: int, written: int = 0) -> dict[str, str]:
    return {
        f"/proc/{pid}/stat": f"{pid} ({name}) S {parent} {pid} {pid} {terminal} 0 4194560 1 2 3\n",
        f"/proc/{pid}/io": f"rchar: 9\nwchar: 99\nread_bytes: 0\nwrite_bytes: {written}\ncancelled_write_bytes: 5\n",
    }


RUNNING = {
    **process(1, "systemd", 0, 0),
    **process(10, "agetty", 1, TTY_1),
    # As sudo has it: the shell on one terminal, what it runs on another.
    **process(20, "bash", 1, PTS_0),
    **process(21, "sudo", 20, PTS_0),
    **process(22, "kdump-initramfs", 21, PTS_1),
}


def test_nobody_is_at_a_terminal_but_those_who_ask(sysroot: Make) -> None:
    running = activity.processes(sysroot(RUNNING))
    assert set(running) == {1, 10, 20, 21, 22}
    assert list(activity.at_terminals(running, own=22)) == []


def test_others_at_terminals_are_named(sysroot: Make) -> None:
    others = {**process(30, "vim) (x", 1, 137 << 8 | 4), **process(31, "bash", 1, TTY_1 + 1)}
    running = activity.processes(sysroot({**RUNNING, **others}))
    assert list(activity.at_terminals(running, own=22)) == ["pts/260: vim) (x", "tty2: bash"]


def test_those_who_write_much_are_named(sysroot: Make) -> None:
    before = activity.processes(sysroot({**process(40, "postgres", 1, 0, 1 << 30), **process(41, "idle", 1, 0)}))
    after = activity.processes(
        sysroot(
            {
                **process(40, "postgres", 1, 0, (1 << 30) + (3 << 20)),
                **process(41, "idle", 1, 0, 4096),
                **process(42, "cp", 1, 0, 2 << 20),
            }
        )
    )
    assert list(activity.writers(before, after, 1 << 20)) == ["postgres (40): 3072 KiB", "cp (42): 2048 KiB"]


def test_processes_that_end_meanwhile_are_none(sysroot: Make) -> None:
    root = sysroot({**RUNNING, "/proc/50/": "", "/proc/51/stat": "", "/proc/52/stat/": "", "/proc/meminfo": ""})
    assert set(activity.processes(root)) == {1, 10, 20, 21, 22}


def test_another_root_is_not_crashed(sysroot: Make) -> None:
    def confirm(question: str) -> str:
        raise AssertionError(question)

    with pytest.raises(RehearsalError, match="only root can crash the running machine"):
        live.crash(sysroot({}), config.Config(), force=True, confirm=confirm)


@pytest.mark.parametrize("word", [["6.1"], ["--image", "/x"], ["--keep", "/x"], ["--find-minimum"]])
def test_what_is_for_a_guest_does_not_go_with_a_crash_of_the_machine(word: list[str], tmp_path: Path) -> None:
    ended = command.run("rehearse", "--root", str(tmp_path), "--live", *word)
    assert ended.returncode == 1
    assert "is for a guest" in ended.stderr


# --- the verdict -------------------------------------------------------------------------------------------------

TOKEN = "kdump-initramfs: live rehearsal 0123"  # noqa: S105 - no secret
SHA256 = "ab" * 32
BOOT_ID = "/proc/sys/kernel/random/boot_id"
DUMP = "/var/crash/demo-20261127T120000Z"


def record(*, complete: bool) -> str:
    return json.dumps(
        {
            "schema": 1,
            "complete": complete,
            "host": "demo",
            "kernel": {"release": "6.1"},
            "crash_time": "",
            "panic": "",
            "target": {"name": "/var/crash", "kind": "path"},
            "collector": {"name": "makedumpfile"},
            "files": {},
        }
    )


def dump(*, complete: bool = True, log: str = f"[ 1.0] {TOKEN}\n") -> dict[str, str]:
    return {f"{DUMP}/{store.RECORD}": record(complete=complete), f"{DUMP}/{store.DMESG}": log}


@pytest.fixture
def image(tmp_path: Path) -> str:
    """Return an image whose machine was crashed in another boot."""
    path = str(tmp_path / "crash.img")
    wanted = attempt.Attempt(image_sha256=SHA256, boot_id="one", token=TOKEN, at=1_800_000_000, crashkernel="256M")
    attempt.write(path, wanted)
    return path


def settle(root: Root, image: str, *overrides: str) -> proof.Proof | None:
    attempt.settle(root, config.load(root=root.directory, overrides=overrides), image)
    return proof.read(image, SHA256)


@pytest.mark.parametrize(
    ("files", "passed"),
    [
        (dump(), True),
        (dump(complete=False), False),
        (dump(log="another crash\n"), False),
        ({f"{DUMP}/{store.RECORD}": record(complete=True)}, False),
        ({}, False),
    ],
    ids=["saved", "incomplete", "another crash", "no log", "no dump"],
)
def test_verdict_is_that_of_the_dump(files: dict[str, str], *, passed: bool, sysroot: Make, image: str) -> None:
    found = settle(sysroot({BOOT_ID: "two\n", **files}), image)
    assert found == proof.Proof(image_sha256=SHA256, passed=passed, at=1_800_000_000, crashkernel="256M", live=True)
    # It is given once, whatever becomes of the dump.
    assert not Path(proof.attempt_path(image)).exists()


RAW = 'target=[{kind = "raw", device = "PARTUUID=0fc63daf-8483-4772-8e79-3d69d8477de4"}]'


@pytest.mark.parametrize(
    ("files", "overrides"),
    [
        ({BOOT_ID: "one\n", **dump()}, []),
        ({BOOT_ID: "two\n"}, [RAW]),
        (
            {
                BOOT_ID: "two\n",
                "/etc/fstab": "/dev/sda2 /var/crash ext4 defaults 0 2\n",
                "/proc/self/mountinfo": "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
            },
            [],
        ),
        (
            {
                BOOT_ID: "two\n",
                "/etc/fstab": "/dev/sda2 /var/crash ext4 noauto 0 2\n",
                "/proc/self/mountinfo": "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
            },
            [],
        ),
    ],
    ids=["the boot that is to end", "a raw target", "a target that is not mounted", "one that is mounted on demand"],
)
def test_verdict_waits_until_it_can_be_given(
    files: dict[str, str], overrides: list[str], sysroot: Make, image: str
) -> None:
    assert settle(sysroot(files), image, *overrides) is None
    assert Path(proof.attempt_path(image)).exists()


def test_a_crash_that_did_not_come_about_waits_for_no_verdict(tmp_path: Path) -> None:
    image = str(tmp_path / "crash.img")
    wanted = attempt.Attempt(image_sha256=SHA256, boot_id="one", token=TOKEN, at=1_800_000_000, crashkernel="256M")
    with contextlib.suppress(RehearsalError), attempt.remembered(image, wanted):
        assert Path(proof.attempt_path(image)).exists()
        raise RehearsalError("/proc/sysrq-trigger: Permission denied")
    assert not Path(proof.attempt_path(image)).exists()


def test_an_image_that_was_never_tried_has_no_verdict(sysroot: Make, tmp_path: Path) -> None:
    assert settle(sysroot({}), str(tmp_path / "other.img")) is None
