"""Arming at boot: what `enable` puts where for each init system, and that it is undone; nothing else is touched."""

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from kdump_initramfs import resources
from kdump_initramfs.errors import HostError, SeveralProblemsError
from kdump_initramfs.host.root import Root
from kdump_initramfs.loader import enable
from kdump_initramfs.loader.pieces import FOLLOWERS, OPENRC, SYSTEMD, SYSV
from tests import command, programs

CONTRIB = command.PROJECT / "contrib"
UNIT = "/etc/systemd/system/kdump-initramfs.service"
WANTED = "/etc/systemd/system/sysinit.target.wants/kdump-initramfs.service"
SCRIPT = "/etc/init.d/kdump-initramfs"

PROGRAM = {"/usr/sbin/kdump-initramfs": "#!/bin/sh\n"}
SYSTEMD_ROOT: Mapping[str, str | Path] = {
    **PROGRAM,
    "/sbin/init": Path("../lib/systemd/systemd"),
    "/lib/systemd/systemd": "",
    "/etc/systemd/system/": "",
}
OPENRC_ROOT: Mapping[str, str | Path] = {
    **PROGRAM,
    "/sbin/init": "",
    "/sbin/openrc-run": "",
    "/etc/runlevels/boot/": "",
    "/etc/init.d/": "",
}
SYSV_ROOT: Mapping[str, str | Path] = {**PROGRAM, "/sbin/init": "", "/etc/init.d/": "", "/etc/rcS.d/": ""}
ROOTS = {"systemd": SYSTEMD_ROOT, "OpenRC": OPENRC_ROOT, "sysvinit": SYSV_ROOT}

Make = Callable[[Mapping[str, str | Path]], Root]


def tree(root: Root) -> dict[str, str]:
    """Return every file of a root with its content, links with their targets."""
    base = Path(root.directory)
    places = (path for path in base.rglob("*") if path.is_symlink() or path.is_file())
    return {
        f"/{path.relative_to(base)}": f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text()
        for path in places
    }


# --- which init system -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (SYSTEMD_ROOT, SYSTEMD),
        (OPENRC_ROOT, OPENRC),
        (SYSV_ROOT, SYSV),
        # Both are installed: what /sbin/init is decides, and where systemd runs, that does.
        ({**SYSTEMD_ROOT, **OPENRC_ROOT}, OPENRC),
        ({**OPENRC_ROOT, **SYSTEMD_ROOT}, SYSTEMD),
        ({**SYSTEMD_ROOT, **OPENRC_ROOT, "/run/systemd/system/": ""}, SYSTEMD),
        # A root without init, as container images have it; Debian's systemd keeps the directories of sysvinit.
        ({"/usr/lib/systemd/systemd": "", "/etc/init.d/": "", "/etc/rcS.d/": ""}, SYSTEMD),
    ],
    ids=["systemd", "OpenRC", "sysvinit", "both, OpenRC", "both, systemd", "systemd runs", "no init"],
)
def test_init_system_is_known_by_its_files(files: Mapping[str, str | Path], expected: object, sysroot: Make) -> None:
    assert enable.init_system(sysroot(files)) is expected


def test_an_unknown_init_system_gets_the_way_by_hand(sysroot: Make) -> None:
    with pytest.raises(HostError, match="neither systemd nor OpenRC nor sysvinit") as caught:
        enable.enable(sysroot({**PROGRAM, "/sbin/init": ""}))
    assert "emit sh" in str(caught.value.hint)


# --- enable and disable ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file", "mode", "link", "target"),
    [
        ("systemd", UNIT, 0o644, WANTED, UNIT),
        ("OpenRC", SCRIPT, 0o755, "/etc/runlevels/boot/kdump-initramfs", SCRIPT),
        ("sysvinit", SCRIPT, 0o755, "/etc/rcS.d/S99kdump-initramfs", SCRIPT),
    ],
)
def test_enable_writes_a_file_and_a_link_and_disable_removes_both(
    name: str, file: str, mode: int, link: str, target: str, sysroot: Make
) -> None:
    root = sysroot(ROOTS[name])
    before = tree(root)
    assert not enable.is_enabled(root)
    assert enable.enable(root) == [file, link]
    assert enable.is_enabled(root)
    assert os.stat(root.directory + file).st_mode & 0o777 == mode
    assert os.readlink(root.directory + link) == target
    source = next(each.piece.source for each in (SYSTEMD, OPENRC, SYSV) if each.name == name)
    assert (root.read_text(file) or "").startswith(resources.read("contrib", source))
    after = tree(root)
    assert enable.enable(root) == []
    assert tree(root) == after
    assert sorted(enable.disable(root)) == sorted([file, link])
    assert tree(root) == before
    assert enable.disable(root) == []


def test_hooks_are_installed_where_their_framework_is(sysroot: Make) -> None:
    frameworks = {
        f"{directory}/": ""
        for directory in (
            "/usr/lib/udev/rules.d",
            "/usr/lib/kernel/install.d",
            "/var/lib/dpkg",
            "/usr/share/libalpm/hooks",
        )
    }
    root = sysroot({**SYSTEMD_ROOT, **frameworks})
    before = tree(root)
    written = enable.enable(root)
    assert {each.path for each in FOLLOWERS} == set(written) - {UNIT, WANTED}
    for path in written:
        assert root.exists(path), path
        assert os.path.islink(root.directory + path) or bool(os.stat(root.directory + path).st_mode & 0o100) == (
            not path.endswith((".hook", ".service", ".rules"))
        )
    enable.disable(root)
    assert tree(root) == before


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"/etc/local.d/kdump.start": "#!/bin/sh\n"}, "/etc/local.d/kdump.start"),
        (
            {
                "/etc/runlevels/boot/kdump": Path("/etc/init.d/kdump"),
                "/etc/init.d/kdump": "# kdump-initramfs emit openrc",
            },
            "/etc/runlevels/boot/kdump",
        ),
        # That of another tool loads something else.
        (
            {
                "/etc/systemd/system/multi-user.target.wants/kdump.service": Path("/lib/systemd/system/kdump.service"),
                "/lib/systemd/system/kdump.service": "ExecStart=/usr/bin/kdumpctl start",
            },
            "",
        ),
    ],
    ids=["local.d", "emitted", "another tool"],
)
def test_what_was_put_there_by_hand_arms_as_well(files: Mapping[str, str | Path], found: str, sysroot: Make) -> None:
    assert enable.at_boot(sysroot(files)) == found


def test_systemctl_agrees_that_the_unit_is_enabled(sysroot: Make) -> None:
    programs.need("systemctl")
    root = sysroot(SYSTEMD_ROOT)
    enable.enable(root)
    words = ["systemctl", f"--root={root.directory}", "is-enabled", "kdump-initramfs"]
    for expected in ("enabled", "disabled"):
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
        assert ended.stdout.strip() == expected, ended.stderr
        subprocess.run(["systemctl", f"--root={root.directory}", "disable", "kdump-initramfs"], check=True)
    assert not enable.is_enabled(root)


@pytest.mark.parametrize("directory", ["/etc/kernel/postinst.d", "/usr/lib/kernel/postinst.d"])
def test_gentoos_installkernel_gets_its_hook(directory: str, sysroot: Make) -> None:
    root = sysroot({**OPENRC_ROOT, f"{directory}/": ""})
    assert "/etc/kernel/postinst.d/zz-kdump-initramfs" in enable.enable(root)


@pytest.mark.parametrize("name", ROOTS)
def test_what_another_wrote_is_not_touched(name: str, sysroot: Make) -> None:
    file = UNIT if name == "systemd" else SCRIPT
    root = sysroot({**ROOTS[name], file: "somebody's own\n", "/var/lib/dpkg/": ""})
    before = tree(root)
    with pytest.raises(HostError, match="is there, and not written by us") as caught:
        enable.enable(root)
    assert caught.value.hint == f"move it away: mv {file} /root/"
    assert tree(root) == before
    assert enable.disable(root) == []
    assert tree(root) == before


def test_everything_that_is_in_the_way_is_told_at_once(sysroot: Make) -> None:
    hook = "/etc/kernel/postinst.d/zz-kdump-initramfs"
    root = sysroot({**{path: what for path, what in SYSTEMD_ROOT.items() if path not in PROGRAM}, UNIT: "x", hook: "x"})
    with pytest.raises(SeveralProblemsError) as caught:
        enable.enable(root)
    said = str(caught.value)
    assert "kdump-initramfs: is in none of " in said
    assert f"{UNIT}: is there" in said
    assert f"{hook}: is there" in said


def test_a_masked_unit_stays_masked(sysroot: Make) -> None:
    root = sysroot({**SYSTEMD_ROOT, UNIT: Path(os.devnull)})
    with pytest.raises(HostError, match="is masked") as caught:
        enable.enable(root)
    assert caught.value.hint == f"unmask it: rm {UNIT}"
    enable.disable(root)
    assert os.readlink(root.directory + UNIT) == os.devnull


def test_what_a_package_installed_is_linked_and_left(sysroot: Make) -> None:
    vendor = "/usr/lib/systemd/system/kdump-initramfs.service"
    root = sysroot({**SYSTEMD_ROOT, vendor: resources.read("contrib", SYSTEMD.piece.source)})
    before = tree(root)
    assert enable.enable(root) == [WANTED]
    assert os.readlink(root.directory + WANTED) == vendor
    assert enable.disable(root) == [WANTED]
    assert tree(root) == before


def test_what_a_package_enabled_is_enabled_and_left(sysroot: Make) -> None:
    vendor = "/usr/lib/systemd/system/kdump-initramfs.service"
    link = "/usr/lib/systemd/system/sysinit.target.wants/kdump-initramfs.service"
    root = sysroot({**SYSTEMD_ROOT, vendor: resources.read("contrib", SYSTEMD.piece.source), link: Path(vendor)})
    before = tree(root)
    assert enable.is_enabled(root)
    assert enable.enable(root) == []
    assert enable.disable(root) == []
    assert tree(root) == before


def test_what_a_package_installed_at_our_place_is_left(sysroot: Make) -> None:
    root = sysroot({**OPENRC_ROOT, SCRIPT: resources.read("contrib", OPENRC.piece.source)})
    before = tree(root)
    assert enable.enable(root) == [OPENRC.link]
    assert enable.disable(root) == [OPENRC.link]
    assert tree(root) == before


def test_an_older_file_of_ours_is_written_anew(sysroot: Make) -> None:
    root = sysroot(SYSTEMD_ROOT)
    enable.enable(root)
    text = root.read_text(UNIT) or ""
    Path(root.directory + UNIT).write_text(text.replace("5min", "9min"))
    assert enable.enable(root) == [UNIT]
    assert root.read_text(UNIT) == text


def test_links_that_others_made_to_our_file_go_too(sysroot: Make) -> None:
    other = "/etc/systemd/system/multi-user.target.wants/kdump-initramfs.service"
    root = sysroot({**SYSTEMD_ROOT, other: Path(UNIT)})
    assert enable.enable(root) == [UNIT]  # it is started at boot already
    assert sorted(enable.disable(root)) == sorted([UNIT, other])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/etc/local.d/kdump.start", True),
        ("/etc/kdump-initramfs/config.toml", True),
        ("/etc/kdump-initramfs/conf.d/10-site.toml", True),
        ("/usr/lib/kdump-initramfs/conf.d/10-vendor.toml", False),
        ("/etc/rc2.d/K01kdump-initramfs-other", False),
    ],
)
def test_a_machine_is_to_be_armed_where_somebody_said_so(path: str, expected: bool, sysroot: Make) -> None:  # noqa: FBT001
    assert enable.is_wanted(sysroot({path: ""})) is expected


def test_command_line_tells_what_it_wrote(sysroot: Make) -> None:
    root = sysroot(SYSTEMD_ROOT)
    first, second = (command.run("enable", "--root", root.directory) for _ in range(2))
    assert (first.returncode, first.stdout) == (0, "")
    assert f"wrote {UNIT}" in first.stderr
    assert "everything was there already" in second.stderr
    gone = command.run("disable", "--root", root.directory)
    assert f"removed {WANTED}" in gone.stderr


# --- the files themselves ----------------------------------------------------------------------------------------


def test_every_file_is_where_the_table_says() -> None:
    for piece in (*(each.piece for each in (SYSTEMD, OPENRC, SYSV)), *FOLLOWERS):
        place = CONTRIB / piece.source
        assert place.stat().st_mode & 0o777 == piece.mode, place
        assert place.read_text().endswith("\n")


def test_a_wheel_takes_along_what_enable_writes() -> None:
    settings = (command.PROJECT / "pyproject.toml").read_text()
    for directory in {piece.source.partition("/")[0] for piece in (SYSTEMD.piece, *FOLLOWERS)} | {"dracut"}:
        assert f'"contrib/{directory}" = "kdump_initramfs/data/contrib/{directory}"' in settings


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    programs.need("systemd-analyze")
    unit = tmp_path / "kdump-initramfs.service"
    unit.write_text((CONTRIB / SYSTEMD.piece.source).read_text().replace("=kdump-initramfs ", "=/bin/true "))
    ended = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_missing_reservation_is_no_condition_of_the_unit() -> None:
    """A service that is skipped is a service that says nothing."""
    text = (CONTRIB / SYSTEMD.piece.source).read_text()
    conditions = re.findall(r"^(?:Condition|Assert)(\w+)=", text, re.MULTILINE)
    assert sorted(conditions) == ["PathExists", "Virtualization"]
    assert "ProtectSystem=" not in re.sub(r"#.*", "", text)


# OpenRC's own words, as far as the script uses them.
OPENRC_WORDS = """
ebegin() { echo "$* ..."; }
ewarn() { echo "$*"; }
eend() { status=$1; shift; [ "$status" -eq 0 ] || echo "$*"; return "$status"; }
yesno() { case $1 in [Yy][Ee][Ss]) return 0 ;; *) return 1 ;; esac; }
"""


def run_boot_script(source: str, action: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a boot script with a program that tells its arguments, and fails where it was told so."""
    program = tmp_path / "kdump-initramfs"
    program.write_text('#!/bin/sh\necho "called: $*"\nexit "${FAILURE:-0}"\n')
    program.chmod(0o755)
    script = CONTRIB / source
    words = ["sh", str(script), action]
    if source.endswith("openrc"):
        words = ["sh", "-c", f"{OPENRC_WORDS}\n. {script}\n{action}"]
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", **environment}
    return subprocess.run(words, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("source", [OPENRC.piece.source, SYSV.piece.source])
@pytest.mark.parametrize("shell", ["sh", "dash", "busybox sh"])
def test_boot_script_is_plain_shell(source: str, shell: str) -> None:
    programs.need(shell.split(maxsplit=1)[0], "shellcheck")
    subprocess.run([*shell.split(), "-n", str(CONTRIB / source)], check=True)
    # SC2034: OpenRC reads these variables.
    subprocess.run(["shellcheck", "--shell=sh", "--exclude=SC2034", str(CONTRIB / source)], check=True)


@pytest.mark.parametrize("source", [OPENRC.piece.source, SYSV.piece.source])
@pytest.mark.parametrize(
    ("action", "expected"), [("start", "load --rebuild"), ("stop", "unload"), ("reload", "load --rebuild")]
)
def test_boot_script_calls_the_program_and_tells_its_failure(
    source: str, action: str, expected: str, tmp_path: Path
) -> None:
    ended = run_boot_script(source, action, tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"called: {expected}\n" in ended.stdout
    assert run_boot_script(source, action, tmp_path, FAILURE="1").returncode == 1


def test_a_machine_that_goes_down_stays_armed(tmp_path: Path) -> None:
    ended = run_boot_script(OPENRC.piece.source, "stop", tmp_path, RC_GOINGDOWN="YES")
    assert (ended.returncode, ended.stdout) == (0, "")


def test_init_script_has_a_header_that_insserv_reads() -> None:
    text = (CONTRIB / SYSV.piece.source).read_text()
    header = text.partition("### BEGIN INIT INFO\n")[2].partition("### END INIT INFO\n")[0]
    keys = dict(line[2:].split(":", 1) for line in header.splitlines() if line[2:3] != " ")
    assert {
        key: value.strip() for key, value in keys.items() if key.startswith(("Provides", "Default", "Required"))
    } == {
        "Provides": "kdump-initramfs",
        "Required-Start": "$local_fs",
        "Required-Stop": "",
        "Default-Start": "S",
        "Default-Stop": "",
    }


def test_unknown_action_of_the_init_script_is_wrong_usage(tmp_path: Path) -> None:
    assert run_boot_script(SYSV.piece.source, "dance", tmp_path).returncode == 2
