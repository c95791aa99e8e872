"""A build that fails or is killed at any system call: the old image or the new one, with its record, and nobody else's.

strace(1) fails each call that changes the directory of the image (tests/faults.py), once and for good, and kills the
build there: as the directory changes at these calls alone, the kills show it at every instant. With KDUMP_TEST_FULL=1
(`tests/run --full`), so does it to all other calls that have to do with the directory, with more errors and with every
compression. Each case is a line of output, for `-rP` to show.
"""

import hashlib
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from kdump_initramfs import build as spine
from kdump_initramfs import config, resources
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import record
from kdump_initramfs.model import ImageRecord
from tests import command, programs
from tests.faults import Call, Fault, Place, link_code

IS_FULL = bool(os.environ.get("KDUMP_TEST_FULL"))

UNCHANGED = "what was there before is unchanged"
# Where no write succeeds any more, stderr is no exception, and this is the status of Python (sys.exit).
CANNOT_SPEAK = 120
REPLACED = "the new image is there, but build it again"


@pytest.fixture
def root(host_root: Callable[[str], Root]) -> Root:
    return host_root("debian-lvm-ext4")


@pytest.fixture(scope="module")
def linked_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return link_code(tmp_path_factory.mktemp("code"))


@pytest.fixture
def code(linked_code: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return what builds to be broken are run from; builds in this process have its hooks, too."""
    monkeypatch.setattr(resources, "_PACKAGE", str(linked_code / "kdump_initramfs"))
    return linked_code


class Pair(Struct, frozen=True):
    """An image, and the record that fits it, as bytes."""

    image: bytes
    record: bytes


def pair_at(image: Path) -> Pair | None:
    """Return the image with its record; None where there is no image; fail where it has no record that fits."""
    if not image.exists():
        return None
    content = image.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    for path in map(Path, (record.path_of(str(image)), record.next_path_of(str(image)))):
        if path.exists() and digest_in(path) == digest:
            return Pair(content, path.read_bytes())
    raise AssertionError(f"no record fits the image: {sorted(os.listdir(image.parent))}")


def digest_in(path: Path) -> str:
    """Return the digest of the image that a record is for; "" where it is cut off."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ImageRecord).image_sha256
    except msgspec.DecodeError:
        return ""


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


# --- what a build may find ---------------------------------------------------------------------------------------


def build(root: Root, *settings: str) -> Path:
    """Build in this process, to where images belong, and return the path of the image."""
    written = spine.build(root, config.load(overrides=settings))
    return Path(root.directory) / "var/lib/kdump-initramfs" / written.image


def nothing(root: Root) -> Path:
    """Make no image, nor a directory for it."""
    image = build(root)
    shutil.rmtree(image.parent)
    return image


def old(root: Root) -> Path:
    """Make an image with its record."""
    return build(root, "capture.deadline_s=7")


def old_and_half_a_record(root: Root) -> Path:
    """Make what a build leaves that was killed while it wrote the record."""
    image = old(root)
    put(record.next_path_of(str(image)), b'{"schema": 1, "tool":')
    put(f"{image.parent}/.{image.name}.abc123.partial", image.read_bytes())
    return image


def old_and_a_record_of_another(root: Root) -> Path:
    """Make what a build leaves that was killed before it had replaced the image."""
    image = build(root, "capture.deadline_s=8")
    following = contents(image.parent)
    old(root)
    put(record.next_path_of(str(image)), following[f"{image.name}.json"])
    put(f"{image.parent}/.{image.name}.abc123.partial", following[image.name])
    return image


def replaced_but_the_record(root: Root) -> Path:
    """Make what a build leaves that was killed after it had replaced the image, and before the record."""
    image = old(root)
    earlier = contents(image.parent)
    build(root, "capture.deadline_s=8")
    os.rename(record.path_of(str(image)), record.next_path_of(str(image)))
    put(record.path_of(str(image)), earlier[f"{image.name}.json"])
    return image


def put(path: str, content: bytes) -> None:
    record.write_beside(path, content)


STATES = [nothing, old, old_and_half_a_record, old_and_a_record_of_another, replaced_but_the_record]


# --- one call fails ----------------------------------------------------------------------------------------------

FAULTS = ["ENOSPC", "ENOSPC+", "EIO", "EIO+", "KILL"]
MORE_FAULTS = ["EINTR", "EACCES", "EACCES+", "EMFILE", "EROFS+"]


def cases() -> Iterator[object]:
    """Yield state, compression and fault: a test for each, which goes through all calls."""
    for state in STATES:
        for fault in FAULTS:
            if IS_FULL or state is old or fault in ("ENOSPC", "EIO+", "KILL"):
                yield case(state, fault)
    yield case(old, "INT")
    if IS_FULL:
        yield from (case(old, fault) for fault in MORE_FAULTS)
        yield from (case(old, fault, compression) for compression in ("gzip", "xz", "none") for fault in FAULTS)


def case(state: Callable[[Root], Path], fault: str, compression: str = "zstd") -> object:
    return pytest.param(state, compression, Fault(fault), id=f"{state.__name__}-{compression}-{fault}")


@pytest.mark.parametrize(("state", "compression", "fault"), list(cases()))
def test_call_that_fails_leaves_the_old_image_or_the_new_one(
    state: Callable[[Root], Path], compression: str, fault: Fault, root: Root, code: Path
) -> None:
    programs.need("strace")
    setting = f"image.compression={compression}"
    place = Place(root, state(root), code, ("--set", setting))
    place.save()
    before = pair_at(place.image)
    calls = place.calls()
    after = pair_at(place.image)
    assert before != after
    for call in calls:
        if call.is_changing or IS_FULL:
            print(f"case: {fault.name} at {call}")
            try:
                check(place, call, fault, before, after)
                build(root, setting)
                assert_done(place.image, after)
            except AssertionError as error:
                error.add_note(f"{fault.name} at {call}; to repeat it: {place.repeat(call, fault)}")
                raise


def check(place: Place, call: Call, fault: Fault, before: Pair | None, after: Pair | None) -> None:
    """Build with a fault at a call, and check that nothing is lost."""
    result = place.broken(call, fault)
    found = pair_at(place.image)
    assert found in (before, after)
    if found is not None:
        assert record.to_json(record.read(str(place.image))) == found.record
    assert_private(place.image)
    if fault.name == "KILL":
        assert result.returncode == -signal.SIGKILL
    elif result.returncode == 0:
        assert_done(place.image, after)
    else:
        assert result.returncode in statuses(fault, call), result.stderr
        # Where nothing can be opened any more, Python cannot import either.
        assert fault.is_lasting or "Traceback" not in result.stderr
        assert not call.is_changing or "unlink" in call.name or not list(place.image.parent.glob(".*.partial"))
    if call.is_changing and not fault.is_signal and fault.name != "EINTR":
        assert_told(result, fault, call, is_replaced=found == after)


def statuses(fault: Fault, call: Call) -> tuple[int, ...]:
    """Return with which exit statuses a build may give up."""
    if fault.name == "INT":
        return (130,)
    return (1, CANNOT_SPEAK) if call.name == "write" and fault.is_lasting else (1,)


def assert_told(result: subprocess.CompletedProcess[str], fault: Fault, call: Call, *, is_replaced: bool) -> None:
    """Check that the build says that it has failed, and what is there now."""
    assert result.returncode != 0
    if CANNOT_SPEAK in statuses(fault, call):
        return
    _, hint = command.complaint(result)
    if call.name.startswith("mkdir"):
        assert hint == "name another place with --output"
    else:
        assert hint == (REPLACED if is_replaced else UNCHANGED)


def assert_done(image: Path, expected: Pair | None) -> None:
    assert expected is not None
    assert contents(image.parent) == {image.name: expected.image, f"{image.name}.json": expected.record}
    assert_private(image)


def assert_private(image: Path) -> None:
    """Check that nobody else can read what is in the directory, and that it has nothing in it that we do not know."""
    names = {image.name, f"{image.name}.json", f"{image.name}.json.next"}
    for path in image.parent.iterdir() if image.parent.exists() else ():
        assert stat.filemode(path.lstat().st_mode) == "-rw-------", path
        assert path.name in names or (path.name.startswith(f".{image.name}.") and path.suffix == ".partial")
    if image.parent.exists():
        assert stat.filemode(image.parent.stat().st_mode) == "drwx------"


# --- in which order ----------------------------------------------------------------------------------------------


def test_nothing_is_replaced_before_it_is_on_the_disk(root: Root, code: Path) -> None:
    programs.need("strace")
    place = Place(root, old(root), code)
    place.save()
    name = place.image.name
    partial, following = f".{name}.*.partial", f"{name}.json.next"
    assert [(call.name.removesuffix("at2"), call.path) for call in place.calls() if call.is_changing] == [
        ("openat", partial),
        ("write", partial),
        ("fsync", partial),
        ("openat", following),
        ("fchmod", following),
        ("write", following),
        ("fsync", following),
        ("rename", partial),
        ("rename", following),
        ("fsync", "."),
    ]


# --- limits and full disks ---------------------------------------------------------------------------------------


def test_file_size_limit_leaves_the_old_image(root: Root) -> None:
    programs.need("prlimit")
    size = len(build(root, "image.compression=none").read_bytes())
    image = old(root)
    before = contents(image.parent)
    for limit in (0, 1, 4096, size - 1):
        result = build_apart(root, "--set", "image.compression=none", before=["prlimit", f"--fsize={limit}"])
        assert command.complaint(result) == (f"{image}: File too large", UNCHANGED)
        assert contents(image.parent) == before
    build_apart(root, "--set", "image.compression=none", before=["prlimit", f"--fsize={size}"]).check_returncode()


def build_apart(root: Root, *arguments: str, before: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return command.run("build", "-q", "--root", root.directory, *arguments, before=before)


# Mounts a small file system over the directory of the image, with the old image on it, builds there, and copies what
# is there then to where we see it.
ON_A_SMALL_DISK = """
options=$1 directory=$2 saved=$3
shift 3
cp -a "$directory" "$saved/old"
mount -t tmpfs -o "mode=700,$options" tmpfs "$directory" || exit 99
cp -a "$saved"/old/* "$directory"
"$@"
status=$?
cp -a "$directory" "$saved/after"
exit $status
"""


def build_on_a_small_disk(root: Root, image: Path, options: str) -> tuple[int, dict[str, bytes]]:
    """Build on a file system of its own; return the status, and what is on it afterwards."""
    saved = Path(root.directory).parent / f"saved-{options}"
    saved.mkdir()
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh"]
    result = build_apart(root, before=[*words, options, str(image.parent), str(saved)])
    if result.returncode == 99 or "unshare" in result.stderr:
        pytest.skip("no user namespaces with mounts here")
    if result.returncode != 0:
        problem, hint = command.complaint(result)
        assert problem.endswith(": No space left on device")
        assert hint == UNCHANGED
    return result.returncode, contents(saved / "after")


@pytest.mark.parametrize("unit", ["pages", "inodes"])
def test_full_disk_leaves_the_old_image(unit: str, root: Root) -> None:
    programs.need("unshare")
    new = contents(build(root).parent)
    image = old(root)
    before = contents(image.parent)
    # Disks that hold what there is and no more, a little more, and so on.
    pages, inodes = (sum(-(-len(content) // 4096) for content in before.values()), 1 + len(before))
    first, last = (pages, 2 * pages + 1) if unit == "pages" else (inodes, inodes + 3)
    options = [f"size={4 * n}k" if unit == "pages" else f"nr_inodes={n}" for n in range(first, last + 1)]
    found = [build_on_a_small_disk(root, image, option) for option in options]
    assert all(content == (before if status else new) for status, content in found)
    assert found[0][0] == 1
    assert found[-1][0] == 0


# --- several at once ---------------------------------------------------------------------------------------------


# Each keeps the lock for a third of a second and more, so that they stand in each other's way.
SLOWLY = ["strace", "-f", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=100ms"]


def test_builds_at_the_same_time_leave_one_whole_image(root: Root) -> None:
    programs.need("strace")
    image = old(root)
    running = [start_slowly(root, f"capture.deadline_s={10 + number}") for number in range(32 if IS_FULL else 6)]
    for process in running[::3]:
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
    for process in running:
        _, stderr = process.communicate(timeout=60)
        assert process.returncode in (0, 1, -signal.SIGKILL), stderr
        assert (process.returncode == 1) == (f"{image.parent}: another build is writing there" in stderr), stderr
    assert pair_at(image) is not None
    assert_private(image)
    build(root)
    assert sorted(contents(image.parent)) == [image.name, f"{image.name}.json"]


def start_slowly(root: Root, setting: str) -> subprocess.Popen[str]:
    words = [*SLOWLY, *command.words("build", "-q", "--root", root.directory, "--set", setting)]
    return subprocess.Popen(words, env=command.environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)
