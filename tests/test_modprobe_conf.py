"""The configuration of modprobe: which files count, and that we read them as modprobe does."""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import modprobe_conf as conf
from kdump_initramfs.formats.modprobe_conf import ModuleSettings, SoftDependency
from kdump_initramfs.host import modprobe_conf
from kdump_initramfs.host.root import Root

Make = Callable[[Mapping[str, str | bytes | Path]], Root]

LINES = """\
# options a comment=1
options a x=1
  options\ta-b\tx=1 \ty="2  3"
options a \\
    z=3
options
options a
blacklist a-b
blacklist\tc
install d /bin/false
install e /bin/true
install f /sbin/modprobe --ignore-install f; echo $CMDLINE_OPTS
alias net-pf-10 off-by-one
alias pci:v0000[0-9]d* a-b
softdep a pre: b-c d post: e
softdep a pre: f
remove a /bin/true
include elsewhere
options g x=#1 # not a comment
#blacklist h
"""


def parse(text: str) -> ModuleSettings:
    return conf.parse([("/etc/modprobe.d/x.conf", text)])


def test_what_lines_mean() -> None:
    found = parse(LINES)
    assert found == ModuleSettings(
        options=(("a", "x=1"), ("a_b", 'x=1  y="2  3"'), ("a", "z=3"), ("g", "x=#1 # not a comment")),
        blacklist=("a_b", "c"),
        disabled=(("d", "/etc/modprobe.d/x.conf"), ("e", "/etc/modprobe.d/x.conf")),
        aliases=(("net_pf_10", "off_by_one"), ("pci:v0000[0-9]d*", "a_b")),
        softdeps=(
            SoftDependency(module="a", pre=("b-c", "d"), post=("e",)),
            SoftDependency(module="a", pre=("f",)),
        ),
    )


@pytest.mark.parametrize(
    ("command", "disables"),
    [
        *((command, True) for command in ("/bin/false", "/bin/true", "/usr/bin/true", "true", "false", ":", "exit 1")),
        *((command, True) for command in ("/sbin/nologin", "/dev/null", "exit", "/usr/sbin/nologin")),
        *(
            (command, True)
            for command in ("/bin/false # CIS 1.1.1", "/bin/true;", "/bin/true $CMDLINE_OPTS", "exit 1; #")
        ),
        *((command, True) for command in ("/bin/true >/dev/null 2>&1", "/bin/false\t# no", "true #; modprobe x")),
        *(
            (command, False)
            for command in ("true && modprobe x", "true $(modprobe x)", "false || modprobe x", "true&x")
        ),
        *(
            (command, False)
            for command in ("", "/sbin/modprobe -i x", "/bin/true; modprobe -i x", "/bin/truex", "sh x")
        ),
    ],
)
def test_which_commands_load_nothing(command: str, disables: bool) -> None:  # noqa: FBT001
    assert bool(parse(f"install x {command}").disabled) is disables


@pytest.mark.parametrize("target", ["off", "null"])
def test_an_alias_to_nothing_disables(target: str) -> None:
    assert parse(f"alias x-y {target}").disabled == (("x_y", "/etc/modprobe.d/x.conf"),)


@pytest.mark.skipif(shutil.which("modprobe") is None, reason="modprobe is not installed")
def test_it_is_read_as_modprobe_reads_it(tmp_path: Path) -> None:
    (tmp_path / "x.conf").write_text(LINES)
    command = ["modprobe", "-C", str(tmp_path), "-d", str(tmp_path), "-S", "none", "--showconfig"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [line.split(None, 2) for line in said.splitlines() if line and not line.startswith("#")]
    found = parse(LINES)

    def shown(command: str) -> list[tuple[str, str]]:
        return sorted((words[1], " ".join(words[2:])) for words in lines if words[0] == command)

    ours = {(name, words) for name, words in found.options}
    # That of the machine that runs the tests has a command line, and so has modprobe.
    assert ours <= set(shown("options"))
    assert {name for name, _ in shown("options")} >= {"a", "a_b", "g"}
    assert shown("blacklist") == [(name, "") for name in found.blacklist]
    assert shown("install") == [(name, command) for name, command in INSTALLS]
    assert sorted(found.aliases) == shown("alias")
    assert len(shown("softdep")) == len(found.softdeps)


INSTALLS = [("d", "/bin/false"), ("e", "/bin/true"), ("f", "/sbin/modprobe --ignore-install f; echo $CMDLINE_OPTS")]


# --- which files ------------------------------------------------------------------------------------------------------


def options(root: Root) -> str:
    return " ".join(words for _, words in modprobe_conf.read(root).options)


def test_files_are_read_by_their_name_wherever_they_are(sysroot: Make) -> None:
    root = sysroot(
        {
            "/etc/modprobe.d/50-b.conf": "options x two=2",
            "/usr/lib/modprobe.d/10-a.conf": "options x one=1",
            "/run/modprobe.d/60-c.conf": "options x three=3",
            "/usr/local/lib/modprobe.d/70-d.conf": "options x four=4",
            "/lib/modprobe.d/80-e.conf": "options x five=5",
        }
    )
    assert options(root) == "one=1 two=2 three=3 four=4 five=5"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/etc", "/run"),
        ("/run", "/usr/local/lib"),
        ("/usr/local/lib", "/usr/lib"),
        ("/usr/lib", "/lib"),
        ("/etc", "/lib"),
    ],
)
def test_of_one_name_the_first_counts(first: str, second: str, sysroot: Make) -> None:
    files = {f"{first}/modprobe.d/a.conf": "options x one=1", f"{second}/modprobe.d/a.conf": "options x two=2"}
    assert options(sysroot(files)) == "one=1"


def test_where_lib_is_usr_lib_each_counts_once(sysroot: Make) -> None:
    root = sysroot({"/usr/lib/modprobe.d/a.conf": "options x one=1", "/lib": Path("usr/lib")})
    assert options(root) == "one=1"


@pytest.mark.parametrize("mask", ["", Path("/dev/null"), Path("gone.conf")])
def test_a_file_can_mask_another(mask: str | Path, sysroot: Make) -> None:
    root = sysroot({"/usr/lib/modprobe.d/a.conf": "options x one=1", "/etc/modprobe.d/a.conf": mask})
    assert options(root) == ""


@pytest.mark.parametrize("name", ["a.conf~", "a.conf.dpkg-old", ".a.conf", "a", "README", "a.conf.bak"])
def test_what_has_another_name_does_not_count(name: str, sysroot: Make) -> None:
    assert options(sysroot({f"/etc/modprobe.d/{name}": "options x one=1"})) == ""


def test_what_is_no_text_is_named(sysroot: Make) -> None:
    root = sysroot({"/etc/modprobe.d/a.conf": b"# caf\xe9\noptions x y=caf\xe9\n"})
    with pytest.raises(HostError, match=r"^/etc/modprobe\.d/a\.conf: options x y=caf\\udce9: is not UTF-8$"):
        modprobe_conf.read(root)


def test_a_directory_is_no_file(sysroot: Make) -> None:
    assert options(sysroot({"/etc/modprobe.d/a.conf/": "", "/etc/modprobe.d/b.conf": "options x one=1"})) == "one=1"


def test_a_loop_of_links_is_named(sysroot: Make) -> None:
    with pytest.raises(HostError, match=r"^/etc/modprobe\.d/a\.conf: too many levels of symbolic links"):
        modprobe_conf.read(sysroot({"/etc/modprobe.d/a.conf": Path("a.conf")}))


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        (["ro", "modprobe.blacklist=a,b-c", "modprobe.blacklist=d"], ("a", "b-c", "d")),
        (['modprobe.blacklist="a,b"', '"modprobe.blacklist=c"'], ("a", "b", "c")),
        (["modprobe.blacklist=", "modprobe.blacklist", "modprobe.blacklist=,a,"], ("a",)),
        (["module_blacklist=a", "xmodprobe.blacklist=a"], ()),
    ],
)
def test_the_command_line_blacklists(cmdline: list[str], expected: tuple[str, ...]) -> None:
    assert modprobe_conf.blacklisted(cmdline) == expected
