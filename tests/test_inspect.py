"""`inspect`, run as a process: what an image holds, images that are compared and taken apart, and hostile ones."""

import json
import os
import stat
from pathlib import Path

import pytest

from kdump_initramfs.formats import cpio
from tests import command, trees

RELEASE = "6.1.0-35-amd64"


def test_listing_has_a_line_for_every_entry(built: tuple[Path, Path]) -> None:
    machine, image = built
    lines = command.run("inspect", str(image)).stdout.splitlines()
    assert "crw------- " in next(line for line in lines if line.endswith("/dev/console"))
    assert next(line for line in lines if "/usr/bin/sh " in line).endswith(" -> /usr/bin/busybox")
    plan = [line for line in command.run("plan", "--root", str(machine)).stdout.splitlines() if line]
    assert len(lines) == len(plan) + 1  # the manifest


def test_one_file_of_an_image_is_printed(built: tuple[Path, Path]) -> None:
    _, image = built
    lines = command.run("inspect", str(image), "/etc/kdump/modules").stdout.splitlines()
    assert lines[-1] == f"/lib/modules/{RELEASE}/ext4.ko"


def test_manifest_inside_is_printed_as_it_is_beside(built: tuple[Path, Path]) -> None:
    _, image = built
    inside = json.loads(command.run("inspect", "--manifest", str(image)).stdout)
    assert inside == json.loads(Path(f"{image}.json").read_text())["manifest"]


def test_two_images_are_compared(built: tuple[Path, Path], tmp_path: Path) -> None:
    machine, image = built
    other = tmp_path / "other.img"
    assert command.run("inspect", str(image), "--diff", str(image)).stdout == "no differences\n"
    trees.make("elf /usr/sbin/lvm needed=libc.so.6 interp=/lib64/ld-linux-x86-64.so.2", machine)
    assert command.run("build", "--root", str(machine), "-o", str(other), "--set", "capture.cpus=2").returncode == 0
    lines = command.run("inspect", str(image), "--diff", str(other)).stdout.splitlines()
    assert "- /usr/lib/x86_64-linux-gnu/libdevmapper.so.1.02.1" in lines
    assert any(line.startswith("~ /usr/sbin/lvm (") for line in lines)
    assert any(line.startswith("~ /etc/kdump/manifest.json (") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["/etc/nothing"], "has no /etc/nothing"),
        (["--diff", "/no/such.img"], "/no/such.img: No such file or directory"),
    ],
)
def test_what_an_image_lacks_is_named(arguments: list[str], problem: str, built: tuple[Path, Path]) -> None:
    said, _ = command.complaint(command.run("inspect", str(built[1]), *arguments))
    assert problem in said


def test_image_is_extracted_as_the_kernel_would_unpack_it(built: tuple[Path, Path], tmp_path: Path) -> None:
    _, image = built
    place = tmp_path / "unpacked"
    assert command.run("inspect", str(image), "--extract", str(place)).returncode == 0
    assert os.access(place / "init", os.X_OK)
    assert (place / "usr/bin/sh").readlink() == Path("/usr/bin/busybox")
    assert stat.S_IMODE((place / "etc/kdump/settings").stat().st_mode) == 0o600
    said, _ = command.complaint(command.run("inspect", str(image), "--extract", str(place)))
    assert said == f"{place}: is not empty"


LEADING_OUT: dict[str, list[tuple[str, int, bytes]]] = {
    "two dots": [("../marker", stat.S_IFREG | 0o644, b"x")],
    "two dots further in": [("etc", stat.S_IFDIR | 0o755, b""), ("etc/../../marker", stat.S_IFREG | 0o644, b"x")],
    "a link to the outside": [("link", stat.S_IFLNK | 0o777, b".."), ("link/marker", stat.S_IFREG | 0o644, b"x")],
    "a link in place of the file": [
        ("file", stat.S_IFLNK | 0o777, b"../marker"),
        ("file", stat.S_IFREG | 0o644, b"x"),
    ],
    "a directory through a link": [("link", stat.S_IFLNK | 0o777, b".."), ("link/marker", stat.S_IFDIR | 0o755, b"")],
    "a directory that is a link": [("link", stat.S_IFLNK | 0o777, b"../target"), ("link", stat.S_IFDIR | 0o777, b"")],
}


@pytest.mark.parametrize("members", LEADING_OUT.values(), ids=LEADING_OUT.keys())
def test_hostile_archive_does_not_lead_out_of_the_directory(
    members: list[tuple[str, int, bytes]], tmp_path: Path
) -> None:
    image = tmp_path / "hostile.img"
    with open(image, "wb") as stream:
        writer = cpio.Writer(stream.write)
        for name, mode, data in members:
            writer.add(name, mode, data)
        writer.finish()
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    result = command.run("inspect", str(image), "--extract", str(tmp_path / "place"))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "marker").exists()
    assert stat.S_IMODE(target.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", [b"", b"x" * 200, b"\x28\xb5\x2f\xfd broken", b"\x1f\x8b broken"])
def test_file_that_is_no_image_is_one_line(content: bytes, tmp_path: Path) -> None:
    image = tmp_path / "broken.img"
    image.write_bytes(content)
    result = command.run("inspect", str(image))
    assert result.returncode == 1
    assert result.stdout == ""
    assert len([line for line in result.stderr.splitlines() if "hint:" not in line]) == 1
