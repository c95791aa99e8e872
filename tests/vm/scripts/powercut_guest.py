"""In a guest: makes the disk of one cut of the power after the other, and tells what a reboot would find on it.

usage: powercut_guest.py REPORT, run by powercut_inspect.sh
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.vm import powercut

# In memory.
PLACE = Path("/run/powercut")
BASE, LOG = (Path(f"/dev/disk/by-id/virtio-{name}") for name in ("base", "log"))


def shell(script: str) -> str:
    """Return what went wrong, or nothing."""
    ran = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=False)
    return f"{script}: {ran.stdout}{ran.stderr}" if ran.returncode else ""


def inspect(disk: Path) -> tuple[str, dict[str, Any]]:
    """Return what was wrong, and the files."""
    problem = shell(f"losetup /dev/loop0 {disk}\n" + Path("attach").read_text())
    files = {} if problem else powercut.look(PLACE / "mounted")
    # Where attaching has failed, so may this.
    left = shell(Path("detach").read_text() + "\nlosetup --detach /dev/loop0")
    return problem or left, files


def main(report: str) -> None:
    # A device has no holes.
    subprocess.run(["cp", "--sparse=always", BASE, PLACE / "base"], check=True)
    disks = powercut.Disks(powercut.Log(LOG), PLACE / "base", PLACE)
    with Path(report).open("w") as states:
        for cut in json.loads(Path("cuts").read_text()):
            problem, files = inspect(disks.make(powercut.Cut(*cut)))
            states.write(json.dumps({"cut": cut, "problem": problem, "files": files}) + "\n")


main(*sys.argv[1:])
