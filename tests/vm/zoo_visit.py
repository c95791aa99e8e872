"""Runs scripts/zoo_guest.py on exhibits, and tells which of them came out wrong."""

import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from tests.vm import zoo
from tests.vm.debian import Hardware, run_script
from tests.vm.storage import SCRIPTS, last_words
from tests.vm.zoo import Exhibit, Seen

FULL = bool(os.environ.get("KDUMP_TEST_FULL"))
# Names a file to which each guest adds its rows, for docs/STORAGE.md.
TABLE_VARIABLE = "KDUMP_TEST_ZOO"
BANKS = ("bank0", "bank1", "bank2")
TIMEOUT_S = 1800
_FILES = ("zoo_guest.py", "zoo_ublk.py", "zoo-lib.sh", "zoo-all-targets.sh")
# A target that is lost costs this much of a crash on all of them.
_CONFIG = "[capture]\ndevice_timeout_s = 12\ndegraded_after_s = 4\n"


class Plan(Struct, frozen=True, kw_only=True):
    """How a guest goes about it."""

    # The configuration, but for the targets; here the log alone is saved, which is quick.
    config: str = '[vmcore]\ncollector = "dmesg"\n'
    part_mib: int = 90
    # Shell, before the first exhibit.
    setup: str = ""
    # For the kernel's command line.
    append: str = ""


def visit(
    release: str,
    exhibits: Mapping[str, Exhibit],
    hardware: Hardware,
    directory: Path,
    plan: Plan | None = None,
) -> dict[str, Seen]:
    """Return what a guest saw of these exhibits; print the table."""
    plan = plan or Plan()
    files = {
        **{name: (SCRIPTS / name).read_text() for name in _FILES},
        "exhibits": zoo.to_json(exhibits),
        "settings": json.dumps({"config": plan.config + _CONFIG, "part_mib": plan.part_mib, "setup": plan.setup}),
        "disks": " ".join(disk for disk in hardware.disks if disk in BANKS),
        "token": f"kdump-test-{secrets.token_hex(16)}",
    }
    words = f"crashkernel=256M {plan.append}"
    report = run_script(
        release, SCRIPTS / "zoo.sh", directory, files=files, hardware=hardware, append=words, timeout_s=TIMEOUT_S
    )
    assert report.status == 0, last_words(report)
    seen = zoo.seen_from_json(report.files["seen.json"])
    _show(zoo.rows(exhibits, seen))
    return seen


def _show(rows: list[str]) -> None:
    text = "\n".join(rows) + "\n"
    print(text)
    if place := os.environ.get(TABLE_VARIABLE):
        # One write: several tests may run at a time.
        with open(place, "ab", buffering=0) as stream:
            stream.write(text.encode())


def wrong(exhibits: Mapping[str, Exhibit], seen: Mapping[str, Seen]) -> dict[str, str]:
    """Return what is wrong, by exhibit."""
    found = {name: "; ".join(_wrong(exhibits[name], seen[name])) for name in exhibits}
    return {name: problems for name, problems in found.items() if problems}


def _wrong(exhibit: Exhibit, seen: Seen) -> Iterator[str]:
    if seen.outcome == "not made":
        if not seen.said.startswith("the kernel has no "):
            yield f"not made: {seen.said}"
        return
    if seen.outcome not in exhibit.right:
        yield f"{seen.outcome}, not {' or '.join(sorted(exhibit.right))}: {seen.said}"
    elif seen.outcome == "refused" and not _names_it(exhibit, seen):
        yield f"refused without a name of it ({exhibit.words}): {seen.said}"
    elif seen.outcome == "refused" and not seen.has_remedy:
        yield f"refused without a remedy: {seen.said}"
    yield from (f"{verb} says otherwise than build: {said}" for verb, said in seen.disagree.items())
    if exhibit.late:
        yield from _wrong_early(seen)


def _wrong_early(seen: Seen) -> Iterator[str]:
    if "mount" not in seen.early.get("build", ""):
        yield f"accepted, or refused for another reason, before it was mounted: {seen.early}"
    yield from (
        f"before it was mounted, {verb}: {seen.early[verb]}" for verb in ("probe", "check") if verb in seen.early
    )


def _names_it(exhibit: Exhibit, seen: Seen) -> bool:
    names = [exhibit.words] * bool(exhibit.words) + [rf"\b{re.escape(name)}\b" for name in seen.names]
    return any(re.search(name, seen.said, re.IGNORECASE) for name in names)
