"""The edit of what grub-mkconfig sources: made on the files, and evaluated by a real shell as grub-mkconfig does."""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdump_initramfs.host.root import Root
from kdump_initramfs.loader import bootloader
from kdump_initramfs.loader.bootline import words
from tests import trees

WORD = "crashkernel=112M"
GRUB = "/etc/default/grub"
DROP_IN = "/etc/default/grub.d/kdump-tools.cfg"

# Lines 160 to 166 of Debian's grub-mkconfig 2.06, and how 10_linux puts the line together.
MKCONFIG = """
set -e
if test -f etc/default/grub ; then . etc/default/grub ; fi
for x in etc/default/grub.d/*.cfg ; do if [ -e "${x}" ]; then . "${x}" ; fi ; done
printf 'root=/dev/sda1 ro %s %s' "${GRUB_CMDLINE_LINUX}" "${GRUB_CMDLINE_LINUX_DEFAULT}"
"""


def mkconfig(directory: str, shell: str = "dash") -> tuple[str, ...]:
    result = subprocess.run([shell, "-c", MKCONFIG], cwd=directory, capture_output=True, check=True)
    assert result.stderr == b""
    return words.split(result.stdout.decode("utf-8", "surrogateescape"))


def apply(root: Root, edit: bootloader.Edit) -> None:
    """Do what the edit says, as somebody would with an editor."""
    for change in sorted(edit.changes, key=lambda change: -change.first):
        place = Path(root.host(change.file))
        lines = place.read_bytes().decode().split("\n") if place.exists() else []
        if change.first:
            lines[change.first - 1 : change.last] = [change.line]
        else:
            lines = [*(lines[:-1] if lines and not lines[-1] else lines), change.line, ""]
        place.write_bytes("\n".join(lines).encode())


def with_cmdline(root: Root, shell: str = "dash") -> tuple[str, ...]:
    """Let the machine have booted with what its files give, and return that."""
    line = mkconfig(root.directory, shell)
    (Path(root.directory) / "proc").mkdir()
    Path(root.directory, "proc/cmdline").write_text(f"BOOT_IMAGE=/vmlinuz {' '.join(line)}\n")
    return line


# What is in the files, and which file and line it takes.
HOSTILE: dict[str, tuple[Mapping[str, str], str, str]] = {
    "a comment behind the value": (
        {GRUB: 'GRUB_CMDLINE_LINUX_DEFAULT="quiet splash" # not "loud"\n'},
        GRUB,
        f'GRUB_CMDLINE_LINUX_DEFAULT="quiet splash {WORD}" # not "loud"',
    ),
    "a comment that looks like the value": (
        {GRUB: '#GRUB_CMDLINE_LINUX_DEFAULT="old"\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"\n'},
        GRUB,
        f'GRUB_CMDLINE_LINUX_DEFAULT="quiet {WORD}"',
    ),
    "a hash in the value": (
        {GRUB: "GRUB_CMDLINE_LINUX_DEFAULT=quiet#1 # x\n"},
        GRUB,
        f'GRUB_CMDLINE_LINUX_DEFAULT="quiet#1 {WORD}" # x',
    ),
    "set twice": (
        {GRUB: "GRUB_CMDLINE_LINUX_DEFAULT=quiet\nGRUB_CMDLINE_LINUX_DEFAULT='splash'\n"},
        GRUB,
        f"GRUB_CMDLINE_LINUX_DEFAULT='splash {WORD}'",
    ),
    "set twice on one line": (
        {GRUB: "GRUB_CMDLINE_LINUX_DEFAULT=quiet; GRUB_CMDLINE_LINUX_DEFAULT=splash\n"},
        GRUB,
        f'GRUB_CMDLINE_LINUX_DEFAULT=quiet; GRUB_CMDLINE_LINUX_DEFAULT="splash {WORD}"',
    ),
    "a quoted value inside": (
        {GRUB: 'GRUB_CMDLINE_LINUX="dyndbg=\\"file drivers/usb/* +p\\" quiet"\n'},
        GRUB,
        rf'GRUB_CMDLINE_LINUX="dyndbg=\"file drivers/usb/* +p\" quiet {WORD}"',
    ),
    "double quotes in single ones": (
        {GRUB: "GRUB_CMDLINE_LINUX='dyndbg=\"file a +p\" quiet'\n"},
        GRUB,
        f"GRUB_CMDLINE_LINUX='dyndbg=\"file a +p\" quiet {WORD}'",
    ),
    "continued": (
        {GRUB: 'GRUB_CMDLINE_LINUX="quiet \\\n  console=tty0 \\\n  console=ttyS0"\nGRUB_TIMEOUT=5\n'},
        GRUB,
        f'GRUB_CMDLINE_LINUX="quiet console=tty0 console=ttyS0 {WORD}"',
    ),
    "in quotes over lines": (
        {GRUB: 'GRUB_CMDLINE_LINUX="quiet\nsplash\n"\n'},
        GRUB,
        f'GRUB_CMDLINE_LINUX="quiet splash {WORD} "',
    ),
    "no newline at the end": (
        {GRUB: "GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX=quiet"},
        GRUB,
        f'GRUB_CMDLINE_LINUX="quiet {WORD}"',
    ),
    "exported and indented": (
        {GRUB: "  export GRUB_CMDLINE_LINUX=quiet\n"},
        GRUB,
        f'  export GRUB_CMDLINE_LINUX="quiet {WORD}"',
    ),
    "lines of DOS": (
        {GRUB: 'GRUB_TIMEOUT=5\r\nGRUB_CMDLINE_LINUX="quiet"\r\n'},
        GRUB,
        f'GRUB_CMDLINE_LINUX="quiet {WORD}"',
    ),
    "of another variable": (
        {GRUB: 'base="quiet console=tty0"\nGRUB_CMDLINE_LINUX="${base} console=ttyS0"\n'},
        GRUB,
        f'GRUB_CMDLINE_LINUX="${{base}} console=ttyS0 {WORD}"',
    ),
    "for init": (
        {GRUB: 'GRUB_CMDLINE_LINUX="quiet -- single"\n'},
        GRUB,
        f'GRUB_CMDLINE_LINUX="quiet {WORD} -- single"',
    ),
    "for init, in the variable that comes first": (
        {GRUB: 'GRUB_CMDLINE_LINUX="quiet --"\nGRUB_CMDLINE_LINUX_DEFAULT=single\n'},
        GRUB,
        f'GRUB_CMDLINE_LINUX="quiet {WORD} --"',
    ),
    "kdump-tools": (
        {
            GRUB: 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX=""\n',
            DROP_IN: 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=2G-4G:320M,4G-:384M"\n',
        },
        DROP_IN,
        f'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT {WORD}"',
    ),
    "a cloud image": (
        {
            GRUB: 'GRUB_CMDLINE_LINUX_DEFAULT="quiet splash"\nGRUB_CMDLINE_LINUX=""\n',
            "/etc/default/grub.d/50-cloudimg-settings.cfg": (
                '# Cloud Image specific Grub settings\nGRUB_CMDLINE_LINUX_DEFAULT="console=tty1 console=ttyS0"\n'
            ),
        },
        "/etc/default/grub.d/50-cloudimg-settings.cfg",
        f'GRUB_CMDLINE_LINUX_DEFAULT="console=tty1 console=ttyS0 {WORD}"',
    ),
    "a drop-in alone": (
        {"/etc/default/grub.d/a.cfg": "GRUB_CMDLINE_LINUX=nomodeset\n", "/boot/grub/grub.cfg": ""},
        "/etc/default/grub.d/a.cfg",
        f'GRUB_CMDLINE_LINUX="nomodeset {WORD}"',
    ),
    "a drop-in without its ending": (
        {GRUB: "GRUB_CMDLINE_LINUX=quiet\n", "/etc/default/grub.d/x.cfg.dpkg-old": "GRUB_CMDLINE_LINUX=old\n"},
        GRUB,
        f'GRUB_CMDLINE_LINUX="quiet {WORD}"',
    ),
    "other commands around": (
        {
            GRUB: (
                "GRUB_DISTRIBUTOR=`( . /etc/os-release; echo ${NAME:-Debian} ) 2>/dev/null || echo Debian`\n"
                'if [ -n "$x" ]; then\n  GRUB_TIMEOUT=3\nfi\ncase $y in\n  a) GRUB_TIMEOUT=4 ;;\nesac\n'
                "GRUB_CMDLINE_LINUX=quiet\n"
            )
        },
        GRUB,
        f'GRUB_CMDLINE_LINUX="quiet {WORD}"',
    ),
}


@pytest.mark.parametrize(("files", "file", "line"), HOSTILE.values(), ids=HOSTILE.keys())
def test_edited_files_give_all_that_they_gave_and_the_word(
    files: Mapping[str, str], file: str, line: str, sysroot: Callable[..., Root]
) -> None:
    root = sysroot({"/usr/sbin/update-grub": "", **files})
    before = with_cmdline(root)
    edit = bootloader.edit(root, WORD)
    assert (edit.file, edit.line, edit.command) == (file, line, "update-grub")
    apply(root, edit)
    assert words.is_same(mkconfig(root.directory), words.replaced(before, (WORD,)))
    # What is printed can be told apart from lines that look like it.
    assert (edit.changes[0].is_ambiguous and f"in place of line {edit.changes[0].first}" in str(edit)) or (
        edit.changes[0].first != edit.changes[0].last
        or sum(each.lstrip().startswith(line.lstrip().split("=")[0] + "=") for each in files[file].split("\n")) <= 1
    )


CONDITIONAL = (
    'if [ -e etc ]; then\n  GRUB_CMDLINE_LINUX="quiet nosmt"\nfi\n',
    "if [ -e etc ]; then\n  GRUB_CMDLINE_LINUX=quiet\nelse\n  GRUB_CMDLINE_LINUX=loud\nfi\n",
    "if [ -e etc ]; then GRUB_CMDLINE_LINUX=quiet; else GRUB_CMDLINE_LINUX=quiet; fi",
    "GRUB_CMDLINE_LINUX=quiet\nif [ -e nothing ]; then\n  GRUB_CMDLINE_LINUX_DEFAULT=loud\nfi\n",
    'for x in 1 2; do\n  GRUB_CMDLINE_LINUX="quiet"\ndone\n',
    'GRUB_CMDLINE_LINUX=a\nif :; then\n  GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX slab_nomerge"\nfi\n',
    "if :; then\n  GRUB_CMDLINE_LINUX='quiet crashkernel=1G,high'\nelse\n  GRUB_CMDLINE_LINUX=crashkernel=1G\nfi\n",
)


@pytest.mark.parametrize("text", CONDITIONAL)
def test_branches_are_told_by_the_line_in_effect_and_left_alone(text: str, sysroot: Callable[..., Root]) -> None:
    root = sysroot({GRUB: text})
    before = with_cmdline(root)
    edit = bootloader.edit(root, WORD)
    assert edit.changes[0].first == 0, str(edit)
    apply(root, edit)
    assert words.is_same(mkconfig(root.directory), words.replaced(before, (WORD,)))


def test_old_sizes_in_several_files_all_go(sysroot: Callable[..., Root]) -> None:
    root = sysroot(
        {
            GRUB: 'GRUB_CMDLINE_LINUX="crashkernel=64M@16M quiet"\nGRUB_CMDLINE_LINUX_DEFAULT=crashkernel=1G,high\n',
            DROP_IN: 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=384M-:128M"\n',
        }
    )
    before = with_cmdline(root)
    edit = bootloader.edit(root, WORD)
    assert len(edit.pending) == 3
    assert len(edit.changes) == 3
    assert str(edit).count("; then ") == 4
    apply(root, edit)
    assert words.is_same(mkconfig(root.directory), words.replaced(before, (WORD,)))


def test_bash_appends_and_dash_does_not(sysroot: Callable[..., Root]) -> None:
    files = {GRUB: 'GRUB_CMDLINE_LINUX=quiet\nGRUB_CMDLINE_LINUX+=" splash"\n', "/bin/bash": "", "/bin/dash": ""}
    root = sysroot({**files, "/bin/sh": Path("bash")})
    before = with_cmdline(root, "bash")
    edit = bootloader.edit(root, WORD)
    assert edit.line == f'GRUB_CMDLINE_LINUX+=" splash {WORD}"'
    apply(root, edit)
    assert words.is_same(mkconfig(root.directory, "bash"), words.replaced(before, (WORD,)))
    (Path(root.directory) / "bin/sh").unlink()
    (Path(root.directory) / "bin/sh").symlink_to("dash")
    assert "which /bin/sh does not know" in str(bootloader.edit(root, WORD))


# What cannot be told from here: nothing to copy then, and the reason.
UNCLEAR = {
    "set under a condition": ('if [ -e /x ]; then\n  GRUB_CMDLINE_LINUX="nosmt"\nfi\n', "under a condition"),
    "set behind a condition": ('[ -e /x ] && GRUB_CMDLINE_LINUX="quiet"\n', "cannot evaluate"),
    "set in a function": ("f() {\n  GRUB_CMDLINE_LINUX=nosmt\n}\nf\n", "under a condition"),
    "of a command": ('GRUB_CMDLINE_LINUX="$(cat /etc/kernel/cmdline)"\n', "depends on a command"),
    "of a file": (". /etc/default/other\nGRUB_CMDLINE_LINUX=quiet\n", "cannot evaluate"),
    "of a file, behind a condition": ("test -e /x && . /x\nGRUB_CMDLINE_LINUX=quiet\n", "cannot evaluate"),
    "an open quote": ('GRUB_CMDLINE_LINUX="quiet\n', "a quote is not closed"),
    "in a loop": ("for x in a b; do\n  GRUB_CMDLINE_LINUX=$x\ndone\n", "under a condition"),
    "a part of a parameter cut off": ("a=quiet\nGRUB_CMDLINE_LINUX=${a%et}\n", "depends on a command"),
}


@pytest.mark.parametrize(("text", "reason"), UNCLEAR.values(), ids=UNCLEAR.keys())
def test_what_cannot_be_told_is_not_edited(text: str, reason: str, sysroot: Callable[..., Root]) -> None:
    edit = bootloader.edit(sysroot({GRUB: text, "/proc/cmdline": "root=/dev/sda1 ro quiet\n"}), WORD)
    assert (edit.file, edit.line, edit.command) == ("", "", "")
    assert reason in str(edit)
    assert GRUB in str(edit)


@pytest.mark.parametrize(
    ("text", "cmdline", "reason"),
    [
        ("GRUB_CMDLINE_LINUX=quiet\n", "quiet nosmt", "does not give nosmt"),
        ("GRUB_CMDLINE_LINUX='quiet nosmt'\n", "quiet", "gives nosmt"),
        ("GRUB_CMDLINE_LINUX='console=tty0 console=ttyS0'\n", "console=ttyS0 console=tty0", "does not give console"),
        ("GRUB_CMDLINE_LINUX=\n", "rd.luks.uuid=1-2", "does not give rd.luks.uuid"),
    ],
)
def test_files_that_do_not_give_the_line_in_effect_are_not_edited(
    text: str, cmdline: str, reason: str, sysroot: Callable[..., Root]
) -> None:
    edit = bootloader.edit(sysroot({GRUB: text, "/proc/cmdline": f"BOOT_IMAGE=/x root=UUID=1 ro {cmdline}\n"}), WORD)
    assert (edit.file, edit.line, edit.command) == ("", "", "")
    assert f"{GRUB} {reason}" in str(edit)


def test_mkconfig_without_drop_ins_does_not_read_them(sysroot: Callable[..., Root]) -> None:
    root = sysroot(
        {
            GRUB: "GRUB_CMDLINE_LINUX=quiet\n",
            "/etc/default/grub.d/a.cfg": "GRUB_CMDLINE_LINUX=other\n",
            "/usr/bin/grub-mkconfig": "#!/bin/sh\n. ${sysconfdir}/default/grub\n",
            "/proc/cmdline": "BOOT_IMAGE=/x root=UUID=1 ro quiet\n",
        }
    )
    assert bootloader.edit(root, WORD).file == GRUB


def test_parameters_that_are_built_into_the_kernel_need_no_file(sysroot: Callable[..., Root]) -> None:
    root = sysroot(
        {
            GRUB: "GRUB_CMDLINE_LINUX=quiet\n",
            "/proc/cmdline": "console=ttyS0 BOOT_IMAGE=/x root=UUID=1 ro quiet\n",
            "/proc/sys/kernel/osrelease": "6.1.0\n",
            "/boot/config-6.1.0": 'CONFIG_CMDLINE_BOOL=y\nCONFIG_CMDLINE="console=ttyS0"\n',
        }
    )
    assert bootloader.edit(root, WORD).line == f'GRUB_CMDLINE_LINUX="quiet {WORD}"'


# --- a property: whatever the files are ---------------------------------------------------------------------------

PARAMETERS = (
    "quiet",
    "console=tty0",
    "console=ttyS0,115200n8",
    'dyndbg="file a +p; file b +p"',
    "x=a'b",
    "price=$5",
    "back\\slash",
    "grave=`",
    "crashkernel=1G,high",
    "crashkernel=64M@16M",
    "rd.luks.name=1=root",
    "#1",
    "--",
    "i2c-x.y=1",
)


def _single(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _double(text: str) -> str:
    return '"' + "".join(f"\\{char}" if char in '\\"$`' else char for char in text) + '"'


def _bare(text: str) -> str:
    return "".join(char if char.isalnum() else f"\\{char}" for char in text)


def _folded(text: str) -> str:
    return _double(text).replace(" ", " \\\n")


VARIABLES = st.sampled_from(("GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT", "extra"))


@st.composite
def assignments(draw: st.DrawFn) -> str:
    value = draw(st.lists(st.sampled_from(PARAMETERS), max_size=3).map(" ".join))
    written = draw(st.sampled_from((_single, _double, _bare, _folded)))(value)
    before = draw(st.sampled_from(("", "", '"$GRUB_CMDLINE_LINUX_DEFAULT "', "${extra:-none}' '", '"${extra} "')))
    prefix = draw(st.sampled_from(("", "", "export ", "\t", "GRUB_TIMEOUT=5; ")))
    suffix = draw(st.sampled_from(("", "", ' # it\'s "one"', ";", " ", "; GRUB_DEFAULT='0 1'")))
    return f"{prefix}{draw(VARIABLES)}={before}{written}{suffix}"


NOISE = st.sampled_from(
    ("", "# GRUB_CMDLINE_LINUX='x", 'GRUB_DISTRIBUTOR=`echo a "b"`', 'GRUB_TERMINAL="a\\\nb"', "if :; then :; fi")
)
TEXTS = st.builds(
    lambda lines, end: "\n".join(lines) + end,
    st.lists(st.one_of(assignments(), NOISE), max_size=5),
    st.sampled_from(("\n", "", "\n\n")),
)


@settings(max_examples=100)
@given(main=TEXTS, drop_ins=st.lists(TEXTS, max_size=2))
def test_no_edit_loses_a_parameter(main: str, drop_ins: list[str]) -> None:
    with TemporaryDirectory() as directory:
        base = Path(directory)
        (base / "etc/default/grub.d").mkdir(parents=True)
        (base / "etc/default/grub").write_text(main)
        for number, text in enumerate(drop_ins):
            (base / f"etc/default/grub.d/{number}.cfg").write_text(text)
        root = Root(directory)
        before = with_cmdline(root)
        edit = bootloader.edit(root, WORD)
        assert edit.line, str(edit)
        apply(root, edit)
        assert words.is_same(mkconfig(directory), words.replaced(before, (WORD,))), str(edit)


def test_estimate_prints_the_edit_of_a_machine_that_once_had_kdump_tools(machine: Root) -> None:
    trees.make(
        "file /etc/default/grub\n"
        '| GRUB_CMDLINE_LINUX_DEFAULT="quiet console=ttyS0,115200n8"\n'
        "file /etc/default/grub.d/kdump-tools.cfg\n"
        '| GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=256M"\n'
        "file /usr/sbin/update-grub",
        Path(machine.directory),
    )
    assert "GRUB: in /etc/default/grub.d/kdump-tools.cfg, make the line: " in str(bootloader.edit(machine, WORD))
