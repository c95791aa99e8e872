"""The text files that depmod(8) and the kernel's build leave beside modules: modules.dep(5) and its companions."""

import fnmatch
import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

# By how many characters aliases are sorted at first: enough to tell the buses apart.
_START = 4
_find_wildcard = re.compile(r"[*?\[ ]").split


class SoftDependencies(Struct, frozen=True, kw_only=True):
    # Names or aliases, to be loaded before and after.
    pre: tuple[str, ...] = ()
    post: tuple[str, ...] = ()


def normal(name: str) -> str:
    """Return the name of a module or alias as the kernel writes it: - and _ are one, except between brackets."""
    if "[" not in name:
        return name.replace("-", "_")
    return re.sub(r"\[[^]]*]|-", lambda match: "_" if match[0] == "-" else match[0], name)


def module_name(path: str) -> str:
    """Return the name of the module in a file: /…/dm-mod.ko.xz is dm_mod."""
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


def parse_dep(text: str) -> dict[str, tuple[str, str]]:
    """Return of modules.dep, by name: the path, and the paths of all that it needs, the last to be loaded first."""
    found = {}
    for line in text.splitlines():
        path, colon, needed = line.partition(":")
        if colon:
            found[module_name(path)] = (path, needed)
    return found


def parse_softdep(text: str) -> dict[str, SoftDependencies]:
    """Return the soft dependencies of modules.softdep, by name of the module (modprobe.d(5): softdep).

    A module with several lines has them all. modprobe takes the first one, and what the others name is loaded by the
    kernel when it asks for it; btrfs has a line for each of its checksums.
    """
    found: dict[str, SoftDependencies] = {}
    for line in text.splitlines():
        command, *words = line.split() or [""]
        if command == "softdep" and words:
            name = normal(words[0])
            found[name] = joined(found.get(name, SoftDependencies()), parse_softdep_words(words[1:]))
    return found


def joined(first: SoftDependencies, further: SoftDependencies) -> SoftDependencies:
    return SoftDependencies(pre=first.pre + further.pre, post=first.post + further.post)


def parse_softdep_words(words: Sequence[str]) -> SoftDependencies:
    """Sort the words behind `pre:` and `post:`; those before either count for nothing."""
    sorted_words: dict[str, list[str]] = {"": [], "pre:": [], "post:": []}
    place = ""
    for word in words:
        if word in {"pre:", "post:"}:
            place = word
        else:
            sorted_words[place].append(word)
    return SoftDependencies(pre=tuple(sorted_words["pre:"]), post=tuple(sorted_words["post:"]))


def parse_builtin(text: str) -> frozenset[str]:
    """Return the names in modules.builtin (or modules.order)."""
    return frozenset(module_name(line) for line in text.split())


def parse_aliases(text: str) -> "Aliases":
    """Return the aliases in modules.alias: `alias PATTERN MODULE`."""
    lines = ("\n" + text.strip()).split("\nalias ")
    return Aliases(lines[1:])


def parse_builtin_aliases(text: str) -> "Aliases":
    """Return the aliases in modules.builtin.modinfo: NUL-terminated MODULE.KEY=VALUE strings."""
    entries = (entry.partition(".alias=") for entry in text.split("\0"))
    return Aliases([f"{alias} {module}" for module, found, alias in entries if found and "." not in module])


class Aliases:
    """Patterns of names, each with the module that answers to it.

    A distribution's kernel has 30,000, of which a look-up needs a handful. So they are sorted by their first characters
    at once, and only where something is looked up, by all that precedes the first wildcard.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        # "PATTERN MODULE", in the order of the kernel's build.
        self._lines = lines
        starts: dict[str, list[int]] = {}
        for number, line in enumerate(lines):
            starts.setdefault(line[:_START], []).append(number)
        self._starts: dict[str, list[int]] = {}
        for start, numbers in starts.items():
            self._starts.setdefault(_literal(start), []).extend(numbers)
        self._indexes: dict[str, dict[str, list[int]]] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def pairs(self, without: str) -> Iterator[tuple[str, str]]:
        for line in [line for line in self._lines if without not in line]:
            pattern, _, module = line.partition(" ")
            yield pattern, module.strip().replace("-", "_")

    def find(self, name: str) -> list[str]:
        """Return the modules that answer to `name` (in normal form), in the order of the kernel's build."""
        prefixes = [name[:length] for length in range(len(name) + 1)]
        indexes = [self._index(start) for start in prefixes[: _START + 1] if start in self._starts]
        candidates = sorted(number for index in indexes for prefix in prefixes for number in index.get(prefix, ()))
        found = (self._match(self._lines[number], name) for number in candidates)
        return list(dict.fromkeys(module for module in found if module))

    def _index(self, start: str) -> dict[str, list[int]]:
        if start not in self._indexes:
            index: dict[str, list[int]] = {}
            for number in self._starts[start]:
                index.setdefault(_literal(self._lines[number]), []).append(number)
            self._indexes[start] = index
        return self._indexes[start]

    @staticmethod
    def _match(line: str, name: str) -> str:
        pattern, _, module = line.partition(" ")
        return module.strip().replace("-", "_") if _matches(normal(pattern), name) else ""


def _literal(line: str) -> str:
    """Return what precedes the first wildcard of the pattern in a line."""
    return _find_wildcard(line, 1)[0].replace("-", "_")


def _matches(pattern: str, name: str) -> bool:
    """Match as fnmatch(3), which kmod uses; patterns with nothing but stars need no regular expression."""
    if "[" in pattern or "?" in pattern:
        return fnmatch.fnmatchcase(name, pattern)
    first, *middle = pattern.split("*")
    if not middle:
        return pattern == name
    last = middle.pop()
    position, end = len(first), len(name) - len(last)
    if position > end or not name.startswith(first) or not name.endswith(last):
        return False
    for piece in middle:
        position = name.find(piece, position, end)
        if position < 0:
            return False
        position += len(piece)
    return True
