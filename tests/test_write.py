"""Writing an image: the same bytes each time, for nobody else to read, and the old image or the new one, never less."""

import fcntl
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_initramfs import build as spine
from kdump_initramfs import config
from kdump_initramfs.errors import HostError, ImageError
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import inspect, record, write
from kdump_initramfs.model import Dir, Entry, File, Link, Module, Node, Plan, Text
from tests import command, programs, trees


@pytest.fixture
def root(host_root: Callable[[str], Root]) -> Root:
    return host_root("debian-lvm-ext4")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return where an image goes; its directory is there and empty."""
    directory = tmp_path / "out"
    directory.mkdir()
    return directory / "crash.img"


@pytest.fixture
def old(root: Root, output: Path) -> Path:
    """Return an image that was built with another setting."""
    spine.build(root, config.load(overrides=["capture.deadline_s=7"]), output=str(output))
    return output


def plan_of(root: Root) -> Plan:
    return spine.plan(root, config.Config())


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


# --- the same bytes ----------------------------------------------------------------------------------------------

# A clock that stands in 1970: Python imports this module by itself.
FROZEN_CLOCK = "import time\ntime.time = lambda: 0.0\ntime.time_ns = lambda: 0\n"


def test_same_inputs_give_the_same_bytes_whoever_builds_wherever_and_whenever(
    root: Root, output: Path, tmp_path: Path
) -> None:
    images = [build_elsewhere(root, output, umask="022", cwd=command.PROJECT, LANG="C")]
    reverse_directories(root, tmp_path)
    (tmp_path / "sitecustomize.py").write_text(FROZEN_CLOCK)
    odd = {"TZ": "Pacific/Kiritimati", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "1", "HOME": "/no/such"}
    images.append(build_elsewhere(root, output, umask="000", cwd=tmp_path, **odd))
    images.append(
        build_elsewhere(
            root, output, umask="077", cwd=Path("/"), PYTHONHASHSEED="2", PYTHONPATH=f"{tmp_path}:{command.PROJECT}"
        )
    )
    assert [hashlib.sha256(image).hexdigest() for image in images] == [hashlib.sha256(images[0]).hexdigest()] * 3


def build_elsewhere(root: Root, output: Path, *, umask: str, cwd: Path, **variables: str) -> bytes:
    """Build in a process of its own and return the image; everything may differ but the machine."""
    before = ["sh", "-c", f'umask {umask} && exec "$@"', "sh"]
    arguments = ["build", "--root", root.directory, "-o", str(output)]
    result = command.run(*arguments, cwd=cwd, env=command.environment(**variables), before=before)
    assert result.returncode == 0, result.stderr
    return output.read_bytes() + Path(record.path_of(str(output))).read_bytes()


def reverse_directories(root: Root, place: Path) -> None:
    """Make all files of the machine again in the reverse order, as of another time."""
    aside = place / "aside"
    os.rename(root.directory, aside)
    for directory, _, files in os.walk(aside):
        new = Path(root.directory) / os.path.relpath(directory, aside)
        new.mkdir(parents=True, exist_ok=True)
        for name in sorted(files, reverse=True):
            shutil.copy2(Path(directory) / name, new / name, follow_symlinks=False)
            os.utime(new / name, (1, 1), follow_symlinks=False)
    links = [Path(directory) / name for directory, names, _ in os.walk(aside) for name in names]
    for link in sorted((link for link in links if link.is_symlink()), reverse=True):
        (Path(root.directory) / link.relative_to(aside)).symlink_to(link.readlink())


# --- what is in it -----------------------------------------------------------------------------------------------


def test_archive_holds_what_the_plan_says(root: Root, output: Path) -> None:
    plan = plan_of(root)
    write.write(plan, root, str(output))
    members = {f"/{member.name}": member for member in inspect.members(str(output))}
    for entry in plan.entries:
        member = members[entry.path]
        assert (member.mode, member.data, member.device) == expected(entry), entry
        assert (member.uid, member.gid, member.mtime_s) == (0, 0, 0)
    assert set(members) == {entry.path for entry in plan.entries} | {f"/{write.MANIFEST_PATH}"}


def expected(entry: Entry) -> tuple[int, bytes, tuple[int, int]]:
    match entry:
        case Dir():
            return stat.S_IFDIR | entry.mode, b"", (0, 0)
        case Text():
            return stat.S_IFREG | entry.mode, entry.content.encode(), (0, 0)
        case Link():
            return stat.S_IFLNK | 0o777, entry.target.encode(), (0, 0)
        case Node():
            return stat.S_IFCHR | entry.mode, b"", (entry.major, entry.minor)
        case File() | Module():
            return stat.S_IFREG | entry.mode, Path(entry.source).read_bytes(), (0, 0)


def test_entries_come_after_their_directories(root: Root, output: Path) -> None:
    write.write(plan_of(root), root, str(output))
    seen = {""}
    for member in inspect.members(str(output)):
        assert os.path.dirname(member.name) in seen
        seen.add(member.name)


def test_packed_modules_are_stored_unpacked(host_root: Callable[[str], Root], output: Path) -> None:
    fedora = host_root("fedora-lvm-xfs")
    spine.build(fedora, config.Config(), output=str(output))
    modules = [member for member in inspect.members(str(output)) if member.name.endswith(".ko")]
    assert len(modules) == 5
    assert all(member.data.startswith(b"\x7fELF") for member in modules)


def test_record_describes_the_image_and_carries_the_manifest_inside(root: Root, output: Path) -> None:
    written = write.write(plan_of(root), root, str(output))
    image = output.read_bytes()
    inside = inspect.extract(str(output), write.MANIFEST_PATH)
    assert record.read(str(output)) == written
    assert (written.image, written.image_bytes) == ("crash.img", len(image))
    assert written.image_sha256 == hashlib.sha256(image).hexdigest()
    assert written.digest == hashlib.sha256(inside).hexdigest()
    assert record.to_json(written.manifest) == inside
    assert written.unpacked_bytes % 512 == 0


def test_manifest_names_every_file_of_the_host_with_its_digest(root: Root, output: Path) -> None:
    plan = plan_of(root)
    inputs = write.write(plan, root, str(output)).manifest.inputs
    sources = [entry.source for entry in plan.entries if isinstance(entry, File | Module)]
    assert [found.sha256 for found in inputs] == [
        hashlib.sha256(Path(source).read_bytes()).hexdigest() for source in sources
    ]


# --- for nobody else to read -------------------------------------------------------------------------------------


def test_image_is_never_readable_by_others_not_even_under_umask_0(root: Root, output: Path, tmp_path: Path) -> None:
    programs.need("strace")
    log = tmp_path / "strace"
    before = ["sh", "-c", 'umask 000 && exec "$@"', "sh"]
    before += [
        "strace",
        "-f",
        "-y",
        "-o",
        str(log),
        "-e",
        "trace=openat,open,creat,mkdir,mkdirat,chmod,fchmod,fchmodat",
    ]
    result = command.run("build", "--root", root.directory, "-o", str(output), before=before)
    assert result.returncode == 0, result.stderr
    created = re.findall(
        rf'open\w*\(.*"{re.escape(str(output.parent))}/[^"]*", [^,]*O_CREAT[^,]*, (0\d+)', log.read_text()
    )
    assert len(created) == 2
    assert created == ["0600"] * 2
    changed = re.findall(rf"fchmod\(\d+<{re.escape(str(output.parent))}/[^>]*>, (0\d+)\)", log.read_text())
    assert set(changed) <= {"0600"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in output.parent.iterdir()} == {0o600}


def test_record_is_not_written_through_a_link(root: Root, output: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    Path(record.next_path_of(str(output))).symlink_to(victim)
    Path(record.path_of(str(output))).symlink_to(victim)
    write.write(plan_of(root), root, str(output))
    assert victim.read_text() == "untouched"
    assert not Path(record.path_of(str(output))).is_symlink()


def test_file_beside_an_image_is_not_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        record.write_beside(str(tmp_path / "link"), b"x")
    assert not (tmp_path / "victim").exists()


def test_image_replaces_a_link_and_not_what_it_points_to(root: Root, output: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    output.symlink_to(victim)
    write.write(plan_of(root), root, str(output))
    assert not output.is_symlink()
    assert victim.read_text() == "untouched"


# --- the old image or the new one --------------------------------------------------------------------------------


def test_vanished_source_is_named_and_leaves_the_old_image(root: Root, old: Path) -> None:
    plan = plan_of(root)
    before = contents(old.parent)
    os.unlink(root.host("/usr/bin/makedumpfile"))
    with pytest.raises(HostError, match=r"/usr/bin/makedumpfile: No such file or directory"):
        write.write(plan, root, str(old))
    assert contents(old.parent) == before


def test_missing_output_directory_is_named(root: Root, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such directory") as caught:
        write.write(plan_of(root), root, str(tmp_path / "missing" / "x.img"))
    assert caught.value.hint == f"create it: mkdir -m 0700 -p {tmp_path}/missing"


def test_second_build_says_that_there_is_another(root: Root, old: Path) -> None:
    before = contents(old.parent)
    descriptor = os.open(old.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # the weakest lock, so that a build must ask for the strongest
        said, hint = command.complaint(command.run("build", "--root", root.directory, "-o", str(old)))
    finally:
        os.close(descriptor)
    assert said == f"{old.parent}: another build is writing there"
    assert hint == "wait for it, then try again"
    assert contents(old.parent) == before


def test_what_a_killed_build_left_is_gone_after_the_next(root: Root, output: Path) -> None:
    (output.parent / ".crash.img.abc123.partial").write_bytes(b"half an image")
    (output.parent / ".other.img.abc123.partial").write_bytes(b"not ours")
    write.write(plan_of(root), root, str(output))
    assert sorted(contents(output.parent)) == [".other.img.abc123.partial", "crash.img", "crash.img.json"]


def test_every_prefix_of_a_replacement_leaves_a_pair_that_fits(root: Root, old: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh" / "crash.img"
    fresh.parent.mkdir()
    write.write(plan_of(root), root, str(fresh))
    image, after = str(old), str(fresh)
    earlier = record.read(image)
    steps: list[Callable[[], object]] = [
        lambda: Path(record.next_path_of(image)).write_bytes(b""),
        lambda: Path(record.next_path_of(image)).write_bytes(b'{"schema": 1, "tool":'),
        lambda: shutil.copy(record.path_of(after), record.next_path_of(image)),
        lambda: os.rename(after, image),
        lambda: os.rename(record.next_path_of(image), record.path_of(image)),
    ]
    found = []
    for step in steps:
        step()
        found.append(record.read(image).image_sha256)
    later = record.read(image).image_sha256
    assert later != earlier.image_sha256
    assert found == [earlier.image_sha256] * 3 + [later] * 2


def test_reader_who_is_overtaken_by_a_build_looks_again(root: Root, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hash_file, plans = record.sha256_of, [plan_of(root)]

    def hash_and_be_overtaken(path: str) -> str:
        digest = hash_file(path)
        while plans:
            write.write(plans.pop(), root, str(old))
        return digest

    monkeypatch.setattr(record, "sha256_of", hash_and_be_overtaken)
    found = record.read(str(old))
    assert found.image_sha256 == hashlib.sha256(old.read_bytes()).hexdigest()


def test_reader_looks_for_a_record_where_a_build_has_just_put_it(
    root: Root, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = Path(record.path_of(str(old))).read_bytes()
    later = write.write(plan_of(root), root, str(old))
    following = record.next_path_of(str(old))
    os.rename(record.path_of(str(old)), following)
    Path(record.path_of(str(old))).write_bytes(earlier)

    def renamed(image: str) -> str:
        if os.path.exists(following):
            os.rename(following, record.path_of(image))
        return following

    monkeypatch.setattr(record, "next_path_of", renamed)
    assert record.read(str(old)) == later


def test_record_of_a_replacement_that_cannot_be_read_is_left_alone(root: Root, old: Path) -> None:
    following = Path(record.next_path_of(str(old)))
    following.symlink_to(following)
    with pytest.raises(ImageError, match=r"\.json\.next: Too many levels of symbolic links"):
        write.write(plan_of(root), root, str(old))
    assert following.is_symlink()


def test_image_without_a_fitting_record_is_not_accepted(old: Path) -> None:
    Path(record.path_of(str(old))).unlink()
    with pytest.raises(ImageError, match="so nothing is known of the image"):
        record.read(str(old))


def test_record_that_is_no_json_is_named(old: Path) -> None:
    Path(record.path_of(str(old))).write_text("{")
    with pytest.raises(ImageError, match=r"crash\.img\.json: "):
        record.read(str(old))


def test_compressions_that_a_kernel_may_need_all_give_the_same_archive(root: Root, output: Path) -> None:
    archives = set()
    for kind in ("zstd", "gzip", "xz", "none"):
        spine.build(root, config.load(overrides=[f"image.compression={kind}"]), output=str(output))
        archives.add(tuple(inspect.members(str(output))))
    assert len(archives) == 1


def test_trees_are_made_alike(root: Root, tmp_path: Path) -> None:
    """Guard the fixture: a second copy of a fake machine gives the same decisions."""
    trees.unpack("debian-lvm-ext4", tmp_path / "again")
    again = Root(str(tmp_path / "again"))
    assert [entry.path for entry in plan_of(again).entries] == [entry.path for entry in plan_of(root).entries]
