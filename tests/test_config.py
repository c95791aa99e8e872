"""The configuration: how sources merge, how a mistake is named, and what hostile files come to."""

import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs import config
from kdump_initramfs.config import Config, DiskTarget, PathTarget
from kdump_initramfs.errors import ConfigError, SeveralProblemsError
from kdump_initramfs.host.root import Root

Make = Callable[[Mapping[str, str | bytes | Path]], Root]


def load_text(tmp_path: Path, content: str | bytes) -> Config:
    file = tmp_path / "x.toml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return config.load(file=str(file))


# --- merging -----------------------------------------------------------------------------------------------------


def test_without_any_configuration_the_target_is_var_crash(sysroot: Make) -> None:
    found = config.load(root=sysroot({}).directory)
    assert found == Config()
    assert found.targets == (PathTarget(path="/var/crash"),)


def test_sources_are_read_in_their_order_and_the_later_wins(sysroot: Make) -> None:
    root = sysroot(
        {
            "/usr/lib/kdump-initramfs/conf.d/10-vendor.toml": "capture = {deadline_s = 10, device_timeout_s = 1}",
            "/etc/kdump-initramfs/config.toml": "capture.cpus = 2\nvmcore.dump_level = 2\nimage.extra_modules = ['a']",
            "/etc/kdump-initramfs/conf.d/20-late.toml": "capture.deadline_s = 30\nimage.extra_modules = ['c']",
            "/etc/kdump-initramfs/conf.d/10-early.toml": "capture.deadline_s = 20\nimage.extra_modules = ['b']",
        }
    )
    found = config.load(root=root.directory, overrides=["vmcore.dump_level=4", "image.extra_modules=['d']"])
    assert (found.capture.cpus, found.capture.deadline_s, found.capture.device_timeout_s) == (2, 30, 1)
    assert found.vmcore.dump_level == 4
    assert found.image.extra_modules == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("lower", "upper", "merged"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": [1]}, {"a": [2]}, {"a": [1, 2]}),
        ({"a": [1]}, {"a": []}, {"a": []}),
        ({"a": []}, {"a": [1]}, {"a": [1]}),
        ({"a": [1]}, {"a": 2}, {"a": 2}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"t": [{"k": 1}]}, {"t": [{"k": 2}]}, {"t": [{"k": 1}, {"k": 2}]}),
    ],
)
def test_tables_merge_arrays_append_and_an_empty_array_resets(
    lower: dict[str, Any], upper: dict[str, Any], merged: dict[str, Any]
) -> None:
    assert config.merge(lower, upper) == merged


def test_named_file_is_read_alone(sysroot: Make, tmp_path: Path) -> None:
    root = sysroot({"/etc/kdump-initramfs/config.toml": "capture.cpus = 2"})
    (tmp_path / "x.toml").write_text("capture.deadline_s = 5")
    found = config.load(root=root.directory, file=str(tmp_path / "x.toml"))
    assert (found.capture.cpus, found.capture.deadline_s) == (1, 5)


def test_only_toml_files_of_a_dropin_directory_are_read(sysroot: Make) -> None:
    place = "/etc/kdump-initramfs/conf.d"
    names = ["x.toml~", ".x.toml", "x.toml.dpkg-new", "x.conf", "README", "x.toml.rpmsave"]
    root = sysroot({f"{place}/{name}": "this is no TOML" for name in names})
    assert config.load(root=root.directory) == Config()


def test_many_dropins_are_read_in_good_time(sysroot: Make) -> None:
    root = sysroot({f"/etc/kdump-initramfs/conf.d/{number:04}.toml": "" for number in range(2000)})
    start = time.monotonic()
    config.load(root=root.directory)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_dropin_that_is_no_file_is_named(kind: str, sysroot: Make) -> None:
    root = sysroot({"/etc/kdump-initramfs/conf.d/": ""})
    place = f"{root.directory}/etc/kdump-initramfs/conf.d/x.toml"
    if kind == "directory":
        os.mkdir(place)
    else:
        os.mkfifo(place)
    with pytest.raises(ConfigError, match=r"conf\.d/x\.toml: "):
        config.load(root=root.directory)


def test_dangling_main_file_is_an_error_and_not_the_defaults(sysroot: Make) -> None:
    root = sysroot({"/etc/kdump-initramfs/config.toml": Path("nowhere.toml")})
    with pytest.raises(ConfigError, match="No such file or directory"):
        config.load(root=root.directory)


def test_mistakes_of_all_files_are_told_together_each_with_its_file(sysroot: Make) -> None:
    root = sysroot(
        {
            "/etc/kdump-initramfs/config.toml": "capture.cpus = 0",
            "/etc/kdump-initramfs/conf.d/x.toml": "capture.cpu = 1",
        }
    )
    with pytest.raises(SeveralProblemsError) as caught:
        config.load(root=root.directory, overrides=["vmcore.dump_level=99"])
    said = [str(error) for error in caught.value.errors]
    assert said[0].startswith(f"{root.directory}/etc/kdump-initramfs/config.toml: capture.cpus: ")
    assert said[1] == f"{root.directory}/etc/kdump-initramfs/conf.d/x.toml: capture.cpu: unknown key"
    assert said[2].startswith("--set vmcore.dump_level=99: vmcore.dump_level: ")


def test_targets_are_an_ordered_list(tmp_path: Path) -> None:
    text = '[[target]]\nkind = "disk"\ndevice = "UUID=AB-12"\n[[target]]\nkind = "path"\npath = "/srv"\n'
    assert load_text(tmp_path, text).targets == (DiskTarget(device="UUID=AB-12"), PathTarget(path="/srv"))


# --- mistakes ----------------------------------------------------------------------------------------------------

UNKNOWN = {
    "vmcore.dumplevel": "vmcore.dump_level",
    "vmcore.dump_levl": "vmcore.dump_level",
    "captur.cpus": "capture",
    "capture.deadline": "capture.deadline_s",
    "image.extra_binary": "image.extra_binaries",
    "kexec.sycall": "kexec.syscall",
    "targets": "target",
}


@pytest.mark.parametrize(("key", "meant"), UNKNOWN.items())
def test_unknown_key_is_answered_with_the_one_that_was_meant(key: str, meant: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key") as caught:
        load_text(tmp_path, f"{key} = 1")
    assert f"did you mean {meant}?" == caught.value.hint


def test_unknown_key_of_a_target_is_answered_with_the_one_that_was_meant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, '[[target]]\nkind = "path"\npaht = "/srv"')
    assert re.search(r"x\.toml: target\[(0|\.\.\.)\]\.paht: unknown key$", str(caught.value))
    assert caught.value.hint == "did you mean target.path?"


def test_key_that_is_like_no_other_is_answered_with_all_of_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, "zzzzzz = 1")
    assert "capture.cpus" in str(caught.value.hint)


BAD_VALUES = [
    ("image.output", "1", "an absolute path"),
    ("image.output", '"var/crash.img"', "an absolute path"),
    ("image.output", '""', "an absolute path"),
    ("image.output", '"-rf"', "an absolute path"),
    ("image.output", r'"/a\u0000b"', "an absolute path"),
    ("image.output", r'"/a\nb"', "an absolute path"),
    ("image.compression", '"lz4"', "one of auto, zstd, gzip, xz, none"),
    ("image.extra_binaries", '"gdb"', None),
    ("image.extra_binaries", "[1]", None),
    ("image.extra_files", '["etc/hosts"]', "an absolute path"),
    ("kernel.image", '"vmlinuz"', "an absolute path"),
    ("kernel.append", '[""]', "a word of a kernel command line"),
    ("kernel.append", r'["a\nb"]', "a word of a kernel command line"),
    ("kernel.remove", r'["a\u0000"]', "a word of a kernel command line"),
    ("kexec.syscall", '"kexec"', "one of auto, file, load"),
    ("capture.deadline_s", "0", "a whole number, 1 or more"),
    ("capture.deadline_s", "-1", "a whole number, 1 or more"),
    ("capture.deadline_s", "1.5", "a whole number, 1 or more"),
    ("capture.deadline_s", "inf", "a whole number, 1 or more"),
    ("capture.deadline_s", "nan", "a whole number, 1 or more"),
    ("capture.deadline_s", '"600"', "a whole number, 1 or more"),
    ("capture.deadline_s", "true", "a whole number, 1 or more"),
    ("capture.cpus", "0", "a whole number, 1 or more"),
    ("capture.final_action", '"sleep"', "one of reboot, poweroff, halt, shell"),
    ("vmcore.collector", '"dd"', "one of auto, makedumpfile, copy, dmesg"),
    ("vmcore.dump_level", "32", "a whole number from 0 to 31"),
    ("vmcore.dump_level", "-1", "a whole number from 0 to 31"),
    ("vmcore.dump_level", "1e3", "a whole number from 0 to 31"),
    ("vmcore.dump_level", '"٣١"', "a whole number from 0 to 31"),
    ("vmcore.dump_level", "9" * 4000, None),
    ("vmcore.compression", '"zstd -22;id"', "one of auto, none, lzo, snappy, zlib, zstd, gzip"),
    ("target", '[{kind="path", path="relative"}]', "an absolute path"),
    ("target", '[{kind="disk", device="UUID=../../sda"}]', "or a path below /dev"),
    ("target", '[{kind="disk", device="UUID="}]', "or a path below /dev"),
    ("target", '[{kind="disk", device="UUID=*"}]', "or a path below /dev"),
    ("target", '[{kind="disk", device="/etc/passwd"}]', "or a path below /dev"),
    ("target", '[{kind="disk"}]', None),
    ("target", '[{kind="floppy"}]', "one of path, disk"),
    ("target", '{kind="path"}', None),
]


@pytest.mark.parametrize(("key", "value", "expected"), BAD_VALUES)
def test_bad_value_is_named_with_file_and_key_and_what_it_should_be(
    key: str, value: str, expected: str | None, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, f"{key} = {value}")
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/x.toml: ")
    assert "\n" not in said
    if len(value) < 1000:
        assert f"x.toml: {key}" in said
    if expected:
        assert expected in str(caught.value.hint)


@pytest.mark.parametrize("value", ["0x1f", "0b1_1111", "3_1", "31"])
def test_numbers_are_those_of_toml(value: str, tmp_path: Path) -> None:
    assert load_text(tmp_path, f"vmcore.dump_level = {value}").vmcore.dump_level == 31


# --- hostile files -----------------------------------------------------------------------------------------------

HARMLESS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "/var/lib/kdump-initramfs/initrd-{kernel}.img"),
    "only comments": (b"# nothing\n  # here\n", "/var/lib/kdump-initramfs/initrd-{kernel}.img"),
    "no final newline": (b'image.output = "/x"', "/x"),
    "carriage returns": (b'[image]\r\noutput = "/x"\r\n', "/x"),
    "key with trailing blanks": (b'image.output \t = "/x" \t\n', "/x"),
    "hash inside quotes": (b'image.output = "/a#b" # c', "/a#b"),
    "interpolation of other formats": (b'image.output = "/%(home)s/${HOME}/%d"', "/%(home)s/${HOME}/%d"),
    "command substitution": (b'image.output = "/$(touch /tmp/p)`id`;#"', "/$(touch /tmp/p)`id`;#"),
    "quotes": (b"image.output = '/a\"b\"'", '/a"b"'),
}


@pytest.mark.parametrize(("content", "output"), HARMLESS.values(), ids=HARMLESS.keys())
def test_odd_file_means_what_it_says_and_nothing_is_interpreted(content: bytes, output: str, tmp_path: Path) -> None:
    assert load_text(tmp_path, content).image.output == output


HOSTILE = {
    "byte order mark": b'\xef\xbb\xbfimage.output = "/x"',
    "UTF-16": 'image.output = "/x"'.encode("utf-16"),
    "Latin-1": b'image.output = "/caf\xe9"',
    "NUL": b'image.output = "/x\0y"',
    "key twice": b'image.output = "/x"\nimage.output = "/y"',
    "table twice": b'[image]\noutput = "/x"\n[image]\n',
    "no-break space behind a key": 'image.output\u00a0= "/x"'.encode(),
    "open quote": b'image.output = "/x',
    "two values": b'image.output = "/a" "/b"',
    "line break in a value": b'image.output = "/a\nb"',
    "one long line": b'image.output = "/' + b"x" * (2 << 20) + b'"',
    "very many lines": b"\n" * (2 << 20),
    "deep nesting": b"image.output = " + b"[" * 20000,
    "deeply nested tables": b"a." * 2000 + b"b = 1",
    "a number of many digits": b"vmcore.dump_level = " + b"9" * 100_000,
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_file_is_one_line_that_names_it_at_once(content: bytes, tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path}/x.toml: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("place", ["/dev/zero", "/proc/self/mem", "/", "/dev/null/x"])
def test_what_is_no_configuration_file_is_refused(place: str) -> None:
    with pytest.raises(ConfigError):
        config.load(file=place)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_one_kind_of_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(content)
    try:
        config.load(file=str(file))
    except (ConfigError, SeveralProblemsError) as error:
        assert str(file) in str(error)  # noqa: PT017 - both outcomes are right


# --- --set -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "section", "key", "value"),
    [
        ("capture.cpus=2", "capture", "cpus", 2),
        ("capture.cpus = 2", "capture", "cpus", 2),
        ("kernel.version=6.1.0-56-amd64", "kernel", "version", "6.1.0-56-amd64"),
        ('kernel.version="6.1"', "kernel", "version", "6.1"),
        ("image.compression=xz", "image", "compression", "xz"),
        ("image.output=/x=y", "image", "output", "/x=y"),
        ("image.extra_modules=['a', 'b']", "image", "extra_modules", ("a", "b")),
        ("kernel.append=['x=\"a b\"']", "kernel", "append", ('x="a b"',)),
        ("kernel.version=", "kernel", "version", ""),
    ],
)
def test_set_is_read_as_toml_and_else_as_text(word: str, section: str, key: str, value: object) -> None:
    assert getattr(getattr(config.load(root="/no/such/root", overrides=[word]), section), key) == value


def test_set_of_a_value_that_smuggles_a_second_key_is_plain_text() -> None:
    found = config.load(root="/no/such/root", overrides=["kernel.version=1\nimage = 2"])
    assert found.kernel.version == "1\nimage = 2"


@pytest.mark.parametrize("word", ["", "capture.cpus", "=1", ".cpus=1", "capture..cpus=1", "a b=1", "capture.=1", "é=1"])
def test_set_that_is_not_key_and_value_is_named(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(root="/no/such/root", overrides=[word])
    assert str(caught.value) == f"--set {word}: not KEY=VALUE"
    assert "for example" in str(caught.value.hint)


def test_set_of_deep_nonsense_is_one_error() -> None:
    with pytest.raises(ConfigError):
        config.load(root="/no/such/root", overrides=[f"capture.cpus={'[' * 20000}"])


@given(st.text(max_size=60))
def test_any_set_word_is_a_configuration_or_one_kind_of_error(word: str) -> None:
    try:
        config.load(root="/no/such/root", overrides=[word])
    except ConfigError as error:
        assert str(error).startswith("--set ")  # noqa: PT017 - both outcomes are right


def test_every_key_of_the_schema_is_known() -> None:
    known = config.known_keys()
    assert {"image.output", "target.device", "target.path", "target.kind", "vmcore.dump_level"} <= set(known)
