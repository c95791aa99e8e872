"""Which modules of a kernel to load, in which order, and what firmware they ask for.

The rules are those of modprobe(8), from the text files that depmod(8) and the kernel's build leave beside the modules
(modules.dep(5)); the order is that of kmod's libkmod-module.c, __kmod_module_get_probe_list().
"""

import fnmatch
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache

from msgspec import Struct

from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.formats import compression, elf
from kdump_initramfs.host.root import Root

# fw_get_filesystem_firmware(), drivers/base/firmware_loader/main.c: where the kernel looks, and what it unpacks.
_FIRMWARE_DIRS = (
    "/lib/firmware/updates/{release}",
    "/lib/firmware/updates",
    "/lib/firmware/{release}",
    "/lib/firmware",
)
_FIRMWARE_SUFFIXES = ("", ".zst", ".xz")
_MAX_MODULE_BYTES = 256 << 20
# By how many characters aliases are sorted at first: enough to tell the buses apart.
_START = 4
_find_wildcard = re.compile(r"[*?\[ ]").split


class Module(Struct, frozen=True, kw_only=True):
    """A module to be loaded."""

    # As the kernel knows it, with underscores.
    name: str
    # Inside the root.
    path: str
    # Why: "asked for", "needed by ext4", "soft dependency of ext4".
    reason: str


class Firmware(Struct, frozen=True, kw_only=True):
    """A firmware file that a module asks for."""

    # Inside the root; may be compressed (.xz, .zst).
    path: str
    module: str


class SoftDependencies(Struct, frozen=True, kw_only=True):
    # Names or aliases, to be loaded before and after.
    pre: tuple[str, ...] = ()
    post: tuple[str, ...] = ()


# --- the files of depmod -----------------------------------------------------------------------------------------


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
    """Return the soft dependencies of modules.softdep, by name of the module (modprobe.d(5): softdep)."""
    found: dict[str, SoftDependencies] = {}
    for line in text.splitlines():
        command, *words = line.split() or [""]
        if command == "softdep" and words:
            found.setdefault(normal(words[0]), _parse_softdep_words(words[1:]))
    return found


def _parse_softdep_words(words: Sequence[str]) -> SoftDependencies:
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


def unpacked(path: str) -> bytes:
    """Return the module in a file of this machine, unpacked.

    It is kept for a while: firmware is looked for in it, then the image wants it, and xz takes 10 ms per MB.
    """
    status = os.stat(path)
    return _unpacked(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _unpacked(path: str, _mtime_ns: int, _size_bytes: int) -> bytes:
    with open(path, "rb") as stream:
        return compression.unpack(stream.read(), limit_bytes=_MAX_MODULE_BYTES, name=path)


# --- one kernel --------------------------------------------------------------------------------------------------


class Modules:
    """The modules of one kernel: reads what depmod and the kernel's build wrote, each file when it is first needed."""

    def __init__(self, root: Root, modules_dir: str) -> None:
        self._root = root
        self._dir = modules_dir.rstrip("/")

    def resolve(
        self, names: Iterable[str], modaliases: Iterable[str] = (), *, omit: Collection[str] = ()
    ) -> tuple[Module, ...]:
        """Return what to load, in order, for modules (names or aliases) and for devices (modalias strings).

        Built-in modules are left out, and those in `omit` with what only they need. A modalias that no module
        answers to is passed over: not every device has a driver. Unknown names are gathered and raised together.
        """
        return self.resolve_in_turn([(names, modaliases)], omit=omit)

    def resolve_in_turn(
        self, wanted: Iterable[tuple[Iterable[str], Iterable[str]]], *, omit: Collection[str] = ()
    ) -> tuple[Module, ...]:
        """Return what to load for several, each (names, modaliases), the first of them first."""
        problems: list[KdumpError] = []
        order = _Order(self, omit)
        for names, modaliases in wanted:
            problems += self._add_names(order, names)
            for modalias in modaliases:
                for module in self.find(modalias):
                    order.add(module, f"answers to {modalias}")
        raise_together(problems)
        return tuple(order.modules.values())

    def _add_names(self, order: "_Order", names: Iterable[str]) -> Iterator[KdumpError]:
        """Add modules by their names or aliases; yield an error for each that is unknown."""
        for name in names:
            found = self.find(name)
            if not found and not self.is_builtin(name):
                yield self._unknown(name)
            for module in found:
                order.add(module, "asked for" if module == normal(name) else f"asked for as {name}")

    def find(self, name: str) -> list[str]:
        """Return the loadable modules that a name or alias stands for; nothing if it is built in or unknown."""
        key = normal(name)
        return [key] if key in self.files else self._aliases.find(key)

    def is_builtin(self, name: str) -> bool:
        """Whether a name or alias stands for something built into this kernel."""
        key = normal(name)
        return key in self._builtin or bool(self._builtin_aliases.find(key))

    def aliases(self, *, without: str = "\0") -> Iterator[tuple[str, str]]:
        """Yield each pattern of modules.alias that has no `without` in it, with the module that answers to it."""
        return self._aliases.pairs(without)

    def path(self, name: str) -> str:
        """Return where a loadable module lies inside the root."""
        return self._path(self.files[name][0])

    def needed_by(self, name: str) -> list[str]:
        """Return the names of the modules that a module needs, in the order of loading."""
        return [module_name(path) for path in reversed(self.files[name][1].split())]

    def soft_dependencies(self, name: str) -> SoftDependencies:
        return self._softdeps.get(name, _NO_SOFT_DEPENDENCIES)

    def firmware(self, modules: Iterable[Module]) -> tuple[tuple[Firmware, ...], tuple[str, ...]]:
        """Return the firmware files that modules ask for, and a warning for each that is not there."""
        found: list[Firmware] = []
        missing: list[str] = []
        for module in modules:
            for wanted in self._wanted_firmware(module):
                paths = list(self._find_firmware(wanted))
                found += [Firmware(path=path, module=module.name) for path in paths]
                if not paths:
                    missing.append(f"{module.name}: firmware {wanted} is not installed")
        return tuple(found), tuple(missing)

    def content(self, path: str) -> bytes:
        """Return a module, unpacked."""
        if not self._root.is_file(path):
            raise HostError(f"{path}: no such file", hint=f"reinstall this kernel, or run depmod {self._release}")
        return unpacked(self._root.host(self._root.resolve(path)))

    @cached_property
    def files(self) -> Mapping[str, tuple[str, str]]:
        """What modules.dep says, by name."""
        text = self._root.read_text(f"{self._dir}/modules.dep")
        if text is None:
            raise HostError(
                f"{self._dir}/modules.dep: no such file",
                hint=f"install the modules of this kernel, or run depmod {self._release}",
            )
        return parse_dep(text)

    @cached_property
    def _aliases(self) -> Aliases:
        return parse_aliases(self._read("modules.alias"))

    @cached_property
    def _softdeps(self) -> Mapping[str, SoftDependencies]:
        return parse_softdep(self._read("modules.softdep"))

    @cached_property
    def _builtin(self) -> frozenset[str]:
        return parse_builtin(self._read("modules.builtin"))

    @cached_property
    def _builtin_aliases(self) -> Aliases:
        return parse_builtin_aliases(self._read("modules.builtin.modinfo"))

    @property
    def _release(self) -> str:
        return self._dir.rpartition("/")[2]

    def _read(self, name: str) -> str:
        return self._root.read_text(f"{self._dir}/{name}") or ""

    def _path(self, relative: str) -> str:
        return relative if relative.startswith("/") else f"{self._dir}/{relative}"

    def _unknown(self, name: str) -> HostError:
        return HostError(
            f"{self._dir}: this kernel has no module {name}, loadable or built in",
            hint="mend the name, or install the package with the kernel's further modules",
        )

    def _wanted_firmware(self, module: Module) -> Iterator[str]:
        packed = self._root.read_bytes(module.path)
        if packed is None:
            raise HostError(
                f"{module.path}: no such file", hint=f"reinstall this kernel, or run depmod {self._release}"
            )
        unpacked = compression.unpack(packed, limit_bytes=_MAX_MODULE_BYTES)
        return (value for key, value in elf.modinfo(unpacked, module.path) if key == "firmware")

    def _find_firmware(self, wanted: str) -> Iterator[str]:
        """Yield the file that the kernel would take, or all that a pattern names (some drivers list patterns)."""
        directory, _, name = f"/{wanted}".rpartition("/")
        is_pattern = any(wildcard in wanted for wildcard in "*?[")
        for base in _FIRMWARE_DIRS:
            place = base.format(release=self._release) + directory
            if is_pattern:
                names = [each for each in self._root.list(place) if fnmatch.fnmatchcase(_plain(each), name)]
            else:
                names = [name + suffix for suffix in _FIRMWARE_SUFFIXES]
            paths = [f"{place}/{each}" for each in names if self._root.is_file(f"{place}/{each}")]
            if paths:
                yield from paths if is_pattern else paths[:1]
                return


def _plain(name: str) -> str:
    return name.removesuffix(".xz").removesuffix(".zst")


_NO_SOFT_DEPENDENCIES = SoftDependencies()


class _Order:
    """Collects modules in the order of loading, each once, as modprobe would load them."""

    def __init__(self, kernel: Modules, omit: Collection[str]) -> None:
        self._kernel = kernel
        self._omit = {normal(name) for name in omit}
        self._visited: set[str] = set()
        self.modules: dict[str, Module] = {}

    def add(self, name: str, reason: str) -> None:
        """Add a module behind all that it needs, each of them between its own soft dependencies."""
        if name in self._visited or name in self._omit:
            return
        self._visited.add(name)
        for needed in self._kernel.needed_by(name):
            self._add_between(needed, f"needed by {name}")
        self._add_between(name, reason)

    def _add_between(self, name: str, reason: str) -> None:
        """Add a module between its soft dependencies; those that this kernel lacks are passed over."""
        if name in self._omit:
            return
        soft = self._kernel.soft_dependencies(name)
        self._add_soft(soft.pre, name)
        if name not in self.modules:
            self.modules[name] = Module(name=name, path=self._kernel.path(name), reason=reason)
        self._add_soft(soft.post, name)

    def _add_soft(self, wanted: Iterable[str], name: str) -> None:
        for alias in wanted:
            for module in self._kernel.find(alias):
                self.add(module, f"soft dependency of {name}")
