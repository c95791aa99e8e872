"""The guest that matters most: a Debian system as its administrator has it, with our wheel and no configuration."""

import secrets
from pathlib import Path

import msgspec
import pytest
from tests.vm.debian import Report, releases, run_script

SCRIPTS = Path(__file__).parent / "scripts"

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(not releases(), reason="tests/run makes the Debian guest"),
]


def test_what_a_script_leaves_comes_back_over_an_abrupt_reboot(tmp_path: Path) -> None:
    release = releases()[-1]
    report = run_script(release, SCRIPTS / "two-boots.sh", tmp_path, files={"token": "remember"})
    assert report.status == 7
    assert report.files == {"first": b"remember", "release": f"{release}\n".encode()}


@pytest.mark.parametrize("release", releases())
def test_crash_is_saved_and_listed_after_the_reboot(release: str, tmp_path: Path) -> None:
    token = f"kdump-test-{secrets.token_hex(16)}"
    script = SCRIPTS / "crash-and-list.sh"
    report = run_script(release, script, tmp_path, files={"token": token}, append="crashkernel=192M")
    assert report.status == 0, _last_words(report)
    (dump,) = msgspec.json.decode(report.files["list.json"])
    assert dump["complete"] is True
    shown = msgspec.json.decode(report.files["show.json"])
    assert shown["kernel"] == release
    assert token.encode() in report.files["vmcore-dmesg.txt"]


def _last_words(report: Report) -> str:
    return "\n".join(report.console.splitlines()[-40:])
