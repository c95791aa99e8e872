"""The directory of a dump and the files in it, as the capture side makes them; without a guest, as in test_capture."""

import re
from pathlib import Path

import pytest

from tests import capture
from tests.capture import LOG, Environment
from tests.saving import CRASHTIME, STAMP, VMCOREINFO, saved

pytestmark = pytest.mark.skipif(not capture.can_enter(), reason="needs root that may make namespaces and device nodes")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "CRASHTIME=",
        "CRASHTIME=0",
        "CRASHTIME=-1700000000",
        "CRASHTIME=17000000000000000000",
        "CRASHTIME=0170000000",
        "CRASHTIME=1700000000; touch /hostile",
        "CRASHTIME=$(touch /hostile)",
        "CRASHTIME=../../etc",
        "CRASHTIME=x\nCRASHTIME=1700000000",
    ],
)
def test_a_time_of_the_crash_that_is_not_sane_is_not_taken(environment: Environment, line: str) -> None:
    environment.write("/run/kdump/vmcoreinfo", f"OSRELEASE=x\n{line}\n")
    ended = environment.shell("mkdir /t; date -u +%Y%m%d; make_directory /t; crash_time +%s || echo none")
    today, none = ended.output.split()
    assert none == "none"
    (name,) = (path.name for path in environment.path("/t").iterdir())
    assert re.fullmatch(rf"{capture.HOST}-{today}T\d{{6}}Z", name)
    assert not environment.exists("/hostile")


@pytest.mark.parametrize(("seconds", "stamp"), [(CRASHTIME, STAMP), (9999999999, "22861120T174639Z")])
def test_the_directory_is_named_by_the_time_of_the_crash(environment: Environment, seconds: int, stamp: str) -> None:
    environment.write("/run/kdump/vmcoreinfo", f"CRASHTIME={seconds}\n")
    environment.shell("mkdir /t; make_directory /t")
    assert environment.read("/run/kdump/dump-directory") == f"/t/{capture.HOST}-{stamp}\n"


def test_a_directory_that_is_there_is_never_used_again(environment: Environment) -> None:
    environment.write("/run/kdump/vmcoreinfo", VMCOREINFO)
    environment.shell("mkdir /t; for i in 1 2 3; do make_directory /t; done")
    base = f"{capture.HOST}-{STAMP}"
    assert sorted(path.name for path in environment.path("/t").iterdir()) == [base, f"{base}-1", f"{base}-2"]


def test_the_thousandth_directory_of_a_name_is_the_last(environment: Environment) -> None:
    environment.write("/run/kdump/vmcoreinfo", VMCOREINFO)
    base = environment.directory / "t" / f"{capture.HOST}-{STAMP}"
    for suffix in ("", *(f"-{number}" for number in range(1, 999))):
        Path(f"{base}{suffix}").mkdir(parents=True)
    assert environment.shell("make_directory /t").status == 0
    assert environment.read("/run/kdump/dump-directory").endswith("-999\n")
    assert environment.shell("make_directory /t").status == 1


def test_where_no_directory_can_be_made_it_is_not_tried_a_thousand_times(environment: Environment) -> None:
    assert environment.shell("make_directory /missing").status == 1
    assert environment.read(LOG).count("cannot make") == 1


def test_a_file_gets_its_name_when_it_is_complete(opened: Environment) -> None:
    ended = opened.shell('echo content | target put file; ls "$(recall dump-directory)"; target commit file')
    assert ended.output == "file-incomplete\n"
    assert saved(opened) == {"file": b"content\n"}


SYNC_FAILS = 'dd() { case "$*" in *if=/dev/null*) return 1 ;; esac; command dd "$@"; }'


@pytest.mark.parametrize("broken", ["dd", "put", "missing"])
def test_a_file_that_did_not_reach_the_device_stays_incomplete(opened: Environment, broken: str) -> None:
    hook = "/lib/kdump/hooks/50-target-disk.sh"
    opened.write("/content", "content\n")
    if broken == "dd":
        opened.replace(hook, "set -eu\n", f"set -eu\n{SYNC_FAILS}\n")
    elif broken == "put":
        put = 'write_hashed "$1"'
        opened.replace("/lib/kdump/directory.sh", put, "{ head -c 3 >&3; exit 1; }")
    source = "/nothing" if broken == "missing" else "/content"
    ended = opened.shell(f"save_file file {source} && echo saved")
    assert "saved" not in ended.output
    assert (
        saved(opened)
        == {"dd": {"file-incomplete": b"content\n"}, "put": {"file-incomplete": b"con"}, "missing": {}}[broken]
    )
