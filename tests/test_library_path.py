"""Libraries that the dynamic linker knows from /etc/ld.so.conf alone: the image has no ld.so.cache to find them by."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_initramfs import build, config
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import Text
from tests import capture, programs
from tests.capture import Environment

# A program with a library beside the C library, which every Debian has.
PROGRAM, LIBRARY = "setpriv", "libcap-ng.so.0"
BUSYBOX = "/bin/busybox"


def needs_of(program: str) -> dict[str, str]:
    """Return name -> path of what a program of this machine is linked with, its linker included."""
    said = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    return {os.path.basename(path): path for path in re.findall(r"(/\S+) \(0x", said)}


def settings(root: Root) -> str:
    plan = build.plan(root, config.load(root=root.directory))
    return next(entry.content for entry in plan.entries if isinstance(entry, Text) and entry.path.endswith("/settings"))


def configure(root: Root, text: str) -> None:
    Path(root.directory, "etc/ld.so.conf").write_text(text)


@pytest.mark.parametrize(
    ("conf", "parts"),
    [
        ("/opt/elfutils/lib\n", {}),
        ("include ld.so.conf.d/*.conf\n", {"elf.conf": "# theirs\n/opt/elfutils/lib\n"}),
        ("include /etc/ld.so.conf.d/a*.conf\n/nowhere\n", {"a.conf": "/opt/elfutils/lib", "b.conf": "/opt/other\n"}),
        ("  /opt/elfutils/lib/  # the vendor's\n/opt/other\n", {}),
    ],
)
def test_its_directory_is_searched_in_the_image(
    conf: str, parts: dict[str, str], host_root: Callable[[str], Root]
) -> None:
    root = host_root("nvme-partition-ext4")
    configure(root, conf)
    directory = Path(root.directory, "etc/ld.so.conf.d")
    directory.mkdir()
    for name, text in parts.items():
        (directory / name).write_text(text)
    assert "export LD_LIBRARY_PATH=/opt/elfutils/lib\n" in settings(root)


def test_where_the_linker_finds_all_by_itself_nothing_is_set(host_root: Callable[[str], Root]) -> None:
    root = host_root("nvme-partition-ext4")
    configure(root, "")
    Path(root.directory, "opt/elfutils/lib/libelf.so.1").rename(Path(root.directory, "usr/lib/libelf.so.1"))
    assert "LD_LIBRARY_PATH" not in settings(root)


@pytest.mark.skipif(not capture.can_enter(), reason="needs root, and namespaces")
def test_a_program_starts_in_the_image_with_a_library_of_ld_so_conf(
    host_root: Callable[[str], Root], tmp_path: Path
) -> None:
    programs.need(PROGRAM, "ldd", "busybox")
    root = host_root("nvme-partition-ext4")
    tree = Path(root.directory)
    needed = needs_of(shutil.which(PROGRAM) or "")
    places = {path: path for name, path in needed.items() if name != LIBRARY}
    places |= {needed[LIBRARY]: f"/opt/vendor/lib/{LIBRARY}", shutil.which(PROGRAM) or "": f"/usr/bin/{PROGRAM}"}
    places[shutil.which("busybox") or ""] = BUSYBOX
    for source, inside in places.items():
        place = tree / inside.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        shutil.copy(source, place)
    # Of the multiarch places the fake linker of this tree knew nothing; the real one does.
    configure(root, "/opt/elfutils/lib\n/opt/vendor/lib\n")
    output = tmp_path / "capture.img"
    words = [f'image.extra_binaries=["{PROGRAM}"]', "image.compression=none"]
    build.build(root, config.load(root=root.directory, overrides=words), output=str(output))
    environment = Environment.unpack(output, tmp_path / "image")
    environment.write(capture.LOG, "")
    started = f"/usr/bin/{PROGRAM} --version"
    assert environment.shell(started).output.startswith(f"{PROGRAM} ")
    assert LIBRARY in environment.shell(f"unset LD_LIBRARY_PATH; {started}").output
