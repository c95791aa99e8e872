"""What takes too long, does not fit or hangs: without a first kernel, on a made-up core, as in test_faults."""

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from msgspec.structs import replace

from kdump_initramfs.dumps import store
from kdump_initramfs.model import HostFacts, Watchdog
from kdump_initramfs.rehearsal import qemu
from tests import capture
from tests.vm import test_faults as direct
from tests.vm.test_faults import MAKEDUMPFILE, OTHER, SAVES_LOG

pytestmark = pytest.mark.guest

LIBRARY = "lib/kdump/lib.sh"


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> direct.Core:
    return direct.make_core(tmp_path_factory.mktemp("core"), 8)


def make_image(directory: Path, host: HostFacts, *overrides: str, kind: capture.KernelKind = "cloud") -> Path:
    image = directory / "capture.img"
    capture.build_image(capture.release(kind), host, image, direct.DEVICE_TIMEOUT, *overrides)
    return image


def only_dump(disk: Path, directory: Path) -> store.Dump:
    (dump,) = store.find([str(direct.on_disk(disk, directory))])
    return dump


# What a copy is called, and how it is unpacked.
UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "vmcore.gz": gzip.decompress,
    "vmcore.zst": lambda packed: zstandard.ZstdDecompressor().stream_reader(packed).read(),
}


def assert_copied(dump: store.Dump, core: direct.Core) -> None:
    assert dump.is_complete
    (name,) = UNPACK.keys() & os.listdir(dump.path)
    assert UNPACK[name](Path(dump.path, name).read_bytes()).endswith(core.memory)


def test_a_collector_without_progress_gives_way_to_the_next(tmp_path: Path, core: direct.Core) -> None:
    image = make_image(tmp_path, capture.facts(capture.target()), "capture.stall_s=4")
    capture.patch_image(image, {MAKEDUMPFILE: lambda _: SAVES_LOG + 'printf KDUMP >"$last"; sleep 1000\n'})
    disk = direct.make_disk(tmp_path / "disk")
    ran = direct.boot(image, [qemu.Disk(path=str(disk))], core)
    assert "collector makedumpfile failed: stall" in ran.console
    assert "saved to target 0" in ran.console
    assert_copied(only_dump(disk, tmp_path), core)


# Computes for ever at the first target, and fails at the second.
HANGS_ONCE = SAVES_LOG + "if mkdir /run/hung; then while :; do :; done; fi\nexit 1\n"


@pytest.mark.parametrize("budget", ["capture.deadline_s=60", "budget_s=8"])
def test_a_target_that_takes_too_long_leaves_time_for_the_next(budget: str, tmp_path: Path, core: direct.Core) -> None:
    first = replace(OTHER, budget_s=8) if budget == "budget_s=8" else OTHER
    overrides = [budget] if budget.startswith("capture") else []
    image = make_image(tmp_path, capture.facts(first, capture.target()), *overrides)
    capture.patch_image(image, {MAKEDUMPFILE: lambda _: HANGS_ONCE})
    slow, good = direct.make_disk(tmp_path / "slow", uuid=capture.OTHER_FS_UUID), direct.make_disk(tmp_path / "good")
    ran = direct.boot(image, [qemu.Disk(path=str(disk)) for disk in (slow, good)], core)
    assert "target 0 has not come to an end within" in ran.console
    assert "saved to target 1" in ran.console
    assert_copied(only_dump(good, tmp_path), core)


def test_log_is_on_the_first_target_and_the_core_where_there_is_room(tmp_path: Path, core: direct.Core) -> None:
    image = make_image(tmp_path, capture.facts(OTHER, capture.target()))
    capture.patch_image(image, {MAKEDUMPFILE: lambda _: SAVES_LOG + "exit 1\n"})
    small = direct.make_disk(tmp_path / "small", uuid=capture.OTHER_FS_UUID, size_mib=40)
    good = direct.make_disk(tmp_path / "good")
    ran = direct.boot(image, [qemu.Disk(path=str(disk)) for disk in (small, good)], core)
    # Forty are fewer than what stays free for the next boot.
    assert "no room for a vmcore" in ran.console
    assert "saved to target 1" in ran.console
    (tmp_path / "first").mkdir()
    dump = only_dump(small, tmp_path / "first")
    assert not dump.is_complete
    assert (Path(dump.path) / store.DMESG).read_text() == "a log\n"
    assert_copied(only_dump(good, tmp_path), core)


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def test_scripts_of_the_administrator_run_before_and_after(tmp_path: Path, core: direct.Core) -> None:
    before = script(tmp_path / "before", "echo before >/dev/console; sleep 1000")
    after = script(tmp_path / "after", 'echo "after: $*" >/dev/console; exit 3')
    packed = ("vmcore.collector=copy", "vmcore.compression=zstd")
    words = (*packed, "capture.hook_timeout_s=3", f'capture.pre=["{before}"]', f'capture.post=["{after}"]')
    image = make_image(tmp_path, capture.facts(capture.target()), *words)
    disk = direct.make_disk(tmp_path / "disk")
    ran = direct.boot(image, [qemu.Disk(path=str(disk))], core)
    assert ran.ended
    order = [line for word in ("before", "00-before: ended", "saved to target 0", "after: saved 0", "00-after: ended")
             for line in [ran.console.index(word)]]  # fmt: skip
    assert order == sorted(order)
    assert_copied(only_dump(disk, tmp_path), core)


def test_console_tells_in_the_end_why_nothing_was_saved(tmp_path: Path, core: direct.Core) -> None:
    after = script(tmp_path / "after", 'echo "after: $*" >/dev/console')
    image = make_image(tmp_path, capture.facts(capture.target()), f'capture.post=["{after}"]')
    ran = direct.boot(image, [], core)
    direct.assert_gave_up(ran)
    assert f"kdump: nothing could be saved: no device with file system UUID {capture.FS_UUID}" in ran.console
    assert "after: failed" in ran.console


def test_a_watchdog_is_fed_until_the_end_and_bites_where_the_reboot_hangs(tmp_path: Path, core: direct.Core) -> None:
    watchdog = Watchdog(identity="i6300ESB timer", drivers=("i6300esb",))
    host = replace(capture.facts(capture.target()), watchdogs=(watchdog,))
    image = make_image(tmp_path, host, "capture.stall_s=200", kind="generic")
    # It resets the machine after 15 s instead of its 30. The capture takes longer; then nothing reboots.
    plain = '        insmod "$1"\n        return\n'
    sooner = plain.replace('"$1"', '"$1" $(case $1 in *i6300esb*) echo heartbeat=15 ;; esac)')
    slow = {
        "lib/kdump/modules.sh": lambda text: text.replace(plain, sooner),
        MAKEDUMPFILE: lambda _: SAVES_LOG + "sleep 20; exit 1\n",
        LIBRARY: lambda text: text.replace('    "$1" -f &\n', "    log hanging; while :; do sleep 1; done\n"),
    }
    capture.patch_image(image, slow)
    disk = direct.make_disk(tmp_path / "disk")
    words = ("-device", "i6300esb", "-watchdog-action", "reset")
    ran = direct.boot(image, [qemu.Disk(path=str(disk))], core, kind="generic", extra=words, timeout_s=240)
    assert re.search(r"i6300ESB timer.*heartbeat=15 sec", ran.console)
    assert "feeding watchdog0" in ran.console
    assert "hanging" in ran.console
    assert ran.ended
    assert_copied(only_dump(disk, tmp_path), core)
