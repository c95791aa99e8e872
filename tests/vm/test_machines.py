"""Machines on which arming is harder: lockdown, no reservation, OpenRC with /boot not mounted and memory plugged in."""

import os
import secrets
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pefile
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from tests.vm import plugging
from tests.vm.debian import Hardware, Report, run_script
from tests.vm.storage import APPEND, CLOUD_RELEASE, SCRIPTS, decode, last_words, marks

pytestmark = marks

# Three boots of a whole system are among them.
TIMEOUT_S = 900


def crash(script: str, directory: Path, hardware: Hardware, append: str, files: Mapping[str, str]) -> Report:
    """Let a guest run a script that crashes it; return the report on its one dump, which must be good."""
    place = SCRIPTS / script
    report = run_script(
        CLOUD_RELEASE, place, directory, files=files, hardware=hardware, append=append, timeout_s=TIMEOUT_S
    )
    assert report.status == 0, last_words(report)
    (dump,) = decode(report, "list.json")
    assert dump["complete"] is True
    assert files.get("token", "") in log_of_crash(report)
    return report


def log_of_crash(report: Report) -> str:
    return report.files["vmcore-dmesg.txt"].decode(errors="replace")


def token() -> str:
    return f"kdump-test-{secrets.token_hex(16)}"


# --- Secure Boot, several processors, and a crash that was meant ---------------------------------------------------

FIRMWARE = Path("/usr/share/OVMF")
OWNER = "77fa9abd-0359-4d32-bd60-28f4e78f784b"


def secure_boot(kernel: str, directory: Path) -> tuple[str, ...]:
    """Return words for QEMU: a firmware that starts, and trusts, what has the signature of this kernel."""
    image = pefile.PE(kernel, fast_load=True)
    entry = image.OPTIONAL_HEADER.DATA_DIRECTORY[pefile.DIRECTORY_ENTRY["IMAGE_DIRECTORY_ENTRY_SECURITY"]]
    # WIN_CERTIFICATE has a header of eight bytes before the PKCS#7 data.
    (length,) = struct.unpack_from("<I", image.__data__, entry.VirtualAddress)
    signature = bytes(image.__data__[entry.VirtualAddress + 8 : entry.VirtualAddress + length])
    (signer,) = pkcs7.load_der_pkcs7_certificates(signature)
    certificate, variables = directory / "signer.pem", directory / "variables.fd"
    certificate.write_bytes(signer.public_bytes(serialization.Encoding.PEM))
    keys = [word for key in ("--set-pk", "--add-kek", "--add-db") for word in (key, OWNER, str(certificate))]
    files = ["-i", str(FIRMWARE / "OVMF_VARS_4M.fd"), "-o", str(variables)]
    tool = Path(sys.executable).with_name("virt-fw-vars")
    subprocess.run([tool, *files, *keys, "--secure-boot"], check=True, capture_output=True)
    code = f"if=pflash,unit=0,format=raw,readonly=on,file={FIRMWARE / 'OVMF_CODE_4M.secboot.fd'}"
    return (
        *("-machine", "smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"),
        *("-drive", code, "-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
    )


def test_a_machine_with_secure_boot_proves_itself(tmp_path: Path) -> None:
    words = secure_boot(f"{os.environ['KDUMP_TEST_DEBIAN']}/boot/vmlinuz-{CLOUD_RELEASE}", tmp_path)
    hardware = Hardware(disks={}, cpus=3, extra=words, has_unpacked_kernel=False)
    report = crash("live.sh", tmp_path, hardware, APPEND, {})
    assert "that is not what was typed" in report.files["wrong"].decode()
    command = report.files["command"].decode()
    assert " -s " in command
    assert "nr_cpus=2" in command
    assert "disable_cpu_apicid=0" in command
    found = decode(report, "status.json")
    assert (found["proof"]["passed"], found["proof"]["live"]) == (True, True)
    log = log_of_crash(report)
    assert "kdump-initramfs: live rehearsal " in log
    assert "CPU: 2 " in log.partition("Kernel panic")[2]
    assert "Kernel is locked down from EFI Secure Boot" in log
    assert "Brought up 1 node, 2 CPUs" in report.files["kexec-dmesg.log"].decode(errors="replace")


# --- machines that cannot be armed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("append", "why", "seen"),
    [
        ("", "no memory is reserved for a capture kernel", "nothing"),
        # The files would fit, and what becomes of them does not.
        ("crashkernel=24M", "do not fit into the reserved memory", "24 MiB"),
        # No firmware has told it whom to trust.
        ("crashkernel=192M lockdown=integrity", "does not accept the signature of the kernel image", "[integrity]"),
    ],
    ids=["no reservation", "too small a reservation", "a signature by nobody"],
)
def test_a_machine_that_cannot_be_armed_says_why(append: str, why: str, seen: str, tmp_path: Path) -> None:
    script = SCRIPTS / "unarmed.sh"
    report = run_script(CLOUD_RELEASE, script, tmp_path, hardware=Hardware(disks={}), append=append)
    assert report.status == 0, last_words(report)
    said = {name: content.decode() for name, content in report.files.items()}
    assert why in said["load"]
    assert "not armed" in said["state"]
    assert seen in said["check"]
    assert "crashkernel=" in said["estimate"]


# --- OpenRC --------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_openrc_arms_at_each_boot_with_a_boot_partition_that_is_not_mounted(tmp_path: Path) -> None:
    files = {"token": token(), "openrc-script": (SCRIPTS / "openrc-script").read_text(), **plugging.FILES}
    slots = plugging.Slots(tmp_path)
    hardware = Hardware(extra=slots.words, on_line=slots.hear)
    report = crash("openrc.sh", tmp_path, hardware, f"{APPEND} {plugging.APPEND}", files)
    # The kernel comes from its copy beside the image.
    assert "kexec -p /var/lib/kdump-initramfs/" in report.files["command"].decode()
    for name in ("status.json", "again.json"):
        found = decode(report, name)
        assert (found["armed"], found["stale"]) == (True, [])
    # It came after the machine was armed, and udev's rule followed.
    assert plugging.bytes_in_dump(report) == plugging.BANK_BYTES
