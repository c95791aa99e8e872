"""Every path that a command line takes, where what is there is of the wrong kind, or nothing: one line names it."""

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from kdump_initramfs import cli
from kdump_initramfs.commands import paths
from kdump_initramfs.errors import HostError, ImageError
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import inspect
from tests import command, trees


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


MAKERS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.with_name("nothing"),
    "below what is missing": lambda path: path.with_name("nothing"),
    "directory": lambda path: path.mkdir(),
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("some text\n"),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 20),
    "pipe": os.mkfifo,
    "socket": socket_at,
    "loop": lambda path: path.symlink_to(path),
    "dangling": lambda path: path.symlink_to("nothing"),
    "below a file": lambda path: path.write_text("some text\n"),
    "device": lambda path: path.symlink_to("/dev/null"),
}
BELOW = ("below a file", "below what is missing")
FILES = ("empty", "text", "garbage")
NO_FILES = ("directory", "pipe", "socket", "loop", "below a file", "device")
NOTHING = ("missing", "below what is missing", "dangling")

# Where @ stands for the path, and ROOT for a machine; and what is right there.
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    **{
        verb: (f"{verb} --root @", ("directory",))
        for verb in (
            *(
                "probe",
                "plan",
                "build",
                "check",
                "estimate",
                "status",
                "load",
                "unload",
                "emit sh",
                "enable",
                "disable",
            ),
            *("rehearse", "dumps list", "dumps show", "dumps recover"),
        )
    },
    "--config": ("probe --root ROOT --config @", ("empty",)),
    "--facts": ("probe --root ROOT --facts @", ()),
    "plan --facts": ("plan --root ROOT --facts @", ()),
    "build --output": ("build --root ROOT -o @", (*FILES, "missing", "dangling")),
    "inspect": ("inspect @", ()),
    "inspect --manifest": ("inspect --manifest @", ()),
    "inspect PATH": ("inspect @ /init", ()),
    "--diff": ("inspect IMAGE --diff @", ()),
    "--extract": ("inspect IMAGE --extract @", ("directory", "missing", "below what is missing")),
    "load --image": ("load --print --root ROOT --image @", ()),
    "emit --image": ("emit sh --root ROOT --image @", ()),
    "rehearse --image": ("rehearse --root ROOT --image @", ()),
    "--keep": ("rehearse --root ROOT --image IMAGE --keep @", NOTHING),
    "list --dir": ("dumps list --dir @", ("directory", "missing", "below what is missing")),
    "show --dir": ("dumps show --dir @", ("directory",)),
    "decrypt --dir": ("dumps decrypt --identity IMAGE --dir @", ("directory",)),
    "--identity": ("dumps decrypt --dir DIRECTORY --identity @", ("text", "garbage")),
    "decrypt --to": ("dumps decrypt --dir DIRECTORY --identity IMAGE --to @", ("directory",)),
    "recover": ("dumps recover @", FILES),
    "recover --to": ("dumps recover IMAGE --to @", ("directory",)),
}
WRONG = [(name, kind) for name, (_, right) in CASES.items() for kind in MAKERS if kind not in right]


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """Whoever opens a pipe waits for ever."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the root of a machine, and an image of it."""
    base = tmp_path_factory.mktemp("machine")
    trees.unpack("debian-lvm-ext4", base / "root")
    image = str(base / "image")
    assert cli.main(["build", "-q", "--root", str(base / "root"), "-o", image]) == 0
    return str(base / "root"), image


@pytest.mark.parametrize(("name", "kind"), WRONG)
def test_a_wrong_path_is_named_in_one_line(
    name: str, kind: str, built: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "given"
    MAKERS[kind](path)
    given = str(path / "below" if kind in BELOW else path)
    directory = tmp_path / "empty directory"
    directory.mkdir()
    words = {"@": given, "ROOT": built[0], "IMAGE": built[1], "DIRECTORY": str(directory)}
    before = sorted(tmp_path.iterdir())
    status = cli.main([words.get(word, word) for word in CASES[name][0].split()])
    said = capsys.readouterr()
    assert status == 1
    assert said.out == ""
    problem, hint = said.err.splitlines()
    assert problem.startswith(f"{command.PREFIX}{path}")
    assert hint.startswith(f"{command.PREFIX}  hint: ")
    # Nothing was made, and nothing replaced.
    assert sorted(tmp_path.iterdir()) == before
    assert path.is_symlink() == (kind in ("loop", "dangling", "device"))


@pytest.mark.parametrize("look", [paths.directory, paths.file, paths.image])
def test_a_path_that_may_not_be_entered_is_named(look: Callable[[str, str], None], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    tmp_path.chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(HostError, match=rf"^{re.escape(str(tmp_path))}/image: Permission denied$"):
            look(f"{tmp_path}/image", "hint")
    finally:
        os.seteuid(0)


def test_no_root_is_not_the_current_directory(capsys: pytest.CaptureFixture[str]) -> None:
    """As a variable that is not set gives it."""
    assert cli.main(["status", "--root", ""]) == 1
    assert "'': No such file or directory" in capsys.readouterr().err


def test_several_wrong_paths_are_named_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dumps", "list", "--root", "/nowhere", "--dir", "/dev/null", "--dir", "/dev/zero"]) == 1
    said = capsys.readouterr().err
    assert all(path in said for path in ("/nowhere: No such file", "/dev/null: a char", "/dev/zero: a char"))


def test_a_missing_directory_of_dumps_is_no_silence(capsys: pytest.CaptureFixture[str]) -> None:
    """It has no dumps, which is no failure; a dump of it cannot be shown."""
    assert cli.main(["dumps", "list", "--dir", "/no/such"]) == 0
    assert f"{command.PREFIX}/no/such: No such file or directory\n" in capsys.readouterr().err
    assert cli.main(["dumps", "show", "--dir", "/no/such"]) == 1
    assert f"{command.PREFIX}/no/such: No such file or directory\n" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["directory", "missing"])
def test_directory_without_dumps_is_said_to_be_so(
    kind: str, built: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    crash = Path(built[0], "var/crash")
    if kind == "missing":
        crash.rmdir()
    assert cli.main(["dumps", "list", "--root", built[0]]) == 0
    crash.mkdir(exist_ok=True)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"{command.PREFIX}no dumps in {crash}\n")


@pytest.mark.parametrize("kind", [*MAKERS])
def test_no_kernel_s_installation_fails_by_a_path(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "given"
    MAKERS[kind](path)
    assert cli.main(["kernel-hook", "add", "6.1.0", "--root", str(path)]) == 0
    if kind != "directory":
        assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"x", b"\x1f\x8b", b"\x28\xb5\x2f\xfd" + bytes(50), b"070701" + b"g" * 104])
def test_what_is_no_image_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        list(inspect.members(str(path)))
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).count(str(path)) == 1
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["pipe", "socket", "directory"])
def test_no_image_replaces_what_is_no_file(kind: str, host_root: Callable[[str], Root]) -> None:
    """image.output is a path of the machine."""
    root = host_root("debian-lvm-ext4")
    place = Path(root.directory, "image")
    MAKERS[kind](place)
    mode = place.lstat().st_mode
    problem, _ = command.complaint(command.run("build", "--root", root.directory, "--set", "image.output=/image"))
    assert problem == f"{place}: exists, and is not a regular file"
    assert place.lstat().st_mode == mode
