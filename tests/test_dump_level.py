"""The dump level: no page of the kernel itself may be left out, by any makedumpfile of any kernel."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_initramfs import build as spine
from kdump_initramfs import config
from kdump_initramfs.check import collector
from kdump_initramfs.check.finding import State
from kdump_initramfs.formats import makedumpfile
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import Text
from tests import capture, command
from tests.capture import Environment
from tests.saving import LAST, MAKEDUMPFILE, record, set_all

SLAB = b"\0NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)=\0"
COMPOUND = b"\0OFFSET(page.compound_info)=\0"


def binary(number: str, *words: bytes) -> bytes:
    said = f"\0makedumpfile: version {number} (released on 20 Oct 2022)\n\0" if number else ""
    return b"\x7fELF" + said.encode() + b"".join(words)


@pytest.mark.parametrize(
    ("content", "release", "level"),
    [
        # Debian 12 with its kernel, and with that of backports; Debian 13; Fedora 40; Ubuntu 24.04 with its HWE kernel.
        (binary("1.7.2"), "6.1.0-35-amd64", 31),
        (binary("1.7.2"), "6.12.9+bpo-amd64", 23),
        (binary("1.7.6", SLAB), "6.12.41+deb13-amd64", 31),
        (binary("1.7.5"), "6.10.3-200.fc40.x86_64", 23),
        (binary("1.7.4"), "6.11.0-29-generic", 23),
        (binary("1.7.2"), "6.9.12", 31),
        (binary("1.7.2"), "6.10-rc1", 23),
        (binary("1.7.2"), "6.10.0", 23),
        (binary("1.7.5++"), "6.14.2", 23),
        # A backport of the fix, which keeps the version.
        (binary("1.7.2", SLAB), "6.12.9", 31),
        # Only what it says of itself can be believed.
        (binary("1.7.6"), "6.12.9", 31),
        (binary("1.10.0"), "6.12.9", 31),
        (binary(""), "6.12.9", 23),
        (binary(""), "5.10.0", 31),
        (b"", "6.12.9", 23),
        (binary("", SLAB), "6.18.0", 31),
        # A kernel that does not tell how old it is.
        (binary("1.7.2"), "custom", 23),
        (binary("1.7.2"), "next-20250101", 23),
        # Linux 7.1 renamed what makedumpfile looks for in the tails of compound pages.
        (binary("1.7.9", SLAB), "7.0.4", 31),
        (binary("1.7.9", SLAB), "7.1.0", 23),
        (binary("1.7.9++", SLAB, COMPOUND), "7.1.0", 31),
        (binary("1.8.0"), "7.2.0", 31),
        (binary("1.7.2", SLAB), "7.1.0", 23),
        (binary("1.7.2"), "10.0.1", 23),
    ],
)
def test_auto_leaves_out_what_can_be_left_out_without_loss(content: bytes, release: str, level: int) -> None:
    lost = makedumpfile.lost_pages(makedumpfile.blind_from(content), release)
    assert makedumpfile.safe_level("auto", lost) == level
    assert bool(lost) == (level == 23)


@pytest.mark.parametrize(
    ("release", "pages"), [("6.12", "slab pages"), ("7.1", "slab pages and tails of compound pages")]
)
def test_what_is_lost_is_named(release: str, pages: str) -> None:
    assert makedumpfile.lost_pages("6.10", release) == pages


def test_the_makedumpfile_of_this_machine_is_understood() -> None:
    path = Path("/usr/bin/makedumpfile")
    if not path.exists():
        pytest.skip("no makedumpfile")
    content = path.read_bytes()
    found = makedumpfile.parse(content)
    assert found is not None
    # The word is of the source: those that have the fix must hold it.
    assert (SLAB.strip(b"\0") in content) == (found >= (1, 7, 6))
    assert makedumpfile.blind_from(content) == ("6.10" if found < (1, 7, 6) else "7.1" if found < (1, 8, 0) else "")


# --- an image ----------------------------------------------------------------------------------------------------

OLD, NEW = "1.7.2", "1.7.9"
# A machine of the fixtures with Linux 6.14.
HOST = "fedora-lvm-xfs"
PROGRAM = "usr/sbin/makedumpfile"


def machine(host_root: Callable[[str], Root], number: str) -> Root:
    root = host_root(HOST)
    with open(Path(root.directory) / PROGRAM, "ab") as stream:
        stream.write(binary(number))
    return root


def settings(root: Root, *overrides: str) -> dict[str, str]:
    planned = spine.plan(root, config.load(root=root.directory, overrides=overrides))
    (text,) = (
        each.content for each in planned.entries if isinstance(each, Text) and each.path == "/etc/kdump/settings"
    )
    lines = (line.removeprefix("export ").partition("=") for line in text.splitlines() if "=" in line)
    return {name: value.strip("'") for name, _, value in lines}


@pytest.mark.parametrize(
    ("number", "wanted", "level", "least"),
    [
        (OLD, "auto", 23, None),
        (OLD, "31", 31, None),
        (OLD, "23", 23, None),
        (OLD, "1", 1, 23),
        (OLD, "0", 0, 23),
        # Who asks for bit 8 gets it, here too.
        (OLD, "9", 9, 31),
        (NEW, "auto", 31, None),
        (NEW, "1", 1, 31),
    ],
)
def test_level_and_the_one_where_the_dump_does_not_fit(
    number: str, wanted: str, level: int, least: int | None, host_root: Callable[[str], Root]
) -> None:
    found = settings(machine(host_root, number), f"vmcore.dump_level={wanted}")
    assert f"-d {level} " in found["KDUMP_MAKEDUMPFILE_ARGUMENTS"]
    assert found["KDUMP_LEAST_ARGUMENTS"].endswith("" if least is None else f"-d {least} --message-level 22")
    assert (found["KDUMP_LEAST_ARGUMENTS"] == "") is (least is None)


@pytest.mark.parametrize("verb", ["plan", "build"])
@pytest.mark.parametrize(
    ("number", "wanted", "said"),
    [
        (OLD, "auto", "takes slab pages of kernel 6.14.0-63.fc42.x86_64 for user data: dump level 23 instead of 31"),
        (OLD, "31", "at vmcore.dump_level = 31 the dump lacks them"),
        (OLD, "8", "at vmcore.dump_level = 8 the dump lacks them"),
        (OLD, "23", ""),
        (NEW, "auto", ""),
    ],
)
def test_plan_and_build_say_so(
    verb: str, number: str, wanted: str, said: str, host_root: Callable[[str], Root], tmp_path: Path
) -> None:
    root = machine(host_root, number)
    output = ["-o", str(tmp_path / "image")] if verb == "build" else []
    ended = command.run(verb, "--root", root.directory, "--set", f"vmcore.dump_level={wanted}", *output)
    assert ended.returncode == 0, ended.stderr
    assert (said in ended.stderr) if said else ("user data" not in ended.stderr)


def test_another_collector_has_no_level(host_root: Callable[[str], Root]) -> None:
    found = settings(machine(host_root, OLD), "vmcore.collector=copy")
    assert found["KDUMP_MAKEDUMPFILE_ARGUMENTS"] == found["KDUMP_LEAST_ARGUMENTS"] == found["KDUMP_LEVEL_NOTE"] == ""


# --- check -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "wanted", "state", "seen"),
    [
        (binary(OLD), "auto", State.WEAK, "23, since /m takes slab pages of kernel 6.12.1 for user data"),
        (binary(OLD), 23, State.OK, "23"),
        (binary(OLD), 31, State.BROKEN, "31, with which /m leaves out slab pages of kernel 6.12.1"),
        (binary(OLD), 8, State.BROKEN, "8, with which"),
        (binary(OLD), 24, State.BROKEN, "24, with which"),
        (binary(""), 9, State.BROKEN, "9, with which"),
        (binary(NEW), "auto", State.OK, "31"),
        (binary(NEW), 31, State.OK, "31"),
    ],
)
def test_check_knows_levels_that_lose_pages(
    content: bytes, wanted: int | str, state: State, seen: str, sysroot: Callable[..., Root]
) -> None:
    (found,) = collector.level_findings(sysroot({"/m": content}), "/m", wanted, "6.12.1")
    assert found.state is state
    assert found.seen.startswith(seen)
    assert bool(found.remedy) is (state is not State.OK)


def test_check_as_a_user_runs_it(host_root: Callable[[str], Root]) -> None:
    root = machine(host_root, OLD)
    levels = {}
    for wanted in ("auto", "31", "23"):
        ended = command.run("check", "--json", "--root", root.directory, "--set", f"vmcore.dump_level={wanted}")
        levels[wanted] = {each["name"]: each["state"] for each in json.loads(ended.stdout)["findings"]}
    assert [found["vmcore.dump_level"] for found in levels.values()] == ["weak", "broken", "ok"]


# --- the record of a dump ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not capture.can_enter(), reason="needs root that may make namespaces and device nodes")
@pytest.mark.parametrize("winner", ["makedumpfile", "least", "copy"])
def test_the_record_says_so(opened: Environment, winner: str) -> None:
    opened.program(
        MAKEDUMPFILE, f'{LAST}[ "$2" = {23 if winner == "least" else 1} ] || exit 1; printf "KDUMP   " >"$last"'
    )
    if winner == "copy":
        opened.path(MAKEDUMPFILE).unlink()
    set_all(
        opened,
        KDUMP_COLLECTORS="makedumpfile copy" if winner == "copy" else "makedumpfile",
        KDUMP_COPY_COMPRESSION="none",
        KDUMP_MAKEDUMPFILE_ARGUMENTS="-d 1",
        KDUMP_LEAST_ARGUMENTS="-d 23",
        KDUMP_LEVEL_NOTE="kept: dump level 23 instead of 31",
    )
    assert opened.hook("70-vmcore").status == 0
    found = record(opened)
    assert found["warnings"] == ([] if winner == "copy" else ["kept: dump level 23 instead of 31"])
    assert found["collector"]["arguments"] == {"makedumpfile": "-d 1", "least": "-d 23", "copy": "none"}[winner]
