"""A Debian system as its administrator has it, with our wheel and no configuration, on each of its kernels.

What starts it is one thing, its kernel another: with systemd, which takes most of the time, it starts in test_arming.
"""

import secrets
from pathlib import Path

import msgspec
import pytest

from tests.vm.debian import Hardware, Report, releases, run_script

SCRIPTS = Path(__file__).parent / "scripts"

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(not releases(), reason="tests/run makes the Debian guest"),
]


@pytest.mark.parametrize("release", releases())
def test_crash_is_saved_and_listed_after_the_reboot(release: str, tmp_path: Path) -> None:
    token = f"kdump-test-{secrets.token_hex(16)}"
    script = SCRIPTS / "crash-and-list.sh"
    hardware = Hardware(has_unpacked_kernel=False)
    report = run_script(release, script, tmp_path, files={"token": token}, hardware=hardware, append="crashkernel=192M")
    assert report.status == 0, _last_words(report)
    assert msgspec.json.decode(report.files["status.json"])["armed"] is True
    (dump,) = msgspec.json.decode(report.files["list.json"])
    assert dump["complete"] is True
    shown = msgspec.json.decode(report.files["show.json"])
    assert shown["name"] == dump["name"]
    assert shown["record"]["kernel"]["release"] == release
    assert token.encode() in report.files["vmcore-dmesg.txt"]


def _last_words(report: Report) -> str:
    return "\n".join(report.console.splitlines()[-40:])
