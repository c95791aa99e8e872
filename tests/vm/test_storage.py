"""Dumps on every kind of storage: made by the distribution's tools in a Debian guest, that then crashes."""

import re
from pathlib import Path

import pytest

from tests.vm.cases import CASES, Case
from tests.vm.debian import Hardware, run_script
from tests.vm.storage import APPEND, CLOUD_RELEASE, SCRIPTS, crash, last_words, marks

pytestmark = marks


@pytest.mark.parametrize("name", CASES)
def test_crash_is_saved_on(name: str, tmp_path: Path) -> None:
    case: Case = CASES[name]
    hardware = Hardware(disks=case.disks, cpus=case.cpus)
    crashed = crash(name, case.script, case.disks, hardware, tmp_path, needs=case.needs)
    log = crashed.log
    # Nothing was lacking, and no false alarm is raised.
    assert crashed.record.kernel_requests == ()
    assert ("that are there" in log) is case.waits
    # Repairs of an array are for the system after the reboot.
    assert not re.search(r"md: (resync|recovery) of RAID array md\d", log)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_what_could_not_be_opened_after_a_crash_is_refused_with_its_remedy(tmp_path: Path) -> None:
    # cryptsetup gives Argon2 no more than half of the memory.
    hardware = Hardware(memory_mib=1024)
    report = run_script(CLOUD_RELEASE, SCRIPTS / "refusals.sh", tmp_path, hardware=hardware, append=APPEND)
    assert report.status == 0, last_words(report)
    said = {name: content.decode() for name, content in report.files.items()}
    assert "is opened by a passphrase, which nobody can type after a crash" in said["passphrase"]
    assert "luksAddKey" in said["passphrase"]
    assert "takes 256 MiB to open (Argon2), and 192 MiB are reserved" in said["argon2"]
    assert "--pbkdf pbkdf2" in said["argon2"]
    assert "is encrypted, but not by LUKS" in said["plain"]
    assert "/etc/keys/gone" in said["no-key-file"]
    assert "logical volume the-lv of group lin-vg lacks a physical volume" in said["missing-volume"]
    assert "vgextend --restoremissing lin-vg" in said["missing-volume"]
    assert "logical volume crash of group mirrored is degraded" in said["degraded"]
