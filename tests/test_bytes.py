"""Names, serial numbers and directories in any bytes: they work, or are refused in one line; no terminal obeys them."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from kdump_initramfs import cli, config
from kdump_initramfs.formats import plaintext
from kdump_initramfs.host import mounts, probe
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import inspect, record
from kdump_initramfs.loader import staleness
from tests import command

# What a name may be made of besides letters.
BYTES = {
    "latin-1": b"caf\xe9 \xfcber",
    "binary": bytes(range(0x80, 0x100)),
    "escape": b"a\x1b[2J\x1b]0;title\x07b",
    "C1": b"a\xc2\x9b2Jb\x9b3J",
    "carriage return": b"good\rbad",
    "UTF-8": "naïve 日本".encode(),
    "broken UTF-8": b"a\xe2\x82b\xff\xfe",
    "right to left": "a\u202eb".encode(),
    "quotes": b'it\'s "$(reboot)" `x` \\x41 %s {0}',
}
# Control characters other than the end of a line.
OBEYED = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]")
VIRTIO = "sys/devices/pci0000:00/0000:00:04.0/virtio1/block/vda"

Capture = pytest.CaptureFixture[bytes]


class Place(msgspec.Struct, frozen=True):
    """Where on a fake machine a name may stand: its file, and what is in it around the name."""

    host: str
    path: str
    template: bytes = b"@\n"


PLACES = {
    "serial number of a virtio disk": Place("debian-lvm-ext4", f"{VIRTIO}/serial"),
    "WWN": Place("debian-lvm-ext4", f"{VIRTIO}/wwid"),
    "name of a mapping": Place("debian-lvm-ext4", "sys/devices/virtual/block/dm-1/dm/name"),
    "host name": Place("debian-lvm-ext4", "etc/hostname"),
    "name in the kernel": Place("gentoo-openrc", "proc/sys/kernel/hostname"),
    "command line": Place("debian-lvm-ext4", "proc/cmdline", b"root=/dev/vda1 label=@ quiet\n"),
    "crypttab": Place("lvm-on-luks", "etc/crypttab", b"@ UUID=00000000-0000-4000-8000-000000000000 none luks\n"),
    "source of a mount": Place(
        "debian-lvm-ext4",
        "proc/self/mountinfo",
        b"28 1 254:1 / / rw,relatime - ext4 /dev/@ rw\n96 28 253:1 / /var/crash rw - ext4 /dev/mapper/@ rw\n",
    ),
    "directory of a mount": Place(
        "debian-lvm-ext4",
        "proc/self/mountinfo",
        b"28 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n96 28 253:1 /@ /var/crash rw - ext4 /dev/mapper/x rw\n",
    ),
    "file behind a loop device": Place(
        "loop-file", "sys/devices/virtual/block/loop0/loop/backing_file", b"/srv/images/@\n"
    ),
}
VERBS = ("probe", "probe --json", "plan -v", "plan --json", "build --json", "check", "check --json")


def said(words: Sequence[str], capture: Capture) -> tuple[int, bytes]:
    """Run the tool and return its status and what it says, once nothing is wrong with that."""
    capture.readouterr()
    status = cli.main(words)
    out, err = capture.readouterr()
    for stream in (out, err):
        stream.decode()
        assert not OBEYED.search(stream), (words, stream)
    if status == 1:
        assert err.startswith(command.PREFIX.encode())
        # What probe has found is for a bug report, whether it can be built for or not.
        assert out == b"" or "probe" in words
    return status, out


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_any_name_works_or_is_refused_in_a_line(
    place: Place, name: str, host_root: Callable[[str], Root], tmp_path: Path, capfdbinary: Capture
) -> None:
    root = host_root(place.host).directory
    path = Path(root, place.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(place.template.replace(b"@", BYTES[name]))
    image = str(tmp_path / "image")
    states = {}
    for verb in VERBS:
        output = ["-o", image] if verb.startswith("build") else []
        states[verb], out = said([*verb.split(), "--root", root, *output], capfdbinary)
        if "--json" in verb and out:
            json.loads(out)
    assert states["plan -v"] == states["build --json"] == states["plan --json"]
    if states["build --json"] == 0:
        assert said(["inspect", image], capfdbinary)[0] == said(["inspect", "--manifest", image], capfdbinary)[0] == 0
        described = record.read(image)
        assert inspect.manifest(image) == described.manifest
        # The same facts, read again, are no reason to build anew.
        known = described.basis
        assert known is not None
        assert probe.read(Root(root), config.load(root=root)).hostname == known.host.hostname
        assert staleness.reasons(Root(root), config.load(root=root), described) == ()


@pytest.mark.parametrize("name", BYTES)
def test_facts_of_another_machine_keep_every_byte(
    name: str, host_root: Callable[[str], Root], tmp_path: Path, capfdbinary: Capture
) -> None:
    root = host_root("debian-lvm-ext4").directory
    Path(root, VIRTIO, "serial").write_bytes(BYTES[name])
    Path(root, "proc/cmdline").write_bytes(b"root=/dev/vda1 label=" + BYTES[name])
    _, out = said(["probe", "--json", "--root", root], capfdbinary)
    (tmp_path / "facts").write_bytes(out)
    assert probe.load_facts(str(tmp_path / "facts")) == probe.read(Root(root), config.load(root=root))
    assert said(["plan", "--root", root, "--facts", str(tmp_path / "facts")], capfdbinary)[0] == 0


@pytest.mark.parametrize("name", [*BYTES, "newline"])
def test_a_directory_arrives_as_it_is_or_is_refused(
    name: str, host_root: Callable[[str], Root], tmp_path: Path, capfdbinary: Capture
) -> None:
    raw = {**BYTES, "newline": b"a\nb"}[name]
    root = host_root("debian-lvm-ext4").directory
    os.mkdir(os.path.join(os.fsencode(root), b"var/crash", raw), 0o700)
    configured = f"target=[{{kind='path', path={json.dumps('/var/crash/' + os.fsdecode(raw), ensure_ascii=False)}}}]"
    image = str(tmp_path / "image")
    status, _ = said(["build", "--root", root, "--set", configured, "-o", image], capfdbinary)
    if status == 0:
        (content,) = (member.data for member in inspect.members(image) if member.name == "etc/kdump/targets/0")
        assert shell_value(content, "KDUMP_DIRECTORY") == raw
    # The record of the dump, which is JSON, has the name as it is.
    assert (status == 0) == (name in ("UTF-8", "right to left", "quotes"))


def shell_value(script: bytes, name: str) -> bytes:
    """Return what a shell makes of a setting."""
    ended = subprocess.run(
        ["sh", "-c", script + b'\nprintf %s "$' + name.encode() + b'"'], capture_output=True, check=True, timeout=10
    )
    return ended.stdout


# --- the rule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"plain", "plain"),
        (b"\xff", r"\xff"),
        (b"a\xe9b", r"a\xe9b"),
        (b"a\tb", "a\tb"),
        (b"a\nb", r"a\x0ab"),
        (b"\x1b[0m", r"\x1b[0m"),
        (b"\xc2\x9b0m", r"\xc2\x9b0m"),
        ("\u202e".encode(), r"\xe2\x80\xae"),
        ("\u00e9 \u2013".encode(), "\u00e9 \u2013"),
    ],
)
def test_what_a_person_sees(raw: bytes, expected: str) -> None:
    assert plaintext.shown(raw.decode("utf-8", "surrogateescape")) == expected


@pytest.mark.parametrize("raw", BYTES.values(), ids=BYTES.keys())
def test_json_keeps_every_byte(raw: bytes) -> None:
    value = {"name": raw.decode("utf-8", "surrogateescape")}
    assert plaintext.decode(plaintext.encode(value), dict[str, str]) == value
    assert plaintext.decode(plaintext.indented(value), dict[str, str]) == value
    assert json.loads(plaintext.indented(value)) == value


@pytest.mark.parametrize("broken", [b"", b"{", b'"\\ud8', b'{"a": "\\udcff"', b'["\\udcff"]', b"\xff"])
def test_what_is_no_json_of_a_kind_is_an_error(broken: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        plaintext.decode(broken, dict[str, str])


@pytest.mark.parametrize(
    "place", ["/a\rb", "/a\x0bb", "/a\x0cb", "/a\x1eb", "/a\x85b", "/a\u2028b", "/a\udcffb", "/a\u00a0b"]
)
def test_a_line_of_mountinfo_ends_where_the_kernel_ends_it(place: str) -> None:
    """It escapes space, tab, newline, backslash and # there, and nothing else (mangle() of fs/proc_namespace.c)."""
    (found,) = mounts.parse(f"28 1 254:1 / {place} rw,relatime - ext4 /dev/vda1 rw\n")
    assert found.mount_point == place
