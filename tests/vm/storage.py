"""Crashes a Debian guest on some storage, made by scripts/storage.sh, and looks at the dump after the reboot."""

import json
import os
import re
import secrets
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from kdump_initramfs.dumps import store
from kdump_initramfs.model import ImageRecord
from kdump_initramfs.rehearsal import verify
from kdump_initramfs.rehearsal.qemu import Bus
from tests import kernels
from tests.vm.debian import Hardware, Report, releases, run_script

SCRIPTS = Path(__file__).parent / "scripts"
STORAGE = SCRIPTS / "storage.sh"
APPEND = "crashkernel=192M"
# Not the one for clouds, which lacks drivers of disks.
RELEASE = next((release for release in releases() if "cloud" not in release), "")
# Quicker: 71 s instead of 84 for a guest that makes its storage, crashes and starts again.
CLOUD_RELEASE = next((release for release in releases() if "cloud" in release), RELEASE)
# What drives a disk on each bus.
BUS_DRIVERS: Mapping[Bus, tuple[str, ...]] = {
    "virtio-blk": ("virtio_blk",),
    "virtio-scsi": ("virtio_scsi",),
    "nvme": ("nvme",),
    "ahci": ("ahci",),
    "usb-storage": ("xhci_pci", "usb_storage"),
}
# Names a file to which each crash adds a line of JSON; tests/bench/sizes-table prints it.
SIZES_VARIABLE = "KDUMP_TEST_SIZES"

marks = [
    pytest.mark.guest,
    pytest.mark.skipif(not RELEASE, reason="tests/run makes the Debian guest"),
]


class Crashed(Struct, frozen=True, kw_only=True):
    # What the guest has said and left.
    report: Report
    # The one dump, unpacked here.
    dump: store.Dump

    @property
    def log(self) -> str:
        """What the capture environment and its kernel have logged."""
        return Path(self.dump.path, store.LOG).read_text(errors="replace")

    @property
    def record(self) -> store.DumpRecord:
        assert self.dump.record
        return self.dump.record


def crash(
    name: str,
    script: str,
    disks: Iterable[str],
    hardware: Hardware,
    directory: Path,
    *,
    files: Mapping[str, str] | None = None,
    needs: Iterable[str] = (),
) -> Crashed:
    """Let a guest with these disks (serial numbers) make its storage and crash; check its dump.

    `needs` names the drivers without which a kernel will not do, but for those of the disks in `hardware`.
    """
    buses = {driver for bus in hardware.disks.values() for driver in BUS_DRIVERS[bus]}
    release = release_with(buses | set(needs))
    given = {**payload(script, disks), **(files or {})}
    report = run_script(release, STORAGE, directory, files=given, hardware=hardware, append=APPEND)
    crashed = check_dump(report, given["token"], release, directory / "dumps")
    _note_sizes(name, crashed)
    return crashed


def payload(script: str, disks: Iterable[str]) -> dict[str, str]:
    """Return the files that scripts/storage.sh needs."""
    return {
        "token": f"kdump-test-{secrets.token_hex(16)}",
        "case": script,
        "disks": "".join(f"{serial}\n" for serial in disks),
        # To pack takes a guest 6 s, and saves it 1 s in what follows. Other guests have packed images.
        "compression": "none" if SIZES_VARIABLE not in os.environ else "zstd",
    }


def tell_monitor(path: str, name: str, **arguments: Any) -> None:
    """Have QEMU's monitor (QMP) at a socket execute a command."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        answers = connection.makefile()
        next(answers)  # the greeting
        for command in ({"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}):
            connection.sendall(json.dumps(command).encode())
            answer: dict[str, object] = {"event": ""}
            while "event" in answer:
                answer = json.loads(next(answers))
            assert "return" in answer, answer


def release_with(drivers: Iterable[str]) -> str:
    """Return the kernel of the guest that has these drivers, the quickest of several; skip the test if none has."""
    lacking = {}
    # The table of sizes is of one kernel.
    for release in (CLOUD_RELEASE, RELEASE) if SIZES_VARIABLE not in os.environ else (RELEASE,):
        lacking[release] = sorted(set(drivers) - _known_drivers(release))
        if not lacking[release]:
            return release
    pytest.skip("; ".join(f"kernel {release} lacks {', '.join(names)}" for release, names in lacking.items()))


def _known_drivers(release: str) -> set[str]:
    directory = Path(kernels.roots()[release], "lib/modules", release)
    return {
        _module(line)
        for name in ("modules.dep", "modules.builtin")
        for line in (directory / name).read_text().splitlines()
    }


def _module(line: str) -> str:
    """Return the name of the module that a line of modules.dep or modules.builtin begins with."""
    return re.sub(r"\.ko.*", "", line.partition(":")[0].rpartition("/")[2]).replace("-", "_")


def last_words(report: Report) -> str:
    return "\n".join(report.console.splitlines()[-40:])


def check_dump(report: Report, token: str, release: str, directory: Path) -> Crashed:
    """Unpack the one dump that a guest has found after the reboot, and check all that can be told of it."""
    assert report.status == 0, last_words(report)
    verify.unpack(report.disk, str(directory))
    built = msgspec.json.decode(report.files["build.json"], type=ImageRecord)
    expected = verify.Expected(token=token, kernel_release=release, manifest_digest=built.digest)
    (dump,) = store.find([str(directory)])
    # What makedumpfile has flattened, it must put in order first.
    unread = {"the vmcore is whole"} if Path(dump.path, "vmcore.flat").exists() else set()
    failed = {check for check in verify.verify(str(directory), expected) if not check.passed}
    assert {check.name for check in failed} == unread, failed
    return Crashed(report=report, dump=dump)


def _note_sizes(name: str, crashed: Crashed) -> None:
    if not (place := os.environ.get(SIZES_VARIABLE)):
        return
    built = decode(crashed.report, "build.json")
    sizes = {
        "case": name,
        "image_bytes": built["image_bytes"],
        "unpacked_bytes": built["unpacked_bytes"],
        "memory_low_kib": crashed.record.memory_low_kib,
    }
    # One write of one line: several tests may run at a time.
    with open(place, "ab", buffering=0) as stream:
        stream.write(msgspec.json.encode(sizes) + b"\n")


def decode(report: Report, name: str) -> Any:
    """Return what is in a file of the report, which is JSON."""
    return msgspec.json.decode(report.files[name])
