"""Fixtures: roots of machines that exist as files only."""

from collections.abc import Callable, Mapping
from pathlib import Path

import hypothesis
import pytest

from kdump_initramfs import build as spine
from kdump_initramfs import config
from kdump_initramfs.host.root import Root
from tests import command, saving, trees
from tests.capture import Environment

Content = str | bytes | Path

# A busy machine is no failure.
hypothesis.settings.register_profile("kdump", deadline=None)
hypothesis.settings.load_profile("kdump")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew from what the code does now")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # One that begins last of all would keep one processor busy, and the other idle.
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture
def sysroot(tmp_path: Path) -> Callable[[Mapping[str, Content]], Root]:
    """Return a function that writes path -> text, bytes or link (a Path) below a new root; "PATH/" is a directory."""

    def make(files: Mapping[str, Content]) -> Root:
        base = tmp_path / "root"
        base.mkdir(exist_ok=True)
        for path, content in files.items():
            _write(base / path.lstrip("/"), content, is_directory=path.endswith("/"))
        return Root(str(base))

    return make


def _write(place: Path, content: Content, *, is_directory: bool) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if is_directory:
        place.mkdir(exist_ok=True)
    elif isinstance(content, Path):
        place.symlink_to(content)
    else:
        place.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def host_root(tmp_path: Path) -> Callable[[str], Root]:
    """Return a function that unpacks the fake machine of a name and returns its root."""

    def make(name: str) -> Root:
        base = tmp_path / name
        trees.unpack(name, base)
        return Root(str(base))

    return make


@pytest.fixture
def machine(host_root: Callable[[str], Root]) -> Root:
    """Return a machine whose dumps go to ext4 on LVM."""
    return host_root("debian-lvm-ext4")


@pytest.fixture
def image(machine: Root, tmp_path: Path) -> str:
    """Return an image for that machine."""
    path = str(tmp_path / "it's an image.img")
    spine.build(machine, config.Config(), output=path)
    return path


@pytest.fixture
def built(host_root: Callable[[str], Root], tmp_path: Path) -> tuple[Path, Path]:
    """Return a machine and an image that was built for it."""
    machine = host_root("debian-lvm-ext4")
    image = tmp_path / "crash.img"
    result = command.run("build", "--root", machine.directory, "-o", str(image), "-q")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    return Path(machine.directory), image


@pytest.fixture(scope="session")
def unpacked_image(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return saving.unpack(tmp_path_factory.mktemp("image"))


@pytest.fixture
def environment(unpacked_image: Environment, tmp_path: Path) -> Environment:
    """Return an environment with a vmcore, in which every hook but the target's succeeds."""
    return saving.prepare(unpacked_image, tmp_path / "root")


@pytest.fixture
def opened(environment: Environment) -> Environment:
    """Return an environment whose target is open: a directory of the chroot itself."""
    return saving.open_target(environment)
