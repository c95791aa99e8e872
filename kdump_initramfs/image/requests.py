"""What the kernel asks modprobe for after the crash (request_module()): answered from what is in the image, or named.

docs/REQUESTS.md lists all callers. The names that a module answers to, its own and its aliases, become a table
that templates/modprobe.sh reads; a second one has the names that this kernel has a module for and this image has not.
Only these are reported on the console: every healthy boot has requests that no module answers, such as crypto-xts(aes),
which the crypto API instantiates from two that are there.
"""

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from kdump_initramfs import resources
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import drivers, kmod, layout
from kdump_initramfs.model import Dir, Entry, Link, Text

PROGRAM = "/lib/kdump/modprobe.sh"
TABLE = "/etc/kdump/requests"
ABSENT = "/etc/kdump/requests-absent"
# Names that were asked for in vain, each a file, which can be made but once.
_ASKED = "/run/kdump/asked"
# CONFIG_MODPROBE_PATH, where the kernel looks before /init has told it better.
_DEFAULT = "/sbin/modprobe"

# symbol_request() asks for who exports a name (utf8_load(), fs/unicode/utf8-core.c); modules.alias has none of these.
_SYMBOLS = {"utf8data": ("symbol:utf8_data_table",)}

# What storage asks for, as names are in normal form: algorithms, file systems, targets of device-mapper, levels of
# arrays, character sets, schedulers, handlers of storage arrays, drivers by the number of a device.
_STARTS = (
    *("algif_", "block_major_", "crypto_", "cryptomgr", "dasd_", "dm_", "fs_", "md_", "net_pf_38", "nls_", "nvme_"),
    *("quota_", "raid", "scsi_dh_", "symbol:"),
)
_END = "_iosched"
# Who asks for these has its own implementation, and asks for a faster one (lib/crc-t10dif.c, lib/crc64-rocksoft.c):
# each SATA or NVMe disk brings them.
_NOT_MISSED = ("crypto_crc64_rocksoft", "crypto_crct10dif")
# Only of these has a kernel several, of which one may be built in.
_SEVERAL = "crypto_"
# What the kernel's build makes of the name of a module (modname, scripts/Makefile.lib), as the shell takes it as it is.
_is_module = re.compile(r"[A-Za-z0-9_+.,]+").fullmatch


def tables(
    known: kmod.Modules, modules: Sequence[kmod.Module], order: Mapping[str, Sequence[kmod.Module]], directory: str
) -> tuple[Text, Text]:
    """Return both tables for the modules of an image, which lie below `directory`.

    `order` has what to load for each of those that are not loaded at boot.
    """
    there = (module.name for module in modules if _is_module(module.name))
    names = {name: [name, *_SYMBOLS.get(name, ())] for name in there}
    others = {name: None for name in known.files if name not in names}
    others |= dict.fromkeys(alias for name, aliases in _SYMBOLS.items() if name in others for alias in aliases)
    # A colon is in what a device asks for by its MODALIAS, which is for 25-drivers.sh.
    for alias, module in known.aliases(without=":"):
        if module in names:
            names[module].append(kmod.normal(alias))
        else:
            others[kmod.normal(alias)] = None
    absent = _absent(known, others, {name for every in names.values() for name in every})
    needed = {name: _needed(known, name, names.keys(), order) for name in names}
    lines = [
        f"directory={shlex.quote(directory)}",
        *(_line(name, every, needed[name]) for name, every in names.items()),
    ]
    return (
        Text(path=TABLE, content=_text(lines), reason="what the kernel may ask for, and what to load then"),
        Text(path=ABSENT, content=_text(_absent_lines(absent)), reason="what the kernel may ask for in vain"),
    )


def _absent(known: kmod.Modules, names: Iterable[str], answered: Collection[str]) -> list[str]:
    """Return of the names of modules that are not in the image those that storage may ask for in vain."""
    asked = [name for name in names if name.startswith(_STARTS) or name.endswith(_END)]
    return [
        name
        for name in asked
        if name not in answered
        and name not in _NOT_MISSED
        and not (name.startswith(_SEVERAL) and known.is_builtin(name))
    ]


def _needed(
    known: kmod.Modules, name: str, there: Collection[str], order: Mapping[str, Sequence[kmod.Module]]
) -> list[str]:
    """Return what to load for a module, in order, itself included, as far as it is in the image."""
    resolved = order.get(name) or known.resolve([name])
    return [module.name for module in resolved if module.name in there]


def _line(module: str, names: Iterable[str], needed: Iterable[str]) -> str:
    patterns = "|".join(dict.fromkeys(map(_pattern, filter(None, names))))
    return f'case $plain in {patterns}) answers="$answers {module}" needed="$needed {" ".join(needed)}" ;; esac'


def _absent_lines(names: Iterable[str]) -> Iterator[str]:
    if patterns := "|".join(map(_pattern, filter(None, names))):
        yield f"case $plain in {patterns}) absent=yes ;; esac"


def _pattern(name: str) -> str:
    """Return a name or pattern in normal form as the shell reads it; most have nothing that it reads otherwise."""
    if name == "esac":
        return "\\esac"
    return name if name.replace("_", "").isalnum() and name.isascii() else drivers.shell_pattern(name)


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def program() -> tuple[Entry, ...]:
    """Return what the kernel runs."""
    content = resources.read("templates", "modprobe.sh")
    return (
        Text(path=PROGRAM, content=content, mode=0o755, reason="answers the kernel, which asks for modules"),
        Dir(path=_ASKED, mode=0o700),
    )


def links(root: Root, entries: Iterable[Entry]) -> tuple[Link, ...]:
    """Return the link where the kernel looks by default, unless the image has a modprobe of the administrator there."""
    place, _ = layout.canonical(root, _DEFAULT)
    if any(layout.canonical(root, entry.path)[0] == place for entry in entries if entry.path.endswith("/modprobe")):
        return ()
    return (Link(path=_DEFAULT, target=PROGRAM, reason="where the kernel looks for modprobe"),)
