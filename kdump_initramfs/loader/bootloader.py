"""The boot loader that is installed, and the exact edit of its files that puts a word on the kernel's command line.

Nothing is edited here: what is printed is for the administrator. Which file holds the command line: grub-mkconfig(8),
loader.conf(5) and kernel-install(8) of systemd, the manual of rEFInd, efibootmgr(8), zipl.conf(5), doc/README.distro of
U-Boot, u-boot-update(8) of Debian, and the documentation of Raspberry Pi.
"""

import re
from collections.abc import Callable, Iterator

from msgspec import Struct

from kdump_initramfs.host import tools
from kdump_initramfs.host.root import Root

# "What runs": the vendor GUID is that of systemd, and other loaders set it too (the boot loader interface).
_LOADER_INFO = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


class Edit(Struct, frozen=True, kw_only=True):
    """How one parameter gets onto the command line of the next boot."""

    # For people: GRUB, systemd-boot, …
    loader: str
    # "" where there is no file.
    file: str = ""
    # The whole line as it must be, where the file is there to tell; else what to add.
    line: str = ""
    # What must be run afterwards; "" for nothing.
    command: str = ""
    # Instead of all these, where nothing can be said exactly.
    advice: str = ""
    # What the file says of the parameter now: the running kernel may not have been started with it yet.
    pending: tuple[str, ...] = ()

    def __str__(self) -> str:
        change = f"in {self.file}, make the line: {self.line}" if self.line else ""
        steps = [step for step in (change, f"run: {self.command}" if self.command else "", self.advice) if step]
        return f"{self.loader}: {'; then '.join(steps)}; then reboot"


class _Line(Struct, frozen=True, kw_only=True):
    """How the line of a file that holds the command line looks."""

    # With one group for what precedes the parameters; what follows it is theirs.
    pattern: str
    # Of a line that is not there yet.
    new: str


_GRUB = (
    _Line(pattern=r"(GRUB_CMDLINE_LINUX_DEFAULT=)", new="GRUB_CMDLINE_LINUX_DEFAULT="),
    _Line(pattern=r"(GRUB_CMDLINE_LINUX=)", new="GRUB_CMDLINE_LINUX="),
)
_BLS = _Line(pattern=r"(options\s+)", new="options ")
_WHOLE = _Line(pattern=r"()", new="")
_REFIND = _Line(pattern=r'("Boot with standard options"\s+)', new='"Boot with standard options" ')
_ZIPL = _Line(pattern=r"(\s*parameters\s*=\s*)", new="parameters = ")
_EXTLINUX = _Line(pattern=r"(\s*(?:append|APPEND)\s+)", new="append ")
_KERNEL_INSTALL = "kernel-install add $(uname -r) /lib/modules/$(uname -r)/vmlinuz"
_U_BOOT_MENU = _Line(pattern=r"(U_BOOT_PARAMETERS=)", new="U_BOOT_PARAMETERS=")


def edit(root: Root, *words: str) -> Edit:
    """Return the edit that puts `words` (crashkernel=…) onto the command line, in place of any of the same name."""
    info = _loader_info(root)
    for name, make in _LOADERS.items():
        if info.startswith(name) and (found := make(root, words)):
            return found
    for make in _LOADERS.values():
        if found := make(root, words):
            return found
    return Edit(loader="boot loader, which is not known", advice=f"add {' '.join(words)} to the kernel's command line")


def _loader_info(root: Root) -> str:
    """Return what the loader that booted says of itself: four bytes of attributes, then UTF-16."""
    return (root.read_bytes(_LOADER_INFO) or b"")[4:].decode("utf-16-le", "replace").rstrip("\0")


# --- loaders -----------------------------------------------------------------------------------------------------


def _zipl(root: Root, words: tuple[str, ...]) -> Edit | None:
    path = "/etc/zipl.conf"
    return _in_file(root, "zipl", path, _ZIPL, words, "zipl") if root.is_file(path) else None


def _grub(root: Root, words: tuple[str, ...]) -> Edit | None:
    """GRUB: grubby where Fedora's entries are the truth, else the defaults and what makes grub.cfg of them."""
    config = next((path for path in _grub_configs(root) if root.is_file(path)), "")
    if not config and not root.is_file("/etc/default/grub"):
        return None
    if tools.find(root, "grubby"):
        return Edit(loader="GRUB", command=f'grubby --update-kernel=ALL --args="{" ".join(words)}"')
    line = _first_line(root, "/etc/default/grub", _GRUB)
    return _in_file(root, "GRUB", "/etc/default/grub", line, words, _make_grub_config(root, config))


def _grub_configs(root: Root) -> Iterator[str]:
    yield from ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg")
    for base in ("/boot/efi/EFI", "/efi/EFI"):
        yield from (f"{base}/{name}/grub.cfg" for name in root.list(base))


def _make_grub_config(root: Root, config: str) -> str:
    if tools.find(root, "update-grub"):
        return "update-grub"
    program = "grub2-mkconfig" if tools.find(root, "grub2-mkconfig") else "grub-mkconfig"
    return f"{program} -o {config or '/boot/grub/grub.cfg'}"


def _first_line(root: Root, path: str, choices: tuple[_Line, ...]) -> _Line:
    text = root.read_text(path) or ""
    return next((line for line in choices if re.search(rf"^{line.pattern}", text, re.MULTILINE)), choices[-1])


def _systemd_boot(root: Root, words: tuple[str, ...]) -> Edit | None:
    """systemd-boot, and unified kernel images: /etc/kernel/cmdline goes into what kernel-install makes."""
    base = next((base for base in ("/boot", "/efi", "/boot/efi") if root.is_file(f"{base}/loader/loader.conf")), "")
    unified = any(name.endswith(".efi") for name in root.list(f"{base or '/boot'}/EFI/Linux"))
    if not base and not unified and not root.is_file("/etc/kernel/cmdline"):
        return None
    if unified or root.is_file("/etc/kernel/cmdline") or tools.find(root, "kernel-install"):
        return _in_file(root, "systemd-boot", "/etc/kernel/cmdline", _WHOLE, words, _KERNEL_INSTALL)
    entries = [name for name in root.list(f"{base}/loader/entries") if name.endswith(".conf")]
    name = entries[-1] if entries else "linux.conf"
    return _in_file(root, "systemd-boot", f"{base}/loader/entries/{name}", _BLS, words, "")


def _refind(root: Root, words: tuple[str, ...]) -> Edit | None:
    directories = ("/boot/efi/EFI/refind", "/efi/EFI/refind", "/boot/EFI/refind")
    if not root.is_file("/boot/refind_linux.conf") and not any(root.is_dir(path) for path in directories):
        return None
    return _in_file(root, "rEFInd", "/boot/refind_linux.conf", _REFIND, words, "")


def _extlinux(root: Root, words: tuple[str, ...]) -> Edit | None:
    """U-Boot with extlinux.conf, which u-boot-update of Debian makes of its defaults; and syslinux."""
    if tools.find(root, "u-boot-update"):
        return _in_file(root, "U-Boot", "/etc/default/u-boot", _U_BOOT_MENU, words, "u-boot-update")
    places = ("/boot/extlinux/extlinux.conf", "/boot/extlinux.conf", "/boot/syslinux/syslinux.cfg")
    path = next((path for path in places if root.is_file(path)), "")
    return _in_file(root, "U-Boot or extlinux", path, _EXTLINUX, words, "") if path else None


def _raspberry(root: Root, words: tuple[str, ...]) -> Edit | None:
    places = [path for path in ("/boot/firmware/cmdline.txt", "/boot/cmdline.txt") if root.is_file(path)]
    return _in_file(root, "Raspberry Pi", places[0], _WHOLE, words, "") if places else None


def _efi_stub(root: Root, words: tuple[str, ...]) -> Edit | None:
    """Make the entry of the firmware anew, since efibootmgr does not change one."""
    if not tools.find(root, "efibootmgr") or not root.is_dir("/sys/firmware/efi"):
        return None
    running = _with_words(" ".join(_running(root)), words)
    command = f"efibootmgr --create --disk DISK --part N --label Linux --loader '\\KERNEL' --unicode '{running}'"
    return Edit(loader="EFI stub", command=f"{command} (DISK, N and KERNEL as `efibootmgr --verbose` shows them)")


def _running(root: Root) -> list[str]:
    return [word for word in (root.read_text("/proc/cmdline") or "").split() if not word.startswith("BOOT_IMAGE=")]


# By the name with which each begins in LoaderInfo, in the order in which they are looked for.
_LOADERS: dict[str, Callable[[Root, tuple[str, ...]], Edit | None]] = {
    "zipl": _zipl,
    "GRUB": _grub,
    "systemd-boot": _systemd_boot,
    "rEFInd": _refind,
    "U-Boot": _extlinux,
    "Raspberry Pi": _raspberry,
    "EFI stub": _efi_stub,
}


# --- lines -------------------------------------------------------------------------------------------------------


def _in_file(root: Root, loader: str, path: str, line: _Line, words: tuple[str, ...], command: str) -> Edit:
    text = root.read_text(path) or ""
    match = re.search(rf"^{line.pattern}(.*)$", text, re.MULTILINE)
    before, old = (match[1], match[2]) if match else (line.new, "")
    return Edit(
        loader=loader,
        file=path,
        line=before + _with_words(old, words, quote=_wants_quotes(line)),
        command=command,
        pending=tuple(word for word in old.strip("\"' ").split() if word.partition("=")[0] in _names(words)),
    )


def _wants_quotes(line: _Line) -> bool:
    return line.new.endswith("=") or line is _REFIND or line is _ZIPL


def _with_words(old: str, words: tuple[str, ...], *, quote: bool = False) -> str:
    """Return the parameters with `words` in place of those of the same name, in the quotes that are there."""
    old = old.strip()
    mark = old[0] if old[:1] in ("'", '"') and old.endswith(old[0]) and len(old) > 1 else ""
    inner = old[1:-1] if mark else old
    kept = [word for word in inner.split() if word.partition("=")[0] not in _names(words)]
    joined = " ".join([*kept, *words])
    mark = mark or ('"' if quote else "")
    return f"{mark}{joined}{mark}"


def _names(words: tuple[str, ...]) -> set[str]:
    return {word.partition("=")[0] for word in words}
