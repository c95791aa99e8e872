"""In a guest: makes each of the exhibits, lets the tool judge it, crashes on those accepted, and looks for the dumps.

usage: zoo_guest.py, run by zoo.sh beside the `exhibits`, the `settings`, the `disks` and the `token`
"""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdump_initramfs import cli
from kdump_initramfs.dumps import store
from kdump_initramfs.image import record
from kdump_initramfs.rehearsal import verify

PLACE = Path("/zoo")
STATE = Path("state")
CONFIG = Path("/etc/kdump-initramfs/config.toml")
HOOK = Path("/etc/kdump-initramfs/hooks/01-all-targets.sh")
VERBS = ("build", "probe", "check")
SECONDS = 180
# What a verb says after the name of the program; see cli.py.
_SAID = re.compile(r"^kdump-initramfs: (?!  hint: )(.*)$", re.MULTILINE)


class FailedError(Exception):
    """A script did not do what it should."""


def shell(script: str, *arguments: str, name: str = "") -> str:
    """Return what a script prints, that runs behind zoo-lib.sh; its daemons may keep its files."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        words = ["sh", "-euc", f"ZOO={name}\n. ./zoo-lib.sh\nset -x\n{script}", "zoo", *arguments]
        try:
            status = subprocess.run(words, stdout=out, stderr=err, check=False, timeout=SECONDS).returncode
        except subprocess.TimeoutExpired:
            status = -1
        out.seek(0)
        err.seek(0)
        said = err.read()
        if status:
            print(said[-3000:])
            raise FailedError(" / ".join([line for line in said.splitlines() if not line.startswith("+ ")][-3:]))
        return out.read().strip()


# --- the tool ----------------------------------------------------------------------------------------------------


def ask(*words: str) -> tuple[int, str, str]:
    """Return status, output and errors of the tool, as on its command line, without what it takes to start."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            status = 70
            try:
                status = cli.main(words)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        err.seek(0)
        return status, out.read(), err.read()


def target(exhibit: dict[str, Any]) -> dict[str, str]:
    """Return what the configuration says of a target."""
    if exhibit["absent"]:
        return {"kind": "disk", "device": f"UUID={exhibit['uuid']}", "fs_type": "ext4"}
    return {"kind": "path", "path": str(directory_of(exhibit))}


def setting(exhibit: dict[str, Any]) -> str:
    return "target=[{" + ", ".join(f'{key}="{value}"' for key, value in target(exhibit).items()) + "}]"


def refusals(status: int, said: str) -> list[str]:
    """Return the lines of a refusal; of one that is none, what came instead."""
    return _SAID.findall(said) if status == 1 else [f"status {status}: {said[-300:]}"]


def of_check(output: str) -> list[str]:
    return [finding["seen"] for finding in json.loads(output)["findings"] if finding["state"] == "broken"]


def judge(exhibit: dict[str, Any]) -> dict[str, Any]:
    """Return what `build` says of a target, and what others say that disagree."""
    words = ("--set", setting(exhibit))
    status, _, said = ask("build", "-o", "/run/zoo.img", "--set", "image.compression=none", *words)
    if not status:
        return {"outcome": "accepted"}
    problems, has_remedy = refusals(status, said), "  hint: " in said
    disagree = {}
    status, output, said = ask("probe", "--json", *words)
    if not set(problems) & set(refusals(status, said)):
        disagree["probe"] = f"status {status}: {(said or output)[-300:]}"
    status, output, said = ask("check", "--json", *words)
    found = of_check(output) if output.startswith("{") else []
    if not set(problems) & set(found):
        disagree["check"] = f"status {status}: {' / '.join(found) or said[-300:]}"
    return {"outcome": "refused", "said": " / ".join(problems), "disagree": disagree, "has_remedy": has_remedy}


# --- exhibits ----------------------------------------------------------------------------------------------------


class Bank:
    """Partitions that are free; no more than needed, since the capture environment looks at each for each target."""

    def __init__(self, disks: Sequence[str], size_mib: int, count: int) -> None:
        self._free: list[str] = []
        for disk in disks:
            device = f"/dev/disk/by-id/virtio-{disk}"
            here = min(1020 // size_mib, count - len(self._free))
            if not here:
                break
            lines = f"size={size_mib}M\n" * here
            subprocess.run(["sfdisk", "--quiet", "--label", "gpt", device], input=lines, text=True, check=True)
            self._free += [f"{os.path.realpath(device)}{number + 1}" for number in range(here)]
        subprocess.run(["udevadm", "settle"], check=True)

    def take(self, count: int) -> list[str]:
        taken, self._free = self._free[:count], self._free[count:]
        if len(taken) < count:
            raise FailedError("no partition is free")
        return taken

    def give_back(self, parts: Sequence[str]) -> None:
        for part in parts:
            with open(part, "r+b", buffering=0) as device:
                size = device.seek(0, os.SEEK_END)
                for place in (0, size - (2 << 20)):
                    device.seek(place)
                    device.write(bytes(2 << 20))
        subprocess.run(["udevadm", "settle"], check=True)
        self._free += parts


def directory_of(exhibit: dict[str, Any]) -> Path:
    """Return where it is mounted, which tells nothing of its kind."""
    return PLACE / str(exhibit["number"])


def name_of(exhibit: dict[str, Any]) -> str:
    """Return a name for devices that no other exhibit has."""
    return f"zoo{exhibit['number']}"


def lacking(modules: Sequence[str]) -> list[str]:
    return [name for name in modules if subprocess.run(["modprobe", "-n", "-q", name], check=False).returncode]


def names_of(node: str) -> list[str]:
    words = ["lsblk", "-snro", "KNAME", os.path.realpath(node)]
    listed = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    # That of device-mapper says nothing.
    return sorted({name for name in listed if not name.startswith("dm-")})


def mount(exhibit: dict[str, Any], directory: Path, parts: Sequence[str], source: str) -> None:
    options = f"-o {exhibit['options']}" if exhibit["options"] else ""
    shell(f"mkdir -p {directory}; mount {options} {source} {directory}", *parts)


def make(exhibit: dict[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    """Make an exhibit, mount it, and return what the tool says of it."""
    directory = directory_of(exhibit)
    node = exhibit["node"] = shell(exhibit["make"], *parts, name=name_of(exhibit)).splitlines()[-1]
    shell(exhibit["mkfs"].format(node=node) + "\nudevadm settle")
    exhibit["uuid"] = shell(f"blkid -p -s UUID -o value {node}")
    early: dict[str, str] = {}
    if exhibit["late"]:
        directory.mkdir(parents=True)
        with open("/etc/fstab", "a") as fstab:
            fstab.write(f"UUID={exhibit['uuid']} {directory} ext4 nofail 0 0\n")
        found = judge(exhibit)
        early = {"build": found.get("said", "accepted"), **found.get("disagree", {})}
    if exhibit["absent"]:
        shell(exhibit["absent"])
    else:
        mount(exhibit, directory, parts, node)
    return {**judge(exhibit), "names": names_of(node), "early": early}


def take_away(exhibit: dict[str, Any], parts: Sequence[str]) -> None:
    subprocess.run(["umount", directory_of(exhibit)], check=False, capture_output=True)
    shell(exhibit["unmake"].format(node=exhibit.get("node", "")), *parts, name=name_of(exhibit))


def visit(name: str, exhibit: dict[str, Any], bank: Bank) -> dict[str, Any]:
    """Return what becomes of an exhibit, which is gone afterwards if it was refused."""
    if missing := lacking(exhibit["needs"]):
        return {"outcome": "not made", "said": f"the kernel has no {', '.join(missing)}"}
    parts = exhibit["parts_taken"] = bank.take(exhibit["parts"])
    try:
        seen = make(exhibit, parts)
    except FailedError as error:
        seen = {"outcome": "not made", "said": str(error)}
    if seen["outcome"] != "accepted":
        try:
            take_away(exhibit, parts)
            bank.give_back(parts)
        except (FailedError, OSError) as error:
            # Others do without these partitions.
            print(f"zoo: {name}: cannot be taken away: {error}")
    return seen


# --- before and after the crash ----------------------------------------------------------------------------------


def crash(exhibits: dict[str, Any], seen: dict[str, Any], settings: dict[str, Any]) -> None:
    accepted = [name for name in exhibits if seen[name]["outcome"] == "accepted"]
    lines = [settings["config"]]
    for name in accepted:
        lines += ["[[target]]", *(f'{key} = "{value}"' for key, value in target(exhibits[name]).items())]
    CONFIG.write_text("\n".join(lines) + "\n")
    HOOK.parent.mkdir()
    shutil.copy("zoo-all-targets.sh", HOOK)
    status, output, said = ask("load", "--rebuild", "--set", "image.compression=none")
    print(output, said)
    if status:
        raise FailedError(f"what was accepted one by one is refused together: {said}")
    STATE.write_text(json.dumps({"exhibits": exhibits, "seen": seen}))
    os.sync()
    Path("/dev/kmsg").write_text(Path("token").read_text())
    print(f"zoo: crashing on {', '.join(accepted)}", flush=True)
    Path("/proc/sysrq-trigger").write_text("c")


def say(name: str, seen: dict[str, Any]) -> None:
    uptime = Path("/proc/uptime").read_text().split()[0]
    print(f"zoo: {uptime} {name}: {seen['outcome']}: {seen.get('said', '')} {seen.get('disagree', '')}", flush=True)


def before(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what became of the exhibits if none was accepted; if any was, it does not return."""
    exhibits: dict[str, Any] = json.loads(Path("exhibits").read_text())
    wanted = sum(exhibit["parts"] for exhibit in exhibits.values())
    bank = Bank(Path("disks").read_text().split(), settings["part_mib"], wanted)
    shell(settings["setup"])
    CONFIG.parent.mkdir(parents=True, exist_ok=True)
    CONFIG.write_text(settings["config"])
    for module in ("build", "check.diagnosis", "check.show", "host.probe", "image.plan", "commands.image"):
        importlib.import_module(f"kdump_initramfs.{module}")
    seen: dict[str, Any] = {}
    for number, (name, exhibit) in enumerate(exhibits.items()):
        exhibit["number"] = number
        seen[name] = visit(name, exhibit, bank)
        say(name, seen[name])
    if any(found["outcome"] == "accepted" for found in seen.values()):
        crash(exhibits, seen, settings)
    return seen


def problems_of_dump(exhibit: dict[str, Any], expected: verify.Expected) -> Iterator[str]:
    """Yield why there is no whole dump on a device after the reboot."""
    directory = directory_of(exhibit)
    parts = exhibit["parts_taken"]
    try:
        if exhibit["reopen"]:
            shell(exhibit["reopen"] + "\nudevadm settle", *parts, name=name_of(exhibit))
        mount(exhibit, directory, parts, f"UUID={exhibit['uuid']}")
    except FailedError as error:
        yield f"it cannot be mounted again: {error}"
        return
    yield from (
        f"{check.name}: no; {check.detail}" for check in verify.verify(str(directory), expected) if not check.passed
    )


def after() -> dict[str, Any]:
    state: dict[str, Any] = json.loads(STATE.read_text())
    release = os.uname().release
    image = record.read(f"/var/lib/kdump-initramfs/initrd-{release}.img")
    token = Path("token").read_text()
    expected = verify.Expected(token=token, kernel_release=release, manifest_digest=image.digest)
    for name, found in state["seen"].items():
        if found["outcome"] == "accepted":
            problems = list(problems_of_dump(state["exhibits"][name], expected))
            found |= {"outcome": "LOST" if problems else "saved", "said": " / ".join(problems)}
            say(name, found)
    return dict(state["seen"])


def main() -> None:
    assert store.RECORD
    settings = json.loads(Path("settings").read_text())
    seen = before(settings) if os.environ["BOOT"] == "1" else after()
    Path(os.environ["REPORT"], "seen.json").write_text(json.dumps(seen))


main()
