"""Where files go in the image, and the texts in it: links, settings and their quoting."""

import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdump_initramfs import config, resources
from kdump_initramfs.errors import HookError, HostError, ImageError, KdumpError
from kdump_initramfs.host import probe
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import layout, render, scripts
from kdump_initramfs.model import (
    BuildOnly,
    Dir,
    Entry,
    File,
    HookRun,
    HostFacts,
    Link,
    Saver,
    StorageLayer,
    TargetDriver,
    Text,
)

Make = Callable[[Mapping[str, str | bytes | Path]], Root]

# --- paths -------------------------------------------------------------------------------------------------------

SBIN = {"/sbin": "usr/sbin", "/usr/sbin": "bin"}
MERGED = {"/lib": "usr/lib", "/bin": "usr/bin", "/usr/bin/": "", "/usr/lib/": ""}


@pytest.mark.parametrize(
    ("links", "path", "canonical", "made"),
    [
        ({}, "/lib/libc.so.6", "/lib/libc.so.6", {}),
        (MERGED, "/lib/libc.so.6", "/usr/lib/libc.so.6", {"/lib": "usr/lib"}),
        (MERGED, "/usr/lib/libc.so.6", "/usr/lib/libc.so.6", {}),
        (MERGED, "/lib", "/lib", {}),
        ({"/a": "/b/c", "/b": "d"}, "/a/x", "/d/c/x", {"/a": "/b/c", "/b": "d"}),
        (SBIN, "/sbin/lvm", "/usr/bin/lvm", SBIN),
        ({"/usr/lib64": "../lib"}, "/usr/lib64/ld.so", "/lib/ld.so", {"/usr/lib64": "../lib"}),
        ({"/dangling": "nowhere"}, "/dangling/x", "/nowhere/x", {"/dangling": "nowhere"}),
    ],
)  # fmt: skip
def test_path_is_kept_by_making_the_hosts_links_again(
    links: Mapping[str, str], path: str, canonical: str, made: Mapping[str, str], sysroot: Make
) -> None:
    root = sysroot({name: Path(target) if target else "" for name, target in links.items()})
    found, found_links = layout.canonical(root, path)
    assert found == canonical
    assert {link.path: link.target for link in found_links} == made


def test_loop_of_links_is_an_error(sysroot: Make) -> None:
    root = sysroot({"/a": Path("b"), "/b": Path("a")})
    with pytest.raises(HostError, match="too many levels of symbolic links"):
        layout.canonical(root, "/a/x")


def test_entries_get_their_parents_and_are_sorted(sysroot: Make) -> None:
    root = sysroot({"/lib": Path("usr/lib")})
    entries: list[Entry] = [
        Text(path="/lib/a/b", content=""),
        Dir(path="/usr", mode=0o700),
        Text(path="/a-b", content=""),
    ]
    assert [(entry.path, type(entry)) for entry in layout.arrange(root, [*entries, Text(path="/a/c", content="")])] == [
        ("/a", Dir),
        ("/a/c", Text),
        ("/a-b", Text),
        ("/lib", Link),
        ("/usr", Dir),
        ("/usr/lib", Dir),
        ("/usr/lib/a", Dir),
        ("/usr/lib/a/b", Text),
    ]


def test_same_file_for_two_reasons_is_there_once(sysroot: Make) -> None:
    one = File(path="/bin/x", source="/bin/x", reason="one")
    assert len(layout.arrange(sysroot({}), [one, File(path="/bin/x", source="/bin/x", reason="two")])) == 2


def test_two_files_for_one_path_are_an_error_with_both_reasons(sysroot: Make) -> None:
    entries = [Text(path="/x", content="a", reason="one"), Text(path="/x", content="b", reason="two")]
    with pytest.raises(ImageError, match="/x: two different files for one path") as caught:
        layout.arrange(sysroot({}), entries)
    assert "one" in str(caught.value.hint)
    assert "two" in str(caught.value.hint)


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.fixture
def host(host_root: Callable[[str], Root]) -> HostFacts:
    return probe.read(host_root("two-targets"), config.Config())


def hook(tmp_path: Path, text: str, **values: Any) -> HookRun:
    """Return a hook that saves, with a capture side of this text."""
    script = tmp_path / "10-test.sh"
    script.write_text(text)
    return HookRun(name="10-test", script=str(script), contribution=Saver(**values))


LIBRARY = {
    name: "x"
    for text in (Path(resources.directory("templates")) / file for file in scripts.LIBRARY)
    for name in scripts.used_settings(text.read_text())
}


def rest(host: HostFacts) -> tuple[HookRun, HookRun]:
    """Return hooks that provide and drive all that the host needs."""
    provider = HookRun(name="05-provide", script="", contribution=StorageLayer(provides=("vda1", "vda")))
    return provider, HookRun(name="06-drive", script="", contribution=TargetDriver(drives={host.targets[0]: {}}))


def entries(host: HostFacts, *runs: HookRun) -> dict[str, str]:
    return {entry.path: entry.content for entry in scripts.entries(host, runs, LIBRARY) if isinstance(entry, Text)}


def test_setting_that_nobody_declares_fails_naming_script_and_setting(host: HostFacts, tmp_path: Path) -> None:
    run = hook(tmp_path, 'echo "$KDUMP_MISSING ${KDUMP_ABSENT:-}"\n# $KDUMP_COMMENT\n')
    with pytest.raises(HookError) as caught:
        entries(host, *rest(host), run)
    assert str(caught.value) == f"{run.script}: reads KDUMP_ABSENT, KDUMP_MISSING, which nobody declares"


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("echo $KDUMP_A", {"settings": {"KDUMP_A": "x"}}),
        ("echo $KDUMP_A", {"target_settings": {"KDUMP_A": "x"}}),
        ("KDUMP_A=1\necho $KDUMP_A", {}),
        ("echo $KDUMP_LOG $KDUMP_TARGET_NAME", {}),
    ],
)
def test_setting_may_be_declared_by_anybody(
    text: str, settings: dict[str, dict[str, str]], host: HostFacts, tmp_path: Path
) -> None:
    values: dict[str, Any] = dict(settings)
    if "target_settings" in settings:
        values["target_settings"] = {host.targets[0]: settings["target_settings"]}
    entries(host, *rest(host), hook(tmp_path, text, **values))


@pytest.mark.parametrize(
    ("name", "value"), [("LOG", "x"), ("KDUMP_a", "x"), ("KDUMP_A;id", "x"), ("KDUMP_A", "a\nb"), ("KDUMP_A", "a\0b")]
)
def test_setting_that_is_no_setting_is_refused(name: str, value: str, host: HostFacts, tmp_path: Path) -> None:
    with pytest.raises(HookError, match=name[:7]):
        entries(host, *rest(host), hook(tmp_path, "", settings={name: value}))


def test_layer_that_no_hook_provides_is_named(host: HostFacts, tmp_path: Path) -> None:
    _, driver = rest(host)
    provider = HookRun(name="10-test", script="", contribution=StorageLayer(provides=("vda1",)))
    with pytest.raises(HostError, match="/var/crash: stands on vda, a device of kind disk that no hook provides"):
        entries(host, provider, driver)


@pytest.mark.parametrize("drivers", [0, 2])
def test_target_needs_exactly_one_driver(drivers: int, host: HostFacts, tmp_path: Path) -> None:
    provider, driver = rest(host)
    with pytest.raises(HookError, match="/var/crash: not driven by exactly one hook"):
        entries(host, provider, *[driver] * drivers)


def test_everything_that_is_wrong_is_told_together(host: HostFacts, tmp_path: Path) -> None:
    run = HookRun(name="10-test", script="", contribution=BuildOnly(settings={"BAD": "x"}))
    with pytest.raises(KdumpError) as caught:
        entries(host, run)
    assert len(str(caught.value).splitlines()) == 4


def test_script_that_is_no_text_is_named(host: HostFacts, tmp_path: Path) -> None:
    run = hook(tmp_path, "")
    Path(run.script).write_bytes(b"\xff\xfe")
    with pytest.raises(HookError, match=r"10-test\.sh: "):
        entries(host, run)


HOSTILE = [
    "$(touch /tmp/p)",
    "`id`",
    ";id;#",
    "'",
    "a'b\"c",
    "\\",
    "\\n",
    "*",
    "~",
    "-rf",
    "",
    " ",
    "a  b",
    "$HOME",
    "${x}",
    "!",
    "é\u202e😀",
    "\t",
    "\r",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "x" * 4096,
]


def said_by_shell(settings: str, name: str) -> str:
    """Return a setting as a child of the shell that reads the settings finds it."""
    command = ["sh", "-euc", f'. "$1"; sh -c \'printf %s. "${name}"\'', "sh", "/dev/stdin"]
    return subprocess.run(command, input=settings.encode(), capture_output=True, check=True).stdout.decode()[:-1]


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_value_survives_a_real_shell(value: str, host: HostFacts, tmp_path: Path) -> None:
    made = entries(host, *rest(host), hook(tmp_path, "", settings={"KDUMP_A": value}))
    assert said_by_shell(made["/etc/kdump/settings"], "KDUMP_A") == value


def test_every_single_character_survives_a_real_shell() -> None:
    value = "".join(chr(code) for code in range(1, 0x180) if chr(code) != "\n")
    text = render.render("settings.sh.j2", settings=[("KDUMP_A", value)])
    assert said_by_shell(text, "KDUMP_A") == value


@given(st.text(alphabet=st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]), max_size=30))
def test_quoting_is_undone_by_splitting(value: str) -> None:
    text = render.render("settings.sh.j2", settings=[("KDUMP_A", value)])
    assert shlex.split(text) == ["export", f"KDUMP_A={value}"]
