"""Other loaders that read a file: rEFInd, zipl, U-Boot, syslinux, Limine, LILO, Raspberry Pi and boards of Debian.

The manual of rEFInd; zipl.conf(5); doc/README.distro of U-Boot, u-boot-update(8), flash-kernel(8); update-extlinux of
Alpine; CONFIG.md of Limine and limine-entry-tool; lilo.conf(5); the documentation of Raspberry Pi and of Armbian.
"""

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

from kdump_initramfs.loader.bootline import shell, systemd, text, words
from kdump_initramfs.loader.bootline.source import BASES, Evaluate, Files, Reader, Source, UnclearError

_EXTLINUX = text.Format(key=r"(\s*(?:append|APPEND)[ \t]+)", entry=r"\s*(?:label|LABEL)[ \t]+(\S+)")
_REFIND = text.Format(
    key=r'(\s*(?:"(?:[^"]|"")*"|[^\s#"]\S*)\s+)(?=\S)', is_entry=True, mark='"', escaped='""', new='"Boot" '
)
_REFIND_MENU = text.Format(key=r'(\s*options\s+)(?=")', is_entry=True, mark='"', escaped='""')
_ZIPL = text.Format(key=r"(\s*parameters\s*=\s*)", entry=r"\s*\[([^\]]+)\]", mark='"')
_LILO = text.Format(key=r"(\s*append\s*=\s*)", entry=r"\s*(?:image|other)\s*=\s*(\S+)", mark='"', escaped=r"\"")
_LIMINE = text.Format(key=r"(?i)(\s*(?:kernel_)?cmdline[ \t]*[:=][ \t]*)", is_entry=True)
# What limine-entry-tool reads, each after the one before it.
_LIMINE_TOOL = text.Format(key=r"(\s*KERNEL_CMDLINE\[\"?default\"?\][ \t]*\+?=[ \t]*)", mark='"')
_FIRST_LINE = text.Format(key=r"(\s*)(?=\S)", is_first_line=True)
_ARMBIAN = text.Format(key=r"(extraargs=)", new="extraargs=")


class Menu(Struct, frozen=True, kw_only=True):
    """A file with entries, and what is run after it has changed."""

    loader: str
    paths: tuple[str, ...]
    form: text.Format
    info: str = ""
    command: str = ""
    # What the loader adds: its own words, and for LILO the root device and how it is mounted.
    added: tuple[str, ...] = ("BOOT_IMAGE", "initrd")


_REFIND_PLACES = ("/boot/efi/EFI/refind", "/efi/EFI/refind", "/boot/EFI/refind", "/boot/efi/EFI/BOOT")
_LIMINE_PLACES = tuple(
    f"{base}{place}/{name}"
    for base in BASES
    for place in ("", "/limine", "/EFI/limine", "/EFI/BOOT")
    for name in ("limine.conf", "limine.cfg")
)
MENUS = (
    Menu(loader="zipl", paths=("/etc/zipl.conf",), form=_ZIPL, command="zipl"),
    Menu(loader="rEFInd", paths=("/boot/refind_linux.conf",), form=_REFIND, info="rEFInd"),
    Menu(
        loader="rEFInd",
        paths=tuple(f"{directory}/refind.conf" for directory in _REFIND_PLACES),
        form=_REFIND_MENU,
        info="rEFInd",
    ),
    Menu(
        loader="U-Boot or extlinux",
        paths=(
            "/boot/extlinux/extlinux.conf",
            "/boot/extlinux.conf",
            "/boot/syslinux/syslinux.cfg",
            "/boot/efi/EFI/syslinux/syslinux.cfg",
        ),
        form=_EXTLINUX,
        info="U-Boot",
    ),
    Menu(loader="Limine", paths=_LIMINE_PLACES, form=_LIMINE, info="Limine"),
    Menu(
        loader="LILO",
        paths=("/etc/lilo.conf",),
        form=_LILO,
        command="lilo",
        added=("BOOT_IMAGE", "initrd", "root", "ro", "rw", "auto"),
    ),
)


def sources(reader: Reader, effect: Sequence[str] | None) -> Iterator[Source]:
    yield from _generated(reader)
    yield from _limine(reader, effect)
    yield from _raspberry(reader)
    for menu in MENUS:
        yield from _menu(reader, menu)
    yield from _refind_without_file(reader, effect)
    yield from _boards(reader)


def _menu(reader: Reader, menu: Menu) -> Iterator[Source]:
    for path, content in reader.texts(menu.paths).items():
        files = {path: content}
        for entry in text.entries(files, menu.form):
            yield Source(
                loader=menu.loader,
                info=menu.info,
                files=files,
                evaluate=text.evaluate(menu.form, entry),
                propose=text.proposals(menu.form, entry),
                command=menu.command,
                added=menu.added,
            )


def _refind_without_file(reader: Reader, effect: Sequence[str] | None) -> Iterator[Source]:
    """Yield the file that rEFInd looks for beside the kernel, with the whole line that is in effect."""
    path = "/boot/refind_linux.conf"
    # It starts GRUB too, which is what has booted then.
    is_kernel = "BOOT_IMAGE" not in words.names(effect or ())
    running = words.without(effect or (), ("initrd",)) if is_kernel else ()
    is_there = any(reader.is_dir(directory) for directory in _REFIND_PLACES[:3])
    if not running or not is_there or reader.is_file(path) or any('"' in word for word in running):
        return
    given = text.evaluate(_REFIND, "1")
    yield Source(
        loader="rEFInd",
        info="rEFInd",
        files={path: ""},
        is_running=True,
        evaluate=lambda files: given(files) or running,
        propose=text.filling(running, written='"Boot with standard options" "{}"'),
        added=("BOOT_IMAGE", "initrd"),
    )


# --- menus that a tool makes -------------------------------------------------------------------------------------


class Generated(Struct, frozen=True, kw_only=True):
    """A tool that makes a menu of variables in files that it sources."""

    loader: str
    tool: str
    files: tuple[str, ...]
    # Directories of drop-ins, and how they end.
    drop_ins: tuple[str, ...]
    variable: str
    # What the variable is if nothing sets it.
    default: str = ""
    # What the tool writes before the variable.
    added: tuple[str, ...] = ()
    adds_more: bool = False


GENERATED = (
    Generated(
        loader="U-Boot",
        tool="u-boot-update",
        files=("/etc/default/u-boot",),
        drop_ins=("/usr/share/u-boot-menu/conf.d", "/etc/u-boot-menu/conf.d"),
        variable="U_BOOT_PARAMETERS",
        default="ro quiet",
        added=("root",),
    ),
    Generated(
        loader="extlinux",
        tool="update-extlinux",
        files=("/etc/update-extlinux.conf",),
        drop_ins=(),
        variable="default_kernel_opts",
        added=("root", "modules", "BOOT_IMAGE", "initrd"),
    ),
)
# The boot script of the board adds console= and more by itself.
_FLASH_KERNEL = Generated(
    loader="flash-kernel",
    tool="flash-kernel",
    files=("/etc/default/flash-kernel",),
    drop_ins=(),
    variable="LINUX_KERNEL_CMDLINE",
    adds_more=True,
)


def _generated(reader: Reader) -> Iterator[Source]:
    for row in GENERATED:
        if reader.has(row.tool):
            yield _of_variable(reader, row)


def _of_variable(reader: Reader, row: Generated) -> Source:
    drop_ins = [path for directory in row.drop_ins for path in reader.matching(directory, ".conf")]
    files = reader.texts((*row.files, *drop_ins)) or {row.files[0]: ""}
    # u-boot-update looks there before it takes its own.
    kernel = reader.text("/etc/kernel/cmdline") if row.default else None
    default = row.default if kernel is None else " ".join(words.without(words.split(kernel), ("root",)))
    return Source(
        loader=row.loader,
        info="U-Boot" if row.loader == "U-Boot" else "",
        files=files,
        evaluate=_variable(row, default),
        propose=shell.proposals((row.variable,), keep=default),
        command=row.tool,
        added=row.added,
        adds_more=row.adds_more,
    )


def _variable(row: Generated, default: str) -> Evaluate:
    def given(files: Files) -> tuple[str, ...]:
        found = shell.values(files, (row.variable,), can_append=False)
        return words.split(found.get(row.variable, "") or default)

    return given


def _boards(reader: Reader) -> Iterator[Source]:
    if reader.has(_FLASH_KERNEL.tool):
        yield _of_variable(reader, _FLASH_KERNEL)
    files = reader.texts(["/boot/armbianEnv.txt"])
    if files:
        yield Source(
            loader="Armbian",
            files=files,
            evaluate=text.evaluate(_ARMBIAN),
            propose=text.proposals(_ARMBIAN),
            adds_more=True,
        )


# --- Limine ------------------------------------------------------------------------------------------------------


def _limine(reader: Reader, effect: Sequence[str] | None) -> Iterator[Source]:
    """Yield what limine-entry-tool makes entries of (CachyOS, Omarchy): the last file that sets the line, and +=."""
    command = next((name for name in ("limine-update", "limine-mkinitcpio") if reader.has(name)), "")
    paths = (
        *reader.matching("/usr/share/limine-entry-tool.d", ".conf"),
        "/etc/limine-entry-tool.conf",
        *reader.matching("/etc/limine-entry-tool.d", ".conf"),
        "/etc/default/limine",
    )
    files = reader.texts(paths)
    if not command:
        return
    running = words.without(effect or (), ("BOOT_IMAGE", "initrd"))
    is_set = bool(text.slots(files, _LIMINE_TOOL))
    if not is_set:
        # The tool takes one of these then.
        yield from systemd.cmdline(reader, None, systemd.Maker(loader="Limine", command=command, tool=command))
    if is_set or (running and not any('"' in word for word in running)):
        new = text.filling(running, written='KERNEL_CMDLINE[default]="{}"', file="/etc/default/limine")
        yield Source(
            loader="Limine",
            info="Limine",
            files=files,
            evaluate=lambda files: _limine_default(files) or (() if is_set else running),
            propose=text.proposals(_LIMINE_TOOL) if is_set else new,
            command=command,
            added=("BOOT_IMAGE", "initrd"),
        )


def _limine_default(files: Files) -> tuple[str, ...]:
    given: tuple[str, ...] = ()
    for slot in text.slots(files, _LIMINE_TOOL):
        if "$" in slot.value:
            raise UnclearError(f"{slot.file}: line {slot.number}: $ cannot be resolved")
        given = (*given, *slot.words) if "+=" in slot.before else slot.words
    return given


# --- Raspberry Pi ------------------------------------------------------------------------------------------------


def _raspberry(reader: Reader) -> Iterator[Source]:
    """Yield the one line that the firmware reads, and puts behind what it and the device tree add."""
    for directory in ("/boot/firmware", "/boot"):
        settings = _settings(reader.text(f"{directory}/config.txt") or "")
        path = f"{directory}/{settings.get('os_prefix', '')}{settings.get('cmdline', 'cmdline.txt')}"
        for place in dict.fromkeys((path, f"{directory}/cmdline.txt")):
            if files := reader.texts([place]):
                yield Source(
                    loader="Raspberry Pi",
                    files=files,
                    evaluate=text.evaluate(_FIRST_LINE),
                    propose=text.proposals(_FIRST_LINE),
                    # console=serial0 becomes the name of the port.
                    added=("console",),
                    adds_more=True,
                )


def _settings(content: str) -> dict[str, str]:
    found = re.findall(r"^[ \t]*(\w+)[ \t]*=[ \t]*(\S+)", content, re.MULTILINE)
    return dict(found)
