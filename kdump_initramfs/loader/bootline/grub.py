"""GRUB: what grub-mkconfig makes its menu of, entries of the Boot Loader Specification, and menus by hand.

grub-mkconfig and grub.d/10_linux of GRUB 2.06 and of Debian's; grubby(8); blscfg of Fedora's GRUB; bootctl(1).
"""

import itertools
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence

from kdump_initramfs.host import fstab
from kdump_initramfs.loader.bootline import shell, text, words
from kdump_initramfs.loader.bootline.source import BASES, Evaluate, Files, Reader, Source, UnclearError, unclear

DEFAULTS = "/etc/default/grub"
_DROP_INS = "/etc/default/grub.d"
_ALL, _NORMAL = "GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"
# Fedora's: grub-mkconfig leaves the lines of entries alone.
_BLSCFG = "GRUB_ENABLE_BLSCFG"
# grub.d/10_linux: root=, ro (rw on Arch) and rootflags= before the rest, Ubuntu's vt.handoff= and what it tries first
# without an initrd, init= of Debian's second entries; 20_linux_xen; and what the loader puts before all.
_ADDED = ("BOOT_IMAGE", "root", "ro", "rw", "rootflags", "vt.handoff", "panic=-1", "init", "placeholder")
# What an entry of the Boot Loader Specification does not hold, and the loader adds.
BY_LOADER = ("BOOT_IMAGE", "initrd")
ENTRY = text.Format(key=r"(options[ \t]+)", new="options ")
_MOST_CONDITIONS = 4
_VARIABLE = re.compile(r"(?<!\S)\$(\w+)(?!\S)")
# By the boot loader interface of systemd: the entry that has booted, by its name.
_SELECTED = "/sys/firmware/efi/efivars/LoaderEntrySelected-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_ENVIRONMENTS = ("/boot/grub2/grubenv", "/boot/grub/grubenv")
_LINUX = text.Format(key=r"(\s*linux(?:16|efi)?[ \t]+\S+[ \t]*)", is_entry=True, after=r"[ \t]*(?:[ \t]#.*)?")
# GRUB before 2.0.
_LEGACY = text.Format(key=r"(\s*kernel[ \t]+\S+[ \t]*)", is_entry=True)


def sources(reader: Reader) -> Iterator[Source]:
    configs = [path for path in _configs(reader) if reader.is_file(path)]
    is_made = True
    set_there: dict[str, str] = {}
    for path in configs:
        menu = reader.text(path) or ""
        set_there |= dict(re.findall(r'^\s*set (\w+)="([^"]*)"', menu, re.MULTILINE))
        if re.search(r"^\s*blscfg\b", menu, re.MULTILINE):
            is_made = False
            yield from _unseen_entries(reader, path)
        if menu.strip() and not re.search(r"mkconfig|blscfg", menu):
            is_made = is_made and not re.search(_LINUX.key, menu, re.MULTILINE)
            yield from _by_hand(path, menu, _LINUX)
    yield from _legacy(reader)
    yield from _entries(reader)
    if is_made and (configs or reader.is_file(DEFAULTS)):
        yield from _mkconfig(reader, configs[0] if configs else "", {**environment(reader), **set_there})


def _configs(reader: Reader) -> Iterator[str]:
    yield from ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg")
    for base in ("/boot/efi/EFI", "/efi/EFI"):
        yield from (f"{base}/{name}/grub.cfg" for name in reader.list(base))


# --- grub-mkconfig -----------------------------------------------------------------------------------------------


def _mkconfig(reader: Reader, config: str, variables: Mapping[str, str]) -> Iterator[Source]:
    before = len(reader.unreadable)
    files = {DEFAULTS: reader.text(DEFAULTS) or "", **_drop_ins(reader)}
    failed = reader.unreadable[before:]
    can_append = _shell_appends(reader)
    for made in _guesses(shell.conditions(files, (_ALL, _NORMAL))):
        yield Source(
            loader="GRUB",
            info="GRUB",
            files=files,
            evaluate=unclear(failed[0]) if failed else _defaults(variables, made, can_append=can_append),
            propose=shell.proposals((_NORMAL, _ALL)),
            command=_make_config(reader, config),
            added=_ADDED,
        )


def _guesses(conditions: int) -> Iterator[Collection[int] | None]:
    """Yield which of the assignments under a condition may have been made: the line in effect tells."""
    yield None
    if 0 < conditions <= _MOST_CONDITIONS:
        for count in range(conditions + 1):
            yield from itertools.combinations(range(conditions), count)


def _drop_ins(reader: Reader) -> dict[str, str]:
    """Return the drop-ins, which the grub-mkconfig of some distributions does not read (Debian's and Ubuntu's do)."""
    scripts = (f"/usr/{place}/{name}" for place in ("sbin", "bin") for name in ("grub-mkconfig", "grub2-mkconfig"))
    script = next((found for path in scripts if (found := reader.text(path))), "")
    return {} if script and "grub.d/*.cfg" not in script else reader.texts(reader.matching(_DROP_INS, ".cfg"))


def _defaults(variables: Mapping[str, str], made: Collection[int] | None, *, can_append: bool) -> Evaluate:
    """Return what gives the line; of variables of GRUB itself (tuned's $tuned_params) the menu has the values."""

    def given(files: Files) -> tuple[str, ...]:
        found = shell.values(files, (_ALL, _NORMAL), can_append=can_append, made=made)
        if _is_bls(files):
            raise UnclearError(f"{DEFAULTS}: {_BLSCFG}=true, so that the lines are in /boot/loader/entries")
        line = f"{found.get(_ALL, '')} {found.get(_NORMAL, '')}"
        return words.split(_VARIABLE.sub(lambda match: variables.get(match[1], match[0]), line))

    return given


def _is_bls(files: Files) -> bool:
    last = [re.findall(rf"^[ \t]*{_BLSCFG}=[\"']?(\w*)", content, re.MULTILINE) for content in files.values()]
    return [value for found in last for value in found][-1:] == ["true"]


def _shell_appends(reader: Reader) -> bool:
    """Tell whether /bin/sh may be a shell that knows +=, as bash does; dash and busybox do not."""
    return reader.resolve("/bin/sh").rpartition("/")[2] not in ("dash", "busybox", "ash", "yash", "posh")


def _make_config(reader: Reader, config: str) -> str:
    system = fstab.holder(fstab.read(reader.root), "/")
    if reader.has("transactional-update") and system and "ro" in system.options:
        return "transactional-update grub.cfg"
    if reader.has("update-grub"):
        return "update-grub"
    program = "grub2-mkconfig" if reader.has("grub2-mkconfig") else "grub-mkconfig"
    return f"{program} -o {config or '/boot/grub/grub.cfg'}"


# --- entries of the Boot Loader Specification --------------------------------------------------------------------


def _entries(reader: Reader) -> Iterator[Source]:
    """Yield the entries that grubby changes; without grubby they are edited as those of systemd-boot are."""
    if not reader.has("grubby"):
        return
    for path in entry_files(reader, ("/boot",)):
        yield Source(
            loader="GRUB",
            info="GRUB",
            files=reader.texts([path]),
            evaluate=text.evaluate(ENTRY, variables=lambda: environment(reader)),
            make=_grubby,
            added=BY_LOADER,
        )


def _unseen_entries(reader: Reader, path: str) -> Iterator[Source]:
    """Yield what says that a menu is made of entries, and that there are none to be read."""
    if not entry_files(reader, BASES):
        reason = f"{path} takes the lines of /boot/loader/entries, where nothing can be read"
        yield Source(loader="GRUB", info="GRUB", files={}, evaluate=unclear(reason))


def _grubby(wanted: Sequence[str], given: Sequence[str]) -> str:
    old = sorted({word.partition("=")[0] for word in given if words.name(word) in words.names(wanted)})
    remove = f" --remove-args={quoted(old)}" if old else ""
    return f"grubby --update-kernel=ALL{remove} --args={quoted(wanted)}"


def quoted(found: Sequence[str]) -> str:
    """Return parameters as one word of a shell."""
    line = " ".join(found)
    return f'"{line}"' if re.fullmatch(r"[\w@%+=:,./ -]*", line, re.ASCII) else shlex.quote(line)


def entry_files(reader: Reader, bases: Sequence[str]) -> list[str]:
    """Return the entries: the one that was selected first, then those of the running kernel."""
    selected = reader.bytes(_SELECTED)[4:].decode("utf-16-le", "replace").rstrip("\0")
    release = reader.word("/proc/sys/kernel/osrelease")
    found = [path for base in bases for path in reader.matching(f"{base}/loader/entries", ".conf")]
    return sorted(
        found,
        key=lambda path: (
            not selected or path.rpartition("/")[2] not in (selected, f"{selected}.conf"),
            not release or not _is_of(reader.text(path) or "", path, release),
        ),
    )


def _is_of(entry: str, path: str, release: str) -> bool:
    return release in path or bool(re.search(rf"^version[ \t]+{re.escape(release)}\s*$", entry, re.MULTILINE))


def environment(reader: Reader) -> dict[str, str]:
    """Return the variables that GRUB keeps between boots: lines NAME=value (grub-editenv(1))."""
    found = next((content for path in _ENVIRONMENTS if (content := reader.text(path))), "")
    return dict(line.split("=", 1) for line in found.split("\n") if "=" in line and not line.startswith("#"))


# --- menus by hand -----------------------------------------------------------------------------------------------


def _by_hand(path: str, menu: str, form: text.Format) -> Iterator[Source]:
    files = {path: menu}
    for entry in text.entries(files, form):
        yield Source(
            loader="GRUB",
            info="GRUB",
            files=files,
            evaluate=text.evaluate(form, entry),
            propose=text.proposals(form, entry),
            added=("BOOT_IMAGE",),
        )


def _legacy(reader: Reader) -> Iterator[Source]:
    for path in ("/boot/grub/menu.lst", "/boot/grub/grub.conf"):
        yield from _by_hand(path, reader.text(path) or "", _LEGACY)
