"""A Debian machine that is armed at boot, by its kernel packages, and when memory is plugged in.

It has systemd, our wheel and no configuration.
"""

import secrets
from pathlib import Path

import msgspec
import pytest

from tests.vm import plugging
from tests.vm.debian import Hardware, releases, run_script
from tests.vm.storage import APPEND, CLOUD_RELEASE, SCRIPTS, last_words, marks

pytestmark = [*marks, pytest.mark.long]


def test_machine_is_armed_at_each_boot_and_with_each_kernel(tmp_path: Path) -> None:
    token = f"kdump-test-{secrets.token_hex(16)}"
    other = next(release for release in releases() if release != CLOUD_RELEASE)
    script = SCRIPTS / "arm-at-boot.sh"
    slots = plugging.Slots(tmp_path)
    report = run_script(
        CLOUD_RELEASE,
        script,
        tmp_path,
        files={"token": token, "other": other, **plugging.FILES},
        hardware=Hardware(init="systemd", extra=slots.words, on_line=slots.hear),
        append=f"{APPEND} {plugging.APPEND}",
        timeout_s=900,
    )
    assert report.status == 0, last_words(report)
    assert msgspec.json.decode(report.files["manifest.json"])["kernel"]["release"] == other
    for name in ("armed.json", "again.json"):
        found = msgspec.json.decode(report.files[name])
        assert (found["armed"], found["stale"]) == (True, [])
    (dump,) = msgspec.json.decode(report.files["list.json"])
    assert dump["complete"] is True
    assert token.encode() in report.files["vmcore-dmesg.txt"]
    assert "blocks were there when it was loaded" in report.files["stale"].decode()
    # One came while nobody followed, and one when udev's rule did.
    assert plugging.bytes_in_dump(report) == 2 * plugging.BANK_BYTES


@pytest.fixture(autouse=True)
def several_kernels() -> None:
    if len(releases()) < 2:
        pytest.skip("the guest has one kernel")
