"""The configuration of modprobe (modprobe.d(5)), as libkmod reads it: kmod_config_parse(), libkmod/libkmod-config.c."""

import logging
import re
from collections.abc import Iterator

from msgspec import Struct

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats.depmod import normal, parse_softdep_words

logger = logging.getLogger(__name__)

# Commands of `install` that load nothing: what hardening guides (CIS, STIG) and distributions write.
# modprobe gives them to a shell; words and redirections behind one change nothing, another command would.
_loads_nothing = re.compile(
    r"(?:(?:(?:/usr)?/s?bin/)?(?:true|false|nologin|:|exit)|/dev/null)"
    r"(?: (?:[^;&|`(#\\\n]|2>&1)*)?;? *(?:(?<![^ ;])#.*)?"
).fullmatch


class SoftDependency(Struct, frozen=True, kw_only=True):
    """A `softdep` line of modprobe.d(5)."""

    module: str
    # Names or aliases, to be loaded before and after.
    pre: tuple[str, ...] = ()
    post: tuple[str, ...] = ()


class ModuleSettings(Struct, frozen=True, kw_only=True):
    """What modprobe.d(5) says of modules, in the order in which modprobe reads it; names with underscores."""

    # (module, parameters as the kernel reads them).
    options: tuple[tuple[str, str], ...] = ()
    # Modules that no device gets.
    blacklist: tuple[str, ...] = ()
    # (module, the file that disables it): `install MODULE /bin/false` and the like.
    disabled: tuple[tuple[str, str], ...] = ()
    # (pattern, module).
    aliases: tuple[tuple[str, str], ...] = ()
    softdeps: tuple[SoftDependency, ...] = ()


def parse(files: list[tuple[str, str]]) -> ModuleSettings:
    """Return what files (path, text) say together, in their order."""
    options: list[tuple[str, str]] = []
    blacklist: list[str] = []
    disabled: dict[str, str] = {}
    aliases: list[tuple[str, str]] = []
    softdeps: list[SoftDependency] = []
    for path, command, name, rest in (line for file in files for line in _lines(*file)):
        match command:
            case "options" if rest:
                options.append((name, rest))
            case "blacklist":
                blacklist.append(name)
            case "install" if _loads_nothing(rest):
                disabled.setdefault(name, path)
            case "alias" if rest in ("off", "null"):
                disabled.setdefault(name, path)
            case "alias" if rest:
                aliases.append((name, normal(rest.split()[0])))
            case "softdep":
                pre_and_post = parse_softdep_words(rest.split())
                softdeps.append(SoftDependency(module=name, pre=pre_and_post.pre, post=pre_and_post.post))
            case _:
                logger.debug("%s: %s %s: not heeded", path, command, name)
    return ModuleSettings(
        options=tuple(options),
        blacklist=tuple(dict.fromkeys(blacklist)),
        disabled=tuple(disabled.items()),
        aliases=tuple(aliases),
        softdeps=tuple(softdeps),
    )


def _lines(path: str, text: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield (path, command, name, the rest) of each line; a backslash before the end continues one."""
    for line in text.replace("\\\n", "").split("\n"):
        words = line.strip("\0 \t\r").split(None, 2)
        if len(words) > 1 and not words[0].startswith("#"):
            _check_text(path, line)
            yield path, words[0], normal(words[1]), " ".join(words[2:]).replace("\t", " ")


def _check_text(path: str, line: str) -> None:
    """Raise an error for bytes that are no text: facts and records are JSON."""
    if any("\udc80" <= character <= "\udcff" for character in line):
        raise HostError(f"{path}: {ascii(line.strip())[1:-1]}: is not UTF-8", hint="write the line in UTF-8")
