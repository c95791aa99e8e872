"""A capture environment in which nearly everything works, and what is saved in it: what several tests start from."""

import json
from pathlib import Path
from typing import Any

import msgspec

from kdump_initramfs.dumps import store
from tests import capture
from tests.capture import LOG, VMCORE, Environment

HOOKS = (
    *("15-vmcoreinfo", "20-modules", "35-lvm", "50-target-disk", "58-room", "60-dmesg", "70-vmcore", "80-record"),
    "85-retention",
)
MAKEDUMPFILE = "/usr/bin/makedumpfile"
RELEASE = "6.1.0-test"
CRASHTIME = 1700000000
STAMP = "20231114T221320Z"
VMCOREINFO = f"OSRELEASE={RELEASE}\nBUILD-ID=0123456789abcdef\nCRASHTIME={CRASHTIME}\n"
DMESG = "[    1.000000] boot\n[   12.345678] sysrq: Trigger a crash\n[   12.4] Kernel panic - not syncing: sysrq\n"
NEVER_S = 10**8

# What follows a name with `-incomplete` in a directory: makedumpfile's last argument names the file.
LAST = "for last; do :; done\n"
WRITES_DMESG = f'{LAST}case $1 in --dump-dmesg) cat /dmesg >"$last"; exit ;; esac\n'


def unpack(directory: Path) -> Environment:
    """Return an image with every tool, for two targets, as an environment."""
    host = capture.facts(
        capture.target(lvm=True, directory="first"),
        capture.target(fs="xfs", uuid=capture.OTHER_FS_UUID, partition=True, directory="second"),
    )
    output = directory / "capture.img"
    words = ("vmcore.collector=copy", "image.compression=none", f"capture.deadline_s={NEVER_S}", "retention.keep=2")
    capture.build_image(capture.release("cloud"), host, output, *words)
    return Environment.unpack(output, directory / "root")


def prepare(unpacked: Environment, directory: Path) -> Environment:
    """Return a copy with a vmcore, in which every hook but the target's succeeds."""
    made = unpacked.copy_to(directory)
    made.write(
        VMCORE, b"\x7fELF" + bytes(1000) + f"VMCOREINFO\0{VMCOREINFO}".encode() + bytes(3000) + b"memory" * 50000
    )
    made.write("/dmesg", DMESG)
    made.program(MAKEDUMPFILE, f"{WRITES_DMESG}{{ printf 'KDUMP   '; cat /proc/vmcore; }} >\"$last\"")
    made.program("/usr/sbin/lvm", 'mkdir -p /sys/block/dm-0/dm; echo "$LV" >/sys/block/dm-0/dm/uuid')
    made.append("/etc/kdump/settings", f"export LV={capture.LV_UUID}\nexport KDUMP_DEVICE_TIMEOUT_S=1\n")
    made.write("/etc/kdump/modules", "")
    return made


def open_target(environment: Environment) -> Environment:
    """Return the environment with a target that is open: a directory of the chroot itself."""
    (environment.directory / "target").mkdir(exist_ok=True)
    environment.write("/run/kdump/vmcoreinfo", VMCOREINFO)
    assert environment.shell("make_directory /target").status == 0
    return environment


def dump_directory(environment: Environment) -> Path:
    return environment.path(environment.read("/run/kdump/dump-directory").strip())


def saved(environment: Environment) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in dump_directory(environment).iterdir() if file.is_file()}


def set_all(environment: Environment, **values: str) -> None:
    lines = [f"export {name}='{value}'\n" for name, value in values.items()]
    environment.append("/etc/kdump/targets/0", "".join(lines))


def record(environment: Environment) -> Any:
    """Return the record that the hook saves, as it is and as the product reads it."""
    assert environment.hook("80-record").status == 0, environment.read(LOG)
    content = saved(environment)["dump.json"]
    msgspec.json.decode(content, type=store.DumpRecord)
    return json.loads(content)
