"""The ladder of collectors, the room that they have, and old dumps: the hooks of a real image, in a chroot of it."""

import hashlib
import io
import os
import stat

import pytest

from kdump_initramfs.formats import compression as compression_format
from tests import capture
from tests.capture import LOG, VMCORE, Environment
from tests.saving import LAST, MAKEDUMPFILE, STAMP, dump_directory, record, saved, set_all

pytestmark = pytest.mark.skipif(not capture.can_enter(), reason="needs root that may make namespaces and device nodes")


# --- the ladder of collectors ------------------------------------------------------------------------------------

FAILING = {
    "it exits with 1": f'{LAST}echo half >"$last"; exit 1',
    "it is killed": f'{LAST}echo "KDUMP   half" >"$last"; kill -9 $$',
    "it writes nothing": f'{LAST}: >"$last"',
    "it makes no file": "exit 0",
    "it writes garbage": f'{LAST}cat /proc/vmcore >"$last"',
    "it cannot be run": "#",
}


@pytest.mark.parametrize("stub", FAILING.values(), ids=FAILING.keys())
def test_the_copy_wins_when_makedumpfile_fails(opened: Environment, stub: str) -> None:
    set_all(opened, KDUMP_COLLECTORS="makedumpfile copy", KDUMP_COPY_COMPRESSION="none")
    opened.program(MAKEDUMPFILE, stub)
    if stub == "#":
        opened.path(MAKEDUMPFILE).unlink()
    assert opened.hook("70-vmcore").status == 0
    assert opened.read("/run/kdump/collector") == "copy\n"
    assert saved(opened) == {"vmcore": opened.path(VMCORE).read_bytes()}
    assert "collector makedumpfile failed" in opened.read(LOG)


def test_makedumpfile_wins_where_it_succeeds(opened: Environment) -> None:
    set_all(opened, KDUMP_COLLECTORS="makedumpfile copy", KDUMP_MAKEDUMPFILE_ARGUMENTS="-d 31 --message-level 22")
    opened.program(MAKEDUMPFILE, f'{LAST}echo "$*" >/arguments; {{ printf \'KDUMP   \'; cat /proc/vmcore; }} >"$last"')
    assert opened.hook("70-vmcore").status == 0
    assert opened.read("/run/kdump/collector") == "makedumpfile\n"
    assert saved(opened) == {"vmcore": b"KDUMP   " + opened.path(VMCORE).read_bytes()}
    incomplete = f"/target/{dump_directory(opened).name}/vmcore-incomplete"
    assert opened.read("/arguments") == f"-d 31 --message-level 22 /proc/vmcore {incomplete}\n"


@pytest.mark.parametrize("has_guard", [True, False], ids=["as it is", "without its guard"])
def test_what_an_earlier_try_left_stops_makedumpfile_only_in_a_build_without_the_guard(
    opened: Environment, *, has_guard: bool
) -> None:
    set_all(opened, KDUMP_COLLECTORS="makedumpfile")
    if not has_guard:
        opened.replace("/lib/kdump/hooks/70-vmcore.sh", '        target drop "$name" || :\n', "        :\n")
    opened.program(
        MAKEDUMPFILE, f'{LAST}[ ! -e "$last" ] || {{ echo File exists; exit 1; }}\nprintf \'KDUMP   \' >"$last"'
    )
    (dump_directory(opened) / "vmcore-incomplete").write_bytes(b"old")
    assert (opened.hook("70-vmcore").status == 0) is has_guard
    assert saved(opened) == ({"vmcore": b"KDUMP   "} if has_guard else {"vmcore-incomplete": b"old"})


def test_a_kernel_unknown_to_makedumpfile_is_a_warning(opened: Environment) -> None:
    set_all(opened, KDUMP_COLLECTORS="makedumpfile")
    said = "The kernel version is not supported."
    opened.program(MAKEDUMPFILE, f"{LAST}echo '{said}' >&2; printf 'KDUMP   ' >\"$last\"")
    assert opened.hook("70-vmcore").status == 0
    assert record(opened)["warnings"] == ["makedumpfile does not know this kernel version"]


@pytest.mark.parametrize(("compression", "name"), [("none", "vmcore"), ("gzip", "vmcore.gz"), ("zstd", "vmcore.zst")])
def test_the_copy_is_the_core_itself(opened: Environment, compression: str, name: str) -> None:
    set_all(opened, KDUMP_COLLECTORS="copy", KDUMP_COPY_COMPRESSION=compression)
    assert opened.hook("70-vmcore").status == 0, opened.read(LOG)
    ((found, content),) = saved(opened).items()
    assert found == name
    with compression_format.reader(io.BytesIO(content), name) as unpacked:
        assert unpacked.read() == opened.path(VMCORE).read_bytes()


# A source that ends early looks complete to whoever reads it. The program is replaced by one that reads half.
TRUNCATING = "dd() { head -c 1000; }"


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_copy_of_half_the_core_is_refused(opened: Environment, compression: str) -> None:
    set_all(opened, KDUMP_COLLECTORS="copy", KDUMP_COPY_COMPRESSION=compression)
    opened.replace("/lib/kdump/hooks/70-vmcore.sh", "set -eu\n", f"set -eu\n{TRUNCATING}\n")
    assert opened.hook("70-vmcore").status == 1
    assert saved(opened) == {}
    assert "no collector could save the vmcore" in opened.read(LOG)


@pytest.mark.parametrize("size", [1, 10_000, 1_000_000])
def test_what_does_not_reach_its_file_is_not_saved(size: int, opened: Environment) -> None:
    """Not every program tells that there was no space for what it wrote."""
    os.mknod(opened.path("/dev/full"), 0o600 | stat.S_IFCHR, os.makedev(1, 7))
    (dump_directory(opened) / "file-incomplete").symlink_to("/dev/full")
    opened.write("/content", bytes(size))
    assert opened.shell("target put file </content").status != 0
    assert opened.shell("save_file file /content").status != 0


PIECE = 2 << 20


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_a_file_of_any_size_is_passed_on_as_it_is(size: int, opened: Environment) -> None:
    content = os.urandom(size)
    opened.write("/content", content)
    assert opened.shell("target put file </content && target commit file").status == 0
    assert saved(opened) == {"file": content}
    ended = opened.shell("target digest file; ls /run/kdump")
    assert ended.output.startswith(f"{size} {hashlib.sha256(content).hexdigest()}\n")
    assert "piece" not in ended.output


# A target that is no directory. As the guard does beside it, others write all the time.
STREAMS = """\
case $1 in
    put) exec 3>"/stream/$2"; write_hashed "$2"; passed "$2" "$(stat -c %s "/stream/$2")" ;;
    drop) rm -f "/stream/$2" ;;
    *) : ;;
esac
"""
BUSY_BESIDE = "while :; do echo; sleep 0.1; done >/beside & "


@pytest.fixture
def streaming(opened: Environment) -> Environment:
    opened.write("/lib/kdump/hooks/99-stream.sh", f". /lib/kdump/lib.sh\n{STREAMS}")
    opened.path("/stream").mkdir()
    # The processes of the chroot are not at /proc there.
    library = "/lib/kdump/process.sh"
    opened.write(library, opened.read(library).replace("/proc/", "/.proc/"))
    opened.replace("/lib/kdump/hooks/70-vmcore.sh", "/proc/$pid/io", "/.proc/$pid/io")
    opened.path("/run/kdump/dump-directory").unlink()
    set_all(opened, KDUMP_TARGET_HOOK="99-stream", KDUMP_STALL_S="3")
    return opened


def test_a_stream_that_stalls_is_ended(streaming: Environment) -> None:
    set_all(streaming, KDUMP_COLLECTORS="makedumpfile copy", KDUMP_COPY_COMPRESSION="none")
    streaming.program(MAKEDUMPFILE, "printf makedumpfile; sleep 1000")
    assert streaming.hook("70-vmcore", before=BUSY_BESIDE).status == 0, streaming.read(LOG)
    assert "collector makedumpfile failed: stall" in streaming.read(LOG)
    assert {name: file.read_bytes() for name, file in streaming.files("/stream").items()} == {
        "vmcore": streaming.path(VMCORE).read_bytes()
    }


def test_a_stream_may_take_its_time(streaming: Environment) -> None:
    set_all(streaming, KDUMP_COLLECTORS="makedumpfile")
    streaming.program(MAKEDUMPFILE, "printf makedumpfile; for i in 1 2 3 4 5 6; do sleep 1; printf more; done")
    assert streaming.hook("70-vmcore").status == 0, streaming.read(LOG)
    assert streaming.files("/stream")["vmcore.flat"].read_bytes() == b"makedumpfile" + b"more" * 6


def test_a_log_that_was_lost_is_not_in_the_record(opened: Environment) -> None:
    assert opened.hook("60-dmesg").status == 0
    set_all(opened, KDUMP_COLLECTORS="copy", KDUMP_COPY_COMPRESSION="none")
    assert opened.hook("70-vmcore").status == 0
    (dump_directory(opened) / "vmcore-dmesg.txt").unlink()
    assert record(opened)["files"].keys() == {"vmcore", "kexec-dmesg.log"}


def test_a_core_that_was_lost_is_not_recorded(opened: Environment) -> None:
    set_all(opened, KDUMP_COLLECTORS="copy", KDUMP_COPY_COMPRESSION="none")
    assert opened.hook("70-vmcore").status == 0
    (dump_directory(opened) / "vmcore").unlink()
    assert opened.hook("80-record").status != 0
    assert "dump.json" not in saved(opened)


def test_the_log_alone_is_enough_where_that_was_asked_for(opened: Environment) -> None:
    set_all(opened, KDUMP_COLLECTORS="dmesg")
    assert opened.hook("70-vmcore").status == 1
    assert opened.hook("60-dmesg").status == 0
    assert opened.hook("70-vmcore").status == 0


def test_half_a_log_is_not_removed_with_half_a_core(opened: Environment) -> None:
    set_all(opened, KDUMP_COLLECTORS="dmesg")
    (dump_directory(opened) / "vmcore-dmesg.txt-incomplete").write_bytes(b"half")
    assert opened.hook("70-vmcore").status == 1
    assert saved(opened) == {"vmcore-dmesg.txt-incomplete": b"half"}


def test_what_a_collector_says_does_not_fill_the_memory(opened: Environment) -> None:
    set_all(opened, KDUMP_COLLECTORS="makedumpfile copy")
    opened.program(MAKEDUMPFILE, "seq 1000000; exit 1")
    assert opened.hook("70-vmcore").status == 0
    assert opened.read("/run/kdump/collector") == "copy\n"
    assert 200_000 < len(opened.read(LOG)) < 300_000


# --- room and old dumps ------------------------------------------------------------------------------------------

OLD = (f"{capture.HOST}-20200101T000000Z", f"{capture.HOST}-20200101T000000Z-2", f"{capture.HOST}-20200101T000000Z-10")
NOT_OURS = (
    *(f"other-{STAMP}", f"{capture.HOST}-x-{STAMP}", f"{capture.HOST}-{STAMP}-1x", f"{capture.HOST}-2020", "precious"),
    *(f"{capture.HOST}-20190101T000000Z-", f"{capture.HOST}-20190101T000000Zx", f"{capture.HOST}-2019010aT000000Z"),
)


def add_dump(environment: Environment, name: str, *, complete: str = "true", size: int = 8192) -> None:
    environment.write(f"/target/{name}/dump.json", f'{{\n  "schema": 1,\n  "complete": {complete},\n}}\n')
    environment.write(f"/target/{name}/vmcore", bytes(size))


@pytest.fixture
def full(opened: Environment) -> Environment:
    """Return an environment with old dumps of ours, and things that are not ours or not complete."""
    for name in (*OLD, *NOT_OURS):
        add_dump(opened, name)
    add_dump(opened, f"{capture.HOST}-20180101T000000Z", complete="false")
    add_dump(opened, "elsewhere")
    opened.path(f"/target/{capture.HOST}-20170101T000000Z").symlink_to("elsewhere")
    opened.write("/run/kdump/saved", "vmcore\ndump.json\n")
    opened.write("/run/kdump/collector", "copy\n")
    return opened


def gone(environment: Environment, run: str) -> set[str]:
    before = {path.name for path in environment.path("/target").iterdir()}
    step = environment.hook(run.rsplit(maxsplit=1)[-1], before=run.rpartition(" ")[0])
    assert step.status == 0, environment.read(LOG)
    return before - {path.name for path in environment.path("/target").iterdir()}


@pytest.mark.parametrize(("keep", "removed"), [(0, ()), (1, OLD), (2, OLD[:2]), (3, OLD[:1]), (4, ()), (5, ())])
def test_as_many_dumps_stay_as_are_to_be_kept(keep: int, removed: tuple[str, ...], full: Environment) -> None:
    assert gone(full, f"export KDUMP_KEEP={keep} KDUMP_MAX_BYTES=0; 85-retention") == set(removed)


@pytest.mark.parametrize(("limit", "removed"), [(1, OLD), (30000, OLD[:1]), (10**9, ())])
def test_dumps_take_no_more_space_together_than_they_may(
    limit: int, removed: tuple[str, ...], full: Environment
) -> None:
    assert gone(full, f"export KDUMP_KEEP=0 KDUMP_MAX_BYTES={limit}; 85-retention") == set(removed)


def test_nothing_is_removed_where_nothing_was_saved(full: Environment) -> None:
    full.path("/run/kdump/collector").unlink()
    before = full.files("/target")
    assert full.hook("85-retention", before="export KDUMP_KEEP=1 KDUMP_MAX_BYTES=0").status == 77
    assert full.files("/target") == before


def test_what_somebody_has_put_into_an_old_dump_stays(full: Environment) -> None:
    full.write(f"/target/{OLD[0]}/analysis.txt", "work")
    assert gone(full, "export KDUMP_KEEP=1 KDUMP_MAX_BYTES=0; 85-retention") == set(OLD[1:])
    assert full.read(f"/target/{OLD[0]}/analysis.txt") == "work"


def test_room_is_made_of_the_oldest_but_never_of_the_newest(full: Environment) -> None:
    assert gone(full, f"export KDUMP_MIN_FREE={1 << 60} KDUMP_SIZE_LIMIT=0; 58-room") == set(OLD[:2])


def test_no_room_is_made_where_there_is_enough(full: Environment) -> None:
    assert gone(full, "export KDUMP_MIN_FREE=1 KDUMP_SIZE_LIMIT=4711; 58-room") == set()
    assert full.read("/run/kdump/limit-bytes") == "4711\n"


def test_reserve_is_not_for_the_vmcore(opened: Environment) -> None:
    opened.hook("58-room", before="export KDUMP_MIN_FREE=0 KDUMP_SIZE_LIMIT=0")
    status = os.statvfs(opened.directory)
    reserve = max(64 << 20, status.f_blocks * status.f_frsize // 100)
    expected = status.f_bavail * status.f_frsize - reserve
    assert abs(int(opened.read("/run/kdump/limit-bytes")) - expected) < 1 << 30


ROOM = "export KDUMP_COLLECTORS='makedumpfile copy' KDUMP_MAKEDUMPFILE_ARGUMENTS='-d 1' KDUMP_COPY_COMPRESSION=none"


def test_what_does_not_fit_is_tried_with_all_left_out_that_can_be(opened: Environment) -> None:
    opened.write("/run/kdump/limit-bytes", "65536\n")
    opened.program(
        MAKEDUMPFILE, f'{LAST}printf "KDUMP   " >"$last"; [ "$2" = 31 ] || {{ cat /proc/vmcore >>"$last" || exit 1; }}'
    )
    set_all(opened, KDUMP_LEAST_ARGUMENTS="-d 31")
    opened.hook("70-vmcore", before=ROOM)
    assert opened.read("/run/kdump/collector") == "least\n"
    assert saved(opened) == {"vmcore": b"KDUMP   "}
    assert "collector makedumpfile failed: room" in opened.read(LOG)
    assert "collector copy" not in opened.read(LOG)
    found = record(opened)
    assert found["collector"] == {"name": "makedumpfile", "arguments": "-d 31"}


def test_what_cannot_become_smaller_is_not_tried_again(opened: Environment) -> None:
    opened.write("/run/kdump/limit-bytes", "65536\n")
    opened.program(MAKEDUMPFILE, f'{LAST}cat /proc/vmcore >"$last"')
    assert opened.hook("70-vmcore", before=f"{ROOM} KDUMP_LEAST_ARGUMENTS=").status == 1
    assert saved(opened) == {}
    assert opened.read(LOG).count(" failed: ") == 1


def test_copy_that_does_not_fit_is_not_half_of_one(opened: Environment) -> None:
    opened.write("/run/kdump/limit-bytes", "65536\n")
    assert opened.hook("70-vmcore", before=f"{ROOM} KDUMP_COLLECTORS=copy KDUMP_LEAST_ARGUMENTS=").status == 1
    assert saved(opened) == {}
    assert "collector copy failed: room" in opened.read(LOG)


@pytest.mark.parametrize("room", [0, -5000])
def test_no_collector_is_started_where_there_is_no_room(room: int, opened: Environment) -> None:
    opened.write("/run/kdump/limit-bytes", f"{room}\n")
    assert opened.hook("70-vmcore").status == 1
    assert "no room for a vmcore" in opened.read(LOG)
    assert opened.hook("60-dmesg").status == 0
