"""Which source explains the command line in effect, and that its edit loses nothing: machines of distributions."""

import os
import re
import struct
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdump_initramfs.host.root import Root
from kdump_initramfs.loader import bootloader
from kdump_initramfs.loader.bootline import words
from tests import programs
from tests.boot_cases import CASES, CMDLINE, KERNEL, OSRELEASE, PRESET, UNIFIED, WORD, Case

VARIABLES = "/sys/firmware/efi/efivars"
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
LOADER_INFO = f"{VARIABLES}/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


def utf16(text: str) -> bytes:
    return f"{text}\0".encode("utf-16-le")


def loader_info(text: str) -> bytes:
    return b"\6\0\0\0" + utf16(text)


def apply(root: Root, edit: bootloader.Edit) -> None:
    for change in sorted(edit.changes, key=lambda change: -change.first):
        place = Path(root.host(change.file))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(change.applied(place.read_text() if place.exists() else ""))


def without_loaders(line: str) -> tuple[str, ...]:
    """Return a line without what a loader adds, and a tool for its own use."""
    return words.without(words.split(line), {"BOOT_IMAGE", "initrd", "systemd.machine_id"})


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_source_that_gives_the_line_in_effect_is_edited(case: Case, sysroot: Callable[..., Root]) -> None:
    edit = bootloader.edit(sysroot({**case.files, CMDLINE: f"{case.cmdline}\n"}), WORD)
    assert (edit.loader, edit.file, edit.line, edit.command, edit.advice) == (
        case.loader,
        case.file,
        case.line,
        case.command,
        case.advice,
    )
    assert WORD in str(edit)
    assert str(edit).endswith("; then reboot")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.tool])
def test_the_tool_gives_all_that_is_in_effect_and_the_word(name: str, sysroot: Callable[..., Root]) -> None:
    case = CASES[name]
    root = sysroot({**case.files, CMDLINE: f"{case.cmdline}\n"})
    edit = bootloader.edit(root, WORD)
    apply(root, edit)
    assert case.tool
    left = without_loaders(case.tool(Path(root.directory)))
    # sdbootutil sets root= and the subvolume itself.
    ignored = {"root", "rootflags"} if case.loader == "sdbootutil" else set()
    expected = words.replaced(without_loaders(case.cmdline), (WORD,))
    assert sorted(words.without(left, ignored)) == sorted(words.without(expected, ignored))
    # After it the machine needs no other edit, and the next one is none.
    again = bootloader.edit(root, WORD)
    assert (again.file, again.line, again.pending) == (edit.file, edit.line, (WORD,))


INSTALLED = [name for name, case in CASES.items() if case.loader == "systemd-boot" and case.file == KERNEL]


@pytest.mark.parametrize("name", INSTALLED)
def test_kernel_install_makes_an_entry_with_the_word(name: str, sysroot: Callable[..., Root]) -> None:
    """The plugin of systemd itself, on what the edit has made."""
    programs.need("kernel-install")
    case = CASES[name]
    root = sysroot({**case.files, CMDLINE: f"{case.cmdline}\n", "/boot/t/9/": "", "/boot/vmlinuz": "kernel"})
    apply(root, bootloader.edit(root, WORD))
    boot = root.host("/boot")
    environment = {
        "KERNEL_INSTALL_LAYOUT": "bls",
        "KERNEL_INSTALL_MACHINE_ID": "m",
        "KERNEL_INSTALL_ENTRY_TOKEN": "t",
        "KERNEL_INSTALL_BOOT_ROOT": boot,
        "KERNEL_INSTALL_CONF_ROOT": root.host("/etc/kernel"),
        "KERNEL_INSTALL_STAGING_AREA": root.host("/boot/none"),
        "KERNEL_INSTALL_VERBOSE": "0",
    }
    plugin = ["/usr/lib/kernel/install.d/90-loaderentry.install", "add", "9", f"{boot}/t/9", f"{boot}/vmlinuz"]
    subprocess.run(plugin, env={**os.environ, **environment}, check=True)
    entry = Path(boot, "loader/entries/t-9.conf").read_text()
    options = re.search(r"^options\s+(.*)$", entry, re.MULTILINE)
    assert options
    expected = words.replaced(without_loaders(case.cmdline), (WORD,))
    assert words.is_same(without_loaders(options[1]), expected)


# Where no source gives the line in effect: nothing to copy, and what was looked at.
UNEXPLAINED: dict[str, tuple[Mapping[str, Any], str, str]] = {
    "kernel-install whose file lacks root=": (
        {"/usr/bin/kernel-install": "", "/boot/loader/loader.conf": "", KERNEL: "quiet\n"},
        "root=UUID=1 quiet",
        f"{KERNEL} does not give root=UUID=1",
    ),
    "an entry of another system": (
        {
            "/usr/bin/kernel-install": "",
            "/boot/loader/loader.conf": "",
            "/boot/loader/entries/other.conf": "options root=UUID=2\n",
        },
        "root=UUID=1",
        "other.conf does not give root=UUID=1, gives root=UUID=2",
    ),
    "unified images with another cmdline.d": (
        {**UNIFIED, "/etc/mkinitcpio.d/linux.preset": PRESET, "/etc/cmdline.d/a.conf": "quiet\n"},
        "root=UUID=1 quiet",
        "/etc/cmdline.d/a.conf does not give root=UUID=1",
    ),
    "ostree, whose entries cannot be read": (
        {"/run/ostree-booted": "", "/usr/bin/rpm-ostree": "", "/etc/default/grub": "GRUB_CMDLINE_LINUX=\n"},
        "ostree=/o root=UUID=1",
        "/boot/loader/entries: nothing that can be read",
    ),
    "NixOS that has booted otherwise": (
        {"/etc/NIXOS": "", "/run/booted-system/kernel-params": "loglevel=4", "/etc/default/grub": ""},
        "init=/nix/x loglevel=7",
        "/run/booted-system/kernel-params does not give loglevel=7, gives loglevel=4",
    ),
    "Fedora without readable entries": (
        {
            "/usr/sbin/grubby": "",
            "/boot/grub2/grub.cfg": "# made by grub2-mkconfig\nblscfg\n",
            "/etc/default/grub": "GRUB_CMDLINE_LINUX=quiet\nGRUB_ENABLE_BLSCFG=true\n",
        },
        "BOOT_IMAGE=/x root=UUID=1 ro quiet",
        "/boot/grub2/grub.cfg takes the lines of /boot/loader/entries, where nothing can be read",
    ),
    "Fedora with a menu that cannot be read": (
        {"/etc/default/grub": "GRUB_CMDLINE_LINUX=quiet\nGRUB_ENABLE_BLSCFG=true\n"},
        "BOOT_IMAGE=/x root=UUID=1 ro quiet",
        "GRUB_ENABLE_BLSCFG=true, so that the lines are in /boot/loader/entries",
    ),
    "an image that the distribution has signed": (
        {**OSRELEASE, **UNIFIED, "/lib/modules/6.12.9/vmlinuz-virt.efi": "", "/usr/bin/kernel-install": ""},
        "console=tty0 console=ttyS0",
        "/lib/modules/6.12.9/vmlinuz-virt.efi contains its command line",
    ),
    "rEFInd that has started GRUB": (
        {"/boot/efi/EFI/refind/": "", "/etc/default/grub": "GRUB_CMDLINE_LINUX=old\n"},
        "BOOT_IMAGE=/x root=UUID=1 ro quiet",
        "/etc/default/grub does not give quiet, gives old",
    ),
    "what is left of rEFInd": (
        {"/boot/efi/EFI/refind/": "", LOADER_INFO: loader_info("Limine 9.3.0")},
        "root=UUID=1 rw",
        "rEFInd is here, but Limine 9.3.0 has booted",
    ),
    "kernel-install that makes nothing": (
        {"/boot/loader/loader.conf": "", "/usr/bin/kernel-install": "", LOADER_INFO: loader_info("rEFInd 0.14")},
        "root=UUID=1 rw",
        "systemd-boot is here, but rEFInd 0.14 has booted",
    ),
    "an entry with a variable that nobody sets": (
        {"/boot/loader/loader.conf": "", "/boot/loader/entries/a.conf": "options root=UUID=1 x$y\n"},
        "root=UUID=1 nosmt",
        "does not give nosmt, gives x$y",
    ),
    "a line that came from elsewhere, as by kexec or QEMU": (
        {"/etc/default/grub": "GRUB_CMDLINE_LINUX_DEFAULT=quiet\n", "/boot/grub/grub.cfg": ""},
        "console=ttyS0 panic=1",
        "/etc/default/grub does not give console=ttyS0 panic=1, gives quiet",
    ),
    "a loop of links": (
        {"/boot/loader/entries": Path("entries"), "/etc/default/grub": Path("grub")},
        "root=UUID=1 quiet",
        "too many levels of symbolic links",
    ),
    "an entry whose bytes are no text": (
        {"/boot/loader/loader.conf": "", "/boot/loader/entries/a.conf": b"options root=UUID=1 x=\xff\n"},
        b"root=UUID=1 x=\xff",  # type: ignore[dict-item]
        "cannot be edited line by line",
    ),
}


@pytest.mark.parametrize(("files", "cmdline", "reason"), UNEXPLAINED.values(), ids=UNEXPLAINED.keys())
def test_where_no_source_explains_the_line_there_is_nothing_to_copy(
    files: Mapping[str, Any], cmdline: str | bytes, reason: str, sysroot: Callable[..., Root]
) -> None:
    edit = bootloader.edit(sysroot({**files, CMDLINE: cmdline}), WORD)
    assert (edit.file, edit.line, edit.command, edit.changes) == ("", "", "", ())
    assert f"add {WORD} to the kernel's command line" in str(edit)
    assert reason in str(edit)
    str(edit).encode()


@contextmanager
def as_nobody() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("closed", "files"),
    [
        ("/etc/default/grub", {"/etc/default/grub": "GRUB_CMDLINE_LINUX=nosmt\n"}),
        ("/boot/loader/entries", {"/boot/loader/entries/a.conf": "options x\n", "/usr/bin/kernel-install": ""}),
        (KERNEL, {KERNEL: "root=UUID=1\n", "/boot/loader/loader.conf": "", "/usr/bin/kernel-install": ""}),
        ("/etc/default/grub.d", {"/etc/default/grub": "", "/etc/default/grub.d/a.cfg": "GRUB_CMDLINE_LINUX=nosmt\n"}),
    ],
)
def test_what_may_not_be_read_is_named_and_nothing_is_made_of_it(closed: str, files: Mapping[str, str]) -> None:
    with TemporaryDirectory() as directory:
        base = Path(directory)
        base.chmod(0o755)
        for path, content in {**files, CMDLINE: "root=UUID=1 ro\n"}.items():
            place = base / path[1:]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)
        (base / closed[1:]).chmod(0)
        with as_nobody():
            edit = bootloader.edit(Root(directory), WORD)
        assert (edit.file, edit.line, edit.command) == ("", "", "")
        assert f"{closed}: Permission denied" in str(edit)


# --- entries of the firmware --------------------------------------------------------------------------------------


def node(kind: int, subtype: int, content: bytes) -> bytes:
    return struct.pack("<BBH", kind, subtype, 4 + len(content)) + content


PARTUUID = uuid.UUID("1d0f42f7-1234-5678-9abc-def012345678")


def load_option(label: str, loader: str, options: str) -> bytes:
    """As the UEFI Specification has it: 3.1.3, and 10.3.5.1 for the partition."""
    partition = struct.pack("<IQQ16sBB", 2, 2048, 1 << 20, PARTUUID.bytes_le, 2, 2)
    paths = node(4, 1, partition) + node(4, 4, utf16(loader)) + node(0x7F, 0xFF, b"")
    head = struct.pack("<IIH", 7, 1, len(paths)) + utf16(label) + paths
    return head + (utf16(options) if options else b"")


def firmware(options: str, label: str = "Gentoo's") -> dict[str, str | bytes | Path]:
    return {
        "/usr/sbin/efibootmgr": "",
        f"{VARIABLES}/BootCurrent-{GLOBAL}": b"\6\0\0\0\x0a\0",
        f"{VARIABLES}/Boot000A-{GLOBAL}": load_option(label, "\\EFI\\Gentoo\\vmlinuz.efi", options),
        f"/dev/disk/by-partuuid/{PARTUUID}": Path("../../nvme0n1p2"),
        "/dev/nvme0n1p2": "",
        "/sys/class/block/nvme0n1p2": Path("../../devices/pci/nvme0n1/nvme0n1p2"),
        "/sys/devices/pci/nvme0n1/nvme0n1p2/partition": "2\n",
    }


def test_entry_of_the_firmware_is_made_anew_with_all_that_it_had(sysroot: Callable[..., Root]) -> None:
    line = "root=UUID=1 rw initrd=\\initrd.img dyndbg=\"file a +p\" x='y' crashkernel=1G"
    edit = bootloader.edit(sysroot({**firmware(line), CMDLINE: f"{line}\n"}), WORD)
    assert (edit.loader, edit.pending) == ("EFI stub", ("crashkernel=1G",))
    echoed = edit.command.replace("efibootmgr ", "printf '%s\\n' ")
    words_given = subprocess.run(["sh", "-c", echoed], capture_output=True, text=True, check=True).stdout.splitlines()
    assert words_given == [
        "--create",
        "--disk",
        "/dev/nvme0n1",
        "--part",
        "2",
        "--label",
        "Gentoo's",
        "--loader",
        "\\EFI\\Gentoo\\vmlinuz.efi",
        "--unicode",
        line.replace("crashkernel=1G", WORD),
    ]


def test_entry_of_the_firmware_that_loads_another_loader_is_left_alone(sysroot: Callable[..., Root]) -> None:
    edit = bootloader.edit(sysroot({**firmware(""), CMDLINE: "root=UUID=1 rw\n"}), WORD)
    assert (edit.loader, edit.command) == ("boot loader, which is not known", "")


def test_broken_entry_of_the_firmware_is_no_entry(sysroot: Callable[..., Root]) -> None:
    whole = firmware("root=UUID=1")
    content = whole[f"{VARIABLES}/Boot000A-{GLOBAL}"]
    assert isinstance(content, bytes)
    root = sysroot({**whole, CMDLINE: "root=UUID=1\n"})
    for length in range(len(content)):
        (Path(root.directory) / f"{VARIABLES[1:]}/Boot000A-{GLOBAL}").write_bytes(content[:length])
        edit = bootloader.edit(root, WORD)
        assert "root=UUID=1" in edit.command or not edit.command


def test_two_sources_that_both_explain_the_one_of_the_loader_counts(sysroot: Callable[..., Root]) -> None:
    files = {
        **OSRELEASE,
        "/etc/default/grub": "GRUB_CMDLINE_LINUX_DEFAULT=quiet\n",
        "/boot/grub/grub.cfg": "",
        "/boot/loader/loader.conf": "",
        KERNEL: "root=UUID=1 ro quiet\n",
    }
    assert bootloader.edit(sysroot({**files, CMDLINE: "BOOT_IMAGE=/x root=UUID=1 ro quiet"}), WORD).loader == "GRUB"
    booted = {LOADER_INFO: loader_info("systemd-boot 257"), CMDLINE: "initrd=\\x root=UUID=1 ro quiet"}
    assert bootloader.edit(sysroot({**files, **booted}), WORD).loader == "systemd-boot"


def test_of_entries_that_are_alike_the_one_that_booted_counts(sysroot: Callable[..., Root]) -> None:
    files = {
        "/boot/loader/loader.conf": "",
        "/boot/loader/entries/a.conf": "options root=UUID=1 rw\n",
        "/boot/loader/entries/b.conf": "version 6.12.9\noptions root=UUID=1 rw\n",
        "/boot/loader/entries/c.conf": "options root=UUID=1 rw\n",
        CMDLINE: "initrd=\\x root=UUID=1 rw\n",
    }
    assert bootloader.edit(sysroot(files), WORD).file == "/boot/loader/entries/a.conf"
    assert bootloader.edit(sysroot({**files, **OSRELEASE}), WORD).file == "/boot/loader/entries/b.conf"
    selected = {LOADER_INFO.replace("LoaderInfo", "LoaderEntrySelected"): loader_info("c.conf")}
    assert bootloader.edit(sysroot({**files, **selected}), WORD).file == "/boot/loader/entries/c.conf"


def test_the_words_say_where_a_line_goes(sysroot: Callable[..., Root]) -> None:
    files = {"/usr/bin/sdbootutil": "", CMDLINE: "root=UUID=1 rw\n"}
    assert str(bootloader.edit(sysroot(files), WORD)) == (
        f"sdbootutil: make {KERNEL}, with the line: root=UUID=1 rw {WORD}; "
        "then run: sdbootutil update-all-entries; then reboot"
    )
    assert f"in {KERNEL}, make the line: root=UUID=1 rw {WORD}; " in str(
        bootloader.edit(sysroot({**files, KERNEL: "root=UUID=1 rw\n"}), WORD)
    )


def test_a_loader_that_says_its_name_is_not_grub(sysroot: Callable[..., Root]) -> None:
    """What is left of an earlier loader may give the same line; an edit of it would have no effect."""
    files = {"/etc/default/grub": "GRUB_CMDLINE_LINUX=quiet\n", LOADER_INFO: loader_info("systemd-boot 257")}
    edit = bootloader.edit(sysroot({**files, CMDLINE: "initrd=\\x root=UUID=1 ro quiet\n"}), WORD)
    assert (edit.file, edit.command) == ("", "")
    assert "/etc/default/grub belongs to GRUB, but systemd-boot 257 has booted" in str(edit)
    # One loader may have loaded the other.
    assert bootloader.edit(sysroot({**files, CMDLINE: "BOOT_IMAGE=/x root=UUID=1 ro quiet\n"}), WORD).loader == "GRUB"


def test_a_file_for_kernel_install_is_not_what_grub_makes_its_menu_of(sysroot: Callable[..., Root]) -> None:
    files = {"/etc/default/grub": "GRUB_CMDLINE_LINUX=old\n", "/boot/grub/grub.cfg": "", "/usr/bin/kernel-install": ""}
    edit = bootloader.edit(
        sysroot({**files, KERNEL: "root=UUID=1 ro quiet\n", CMDLINE: "BOOT_IMAGE=/x root=UUID=1 ro quiet\n"}), WORD
    )
    assert (edit.file, edit.command) == ("", "")
    assert "/etc/default/grub does not give quiet, gives old" in str(edit)


# --- a property: whatever the parameters are ----------------------------------------------------------------------

PARAMETERS = (
    "quiet",
    "root=UUID=1",
    'dyndbg="file a +p; file b +p"',
    "x='a b'",
    "console=tty0",
    "console=ttyS0,115200n8",
    "back\\slash",
    "crashkernel=1G,high",
    "crashkernel=64M@16M",
    "i2c-x.y=1",
    "--",
)


def doubled(line: str) -> str:
    return line.replace('"', '""')


def escaped(line: str) -> str:
    return line.replace('"', '\\"')


def same(line: str) -> str:
    return line


# A file, how a line is written in it, and how its tool reads that: what the group of a pattern holds, put back.
FORMATS = {
    "whole": (KERNEL, {"/boot/loader/loader.conf": ""}, "{}\n", r"^(.*)$", same, '"'),
    "entry": (
        "/boot/loader/entries/a.conf",
        {"/boot/loader/loader.conf": ""},
        "title a\noptions\t{}\r\n",
        None,
        same,
        "",
    ),
    "refind": ("/boot/refind_linux.conf", {}, '"a b" "{}" # "c"\n', r'^"a b" "((?:[^"]|"")*)"', doubled, '""'),
    "lilo": ("/etc/lilo.conf", {}, 'append = "{}"\n', r'^append = "((?:[^"\\]|\\.)*)"$', escaped, '\\"'),
    "zipl": ("/etc/zipl.conf", {}, "[a]\nparameters={}\n", r"^parameters=(.*)$", same, ""),
    "limine": ("/boot/limine.conf", {}, "/a\n    cmdline: {}\n", r"cmdline: (.*)$", same, ""),
    "extlinux": ("/boot/extlinux.conf", {}, "label a\n  append {}", r"append (.*)$", same, ""),
}


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.lists(st.sampled_from(PARAMETERS), min_size=1, max_size=5).map(" ".join))
def test_no_edit_of_a_file_loses_a_parameter(name: str, line: str) -> None:
    path, files, written, pattern, write, mark = FORMATS[name]
    if write is escaped:
        # An escape that is no quote is not for the kernel.
        line = line.replace("\\", "/")
    before = words.split(line)
    with TemporaryDirectory() as directory:
        for each, content in {**files, path: written.format(write(line)), CMDLINE: line}.items():
            place = Path(directory, each[1:])
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content, newline="")
        root = Root(directory)
        edit = bootloader.edit(root, WORD)
        assert edit.file == path, str(edit)
        apply(root, edit)
        match = re.search(pattern or r"^options\t(.*)$", Path(directory, path[1:]).read_text(), re.MULTILINE)
        assert match
        given_now = match[1].replace(mark, '"') if mark else match[1]
        assert words.is_same(words.split(given_now), words.replaced(before, (WORD,))), str(edit)


def test_hostile_entry_of_megabytes_is_passed_over(sysroot: Callable[..., Root]) -> None:
    entry = "title x\noptions " + "root=/dev/vda1 \"'\\$(x) " * 150_000
    files = {"/proc/cmdline": "root=/dev/vda1 quiet\n", "/boot/loader/entries/a.conf": entry}
    start = time.monotonic()
    assert not bootloader.edit(sysroot(files), "crashkernel=256M").line
    assert time.monotonic() - start < 5
