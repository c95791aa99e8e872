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

from tests import kernels
from tests.vm.debian import Hardware, Report, releases, run_script

SCRIPTS = Path(__file__).parent / "scripts"
STORAGE = SCRIPTS / "storage.sh"
APPEND = "crashkernel=192M"
# Not the one for clouds, which lacks drivers of disks.
RELEASE = next((release for release in releases() if "cloud" not in release), "")
# Names a file to which each crash adds a line of JSON; tests/bench/sizes-table prints it.
SIZES_VARIABLE = "KDUMP_TEST_SIZES"

marks = [
    pytest.mark.guest,
    pytest.mark.skipif(not RELEASE, reason="tests/run makes the Debian guest"),
]


def crash(
    name: str,
    script: str,
    disks: Iterable[str],
    hardware: Hardware,
    directory: Path,
    *,
    files: Mapping[str, str] | None = None,
) -> Report:
    """Let a guest with these disks (serial numbers) make its storage and crash; return what it tells of the dump."""
    given = {**payload(script, disks), **(files or {})}
    report = run_script(RELEASE, STORAGE, directory, files=given, hardware=hardware, append=APPEND)
    _check_dump(report, given["token"])
    _note_sizes(name, report)
    return report


def payload(script: str, disks: Iterable[str]) -> dict[str, str]:
    """Return the files that scripts/storage.sh needs."""
    return {
        "token": f"kdump-test-{secrets.token_hex(16)}",
        "case": script,
        "disks": "".join(f"{serial}\n" for serial in disks),
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


def need_drivers(names: Iterable[str]) -> None:
    """Skip the test where the guest's kernel lacks one of the drivers."""
    directory = Path(kernels.roots()[RELEASE], "lib/modules", RELEASE)
    lines = [
        line for name in ("modules.dep", "modules.builtin") for line in (directory / name).read_text().splitlines()
    ]
    known = {_module(line) for line in lines}
    if missing := sorted(set(names) - known):
        pytest.skip(f"kernel {RELEASE} lacks {', '.join(missing)}")


def _module(line: str) -> str:
    """Return the name of the module that a line of modules.dep or modules.builtin begins with."""
    return re.sub(r"\.ko.*", "", line.partition(":")[0].rpartition("/")[2]).replace("-", "_")


def log_of(report: Report) -> str:
    """Return what the capture environment and its kernel have logged."""
    return report.files["kexec-dmesg.log"].decode(errors="replace")


def last_words(report: Report) -> str:
    return "\n".join(report.console.splitlines()[-40:])


def _check_dump(report: Report, token: str) -> None:
    assert report.status == 0, last_words(report)
    (dump,) = decode(report, "list.json")
    assert dump["complete"] is True
    shown = decode(report, "show.json")
    assert shown["name"] == dump["name"]
    assert shown["record"]["kernel"]["release"] == RELEASE
    assert token.encode() in report.files["vmcore-dmesg.txt"]


def _note_sizes(name: str, report: Report) -> None:
    if not (place := os.environ.get(SIZES_VARIABLE)):
        return
    built, shown = decode(report, "build.json"), decode(report, "show.json")
    sizes = {
        "case": name,
        "image_bytes": built["image_bytes"],
        "unpacked_bytes": built["unpacked_bytes"],
        "memory_low_kib": shown["record"]["memory_low_kib"],
    }
    # One write of one line: several tests may run at a time.
    with open(place, "ab", buffering=0) as stream:
        stream.write(msgspec.json.encode(sizes) + b"\n")


def decode(report: Report, name: str) -> Any:
    """Return what is in a file of the report, which is JSON."""
    return msgspec.json.decode(report.files[name])
