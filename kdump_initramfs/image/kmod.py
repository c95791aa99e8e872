"""Which modules of a kernel to load, in which order, and what firmware they ask for.

The rules are those of modprobe(8), from the text files that depmod(8) and the kernel's build leave beside the modules
(modules.dep(5)); the order is that of kmod's libkmod-module.c, __kmod_module_get_probe_list().
"""

import fnmatch
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property

from msgspec import Struct

from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.formats import depmod, elf
from kdump_initramfs.formats.depmod import Aliases, SoftDependencies, module_name, normal, parse_builtin, parse_dep
from kdump_initramfs.formats.modprobe_conf import ModuleSettings
from kdump_initramfs.host.root import Root
from kdump_initramfs.image import module_files, parameters

__all__ = ["Firmware", "Module", "Modules", "module_name", "normal", "parse_builtin", "parse_dep"]

# fw_get_filesystem_firmware(), drivers/base/firmware_loader/main.c: where the kernel looks, and what it unpacks.
_FIRMWARE_DIRS = (
    "/lib/firmware/updates/{release}",
    "/lib/firmware/updates",
    "/lib/firmware/{release}",
    "/lib/firmware",
)
_FIRMWARE_SUFFIXES = ("", ".zst", ".xz")

# The directories of the kernel's sources that modules are built in.
_IN_TREE = frozenset(
    ("arch", "block", "certs", "crypto", "drivers", "fs", "io_uring", "ipc", "kernel", "lib", "mm", "net", "samples")
) | {"security", "sound", "virt"}
_is_module = re.compile(r".+\.ko(\.[a-z0-9]+)?").fullmatch


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


# --- one kernel --------------------------------------------------------------------------------------------------


class Modules:
    """The modules of one kernel: reads what depmod and the kernel's build wrote, each file when it is first needed."""

    def __init__(
        self,
        root: Root,
        modules_dir: str,
        *,
        settings: ModuleSettings | None = None,
        blacklist: Collection[str] = (),
        modular: bool = True,
    ) -> None:
        """Take the settings of modprobe.d, and what the command line has blacklisted besides."""
        self._root = root
        self._dir = modules_dir.rstrip("/")
        self._settings = settings or ModuleSettings()
        self._modular = modular
        self._blacklist = {normal(name) for name in (*self._settings.blacklist, *blacklist)}
        self._disabled = dict(self._settings.disabled)
        # What the administrator should know.
        self.warnings: list[str] = []

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
        try:
            for names, modaliases in wanted:
                problems += self._add_names(order, names)
                for modalias in modaliases:
                    for module in self.drivers_of(modalias):
                        order.add(module, f"answers to {modalias}")
        except RecursionError:
            problems.append(self._broken("modules.softdep", "a chain of soft dependencies without an end"))
        raise_together(problems)
        return tuple(order.modules.values())

    def _add_names(self, order: "_Order", names: Iterable[str]) -> Iterator[KdumpError]:
        """Add modules by their names or aliases; yield an error for each that is unknown."""
        for name in names:
            found = self.find(name)
            if not found and not self.is_builtin(name):
                yield from self._missing(name)
            for module in found:
                if module in self._disabled:
                    where = self._disabled[module]
                    self.warnings.append(f"{module}: {where} keeps modprobe from loading it; the image loads it")
                order.add(module, "asked for" if module == normal(name) else f"asked for as {name}")

    def _missing(self, name: str) -> Iterator[KdumpError]:
        """Yield an error for what this kernel lacks; where nothing tells what is built in, warn."""
        if self._modular or self._builtin:
            yield self._unknown(name)
        else:
            self.warnings.append(
                f"{name}: this kernel is built without modules, and has no modules.builtin that names what it has; "
                "see that it is built in"
            )

    def find(self, name: str) -> list[str]:
        """Return the loadable modules that a name or alias stands for; nothing if it is built in or unknown.

        As for modprobe an alias of the site goes before those of the kernel, and what modules.dep lacks is nothing. The
        name of a module is that module: who asks by it has seen it in use.
        """
        key = normal(name)
        if key in self.files:
            return [key]
        found = self._site_aliases.find(key) or self._aliases.find(key)
        return [module for module in found if module in self.files]

    def drivers_of(self, modalias: str) -> list[str]:
        """Return the modules that udev would load for a device: none that is blacklisted, or disabled by `install`."""
        return [module for module in self.find(modalias) if not self.is_unwanted(module)]

    def is_unwanted(self, name: str) -> bool:
        """Whether the site has said that no device gets this module."""
        return name in self._blacklist or name in self._disabled

    def is_disabled(self, name: str) -> bool:
        """Whether an `install` line keeps modprobe from loading this module at all."""
        return name in self._disabled

    def is_builtin(self, name: str) -> bool:
        """Whether a name or alias stands for something built into this kernel."""
        key = normal(name)
        return key in self._builtin or bool(self._builtin_aliases.find(key))

    def aliases(self, *, without: str = "\0") -> Iterator[tuple[str, str]]:
        """Yield each pattern of modprobe.d and modules.alias without `without` in it, with the module behind it."""
        yield from self._site_aliases.pairs(without)
        yield from self._aliases.pairs(without)

    def path(self, name: str) -> str:
        """Return where a loadable module lies inside the root."""
        return self.absolute(self.files[name][0])

    def needed_by(self, name: str) -> list[str]:
        """Return the paths of the modules that a module needs, as modules.dep has them, in the order of loading."""
        return self.files[name][1].split()[::-1]

    def soft_dependencies(self, name: str) -> SoftDependencies:
        return self._softdeps.get(name, _NO_SOFT_DEPENDENCIES)

    def parameters(self, name: str) -> str:
        """Return the parameters that modprobe.d has for a module, as the kernel reads them."""
        return parameters.of(self._settings, name)

    def place(self, path: str) -> str:
        """Return where a module belongs in the kernel's own tree, by its path in modules.dep; "" if nothing tells.

        That is the place of the module that it replaces (depmod.d(5): updates/ goes before what is built in), or the
        one that its vendor has kept: extra/NAME/drivers/scsi/….
        """
        top, _, rest = path.partition("/")
        if top == "kernel" and rest.partition("/")[0] in _IN_TREE:
            return path
        replaced = self._order.get(module_name(path))
        if replaced:
            return replaced
        parts = path.split("/")
        start = next((number for number, part in enumerate(parts) if part in ("drivers", "net")), 0)
        return "/".join(("kernel", *parts[start:])) if start else ""

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
        hint = f"reinstall this kernel, or run depmod {self._release}"
        if not self._root.is_file(path):
            raise HostError(f"{path}: no such file", hint=hint)
        try:
            return module_files.read(self._root.host(self._root.resolve(path)))
        except OSError as error:
            raise HostError(f"{path}: {error.strerror}", hint=hint) from error

    def calls(self, path: str) -> frozenset[str]:
        """Return the functions that a module calls of the kernel and of others; `path` is that of modules.dep."""
        absolute = self.absolute(path)
        return elf.undefined_symbols(self.content(absolute), absolute)

    @cached_property
    def files(self) -> Mapping[str, tuple[str, str]]:
        """What modules.dep says, by name."""
        if not self._modular:
            return {}
        text = self._root.read_text(f"{self._dir}/modules.dep")
        if text is None:
            raise HostError(
                f"{self._dir}/modules.dep: no such file",
                hint=f"install the modules of this kernel, or run depmod {self._release}",
            )
        self._check_text("modules.dep", text)
        found = parse_dep(text)
        if not found:
            self._check_modules()
        return found

    def _check_text(self, name: str, text: str) -> None:
        """Raise an error for what a power cut leaves of a file: a part, or zeros."""
        if "\0" in text or (text and not text.endswith("\n")):
            raise self._broken(name, "is not complete")

    def _check_modules(self) -> None:
        """Raise an error where modules.dep names none, but there are some."""
        first = next(_module_files(self._root, self._dir), "")
        if first:
            raise self._broken("modules.dep", f"names no module, but {first} is there")

    @cached_property
    def _aliases(self) -> Aliases:
        text = self._read("modules.alias")
        self._check_text("modules.alias", text)
        found = depmod.parse_aliases(text)
        if not found:
            self._check_aliases()
        return found

    def _check_aliases(self) -> None:
        """Raise an error where modules.alias names none, but a module has some: no device would find its driver."""
        for name in self.files:
            path = self.path(name)
            if self._root.is_file(path) and any(key == "alias" for key, _ in elf.modinfo(self.content(path), path)):
                raise self._broken("modules.alias", f"is missing or names no module, but {name} has aliases")

    @cached_property
    def _site_aliases(self) -> Aliases:
        return Aliases([f"{pattern} {module}" for pattern, module in self._settings.aliases])

    @cached_property
    def _softdeps(self) -> Mapping[str, SoftDependencies]:
        text = self._read("modules.softdep")
        self._check_text("modules.softdep", text)
        found = dict(depmod.parse_softdep(text))
        for each in reversed(self._settings.softdeps):
            theirs = SoftDependencies(pre=each.pre, post=each.post)
            found[each.module] = depmod.joined(theirs, found.get(each.module, _NO_SOFT_DEPENDENCIES))
        return found

    @cached_property
    def _order(self) -> Mapping[str, str]:
        """The paths of the modules that belong to the kernel, by name (modules.order: all that it was built with)."""
        return {module_name(path): path for path in self._read("modules.order").split()}

    @cached_property
    def _builtin(self) -> frozenset[str]:
        return parse_builtin(self._read("modules.builtin"))

    @cached_property
    def _builtin_aliases(self) -> Aliases:
        return depmod.parse_builtin_aliases(self._read("modules.builtin.modinfo"))

    @property
    def _release(self) -> str:
        return self._dir.rpartition("/")[2]

    def _read(self, name: str) -> str:
        return self._root.read_text(f"{self._dir}/{name}") or ""

    def absolute(self, relative: str) -> str:
        """Return where a path of modules.dep is inside the root."""
        return relative if relative.startswith("/") else f"{self._dir}/{relative}"

    def _broken(self, name: str, what: str) -> HostError:
        return HostError(f"{self._dir}/{name}: {what}", hint=f"run: depmod {self._release}")

    def _unknown(self, name: str) -> HostError:
        return HostError(
            f"{self._dir}: this kernel has no module {name}, loadable or built in",
            hint="correct the name, or install the package with the kernel's further modules"
            if self._builtin
            else f"if it is built in: {self._dir} lacks modules.builtin, which would say so; reinstall this kernel",
        )

    def _wanted_firmware(self, module: Module) -> Iterator[str]:
        content = self.content(module.path)
        return (value for key, value in elf.modinfo(content, module.path) if key == "firmware")

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


def _module_files(root: Root, directory: str) -> Iterator[str]:
    """Yield the modules below a directory; links to directories are not followed."""
    for parent, directories, names in os.walk(root.host(directory)):
        directories.sort()
        yield from (root.inside(f"{parent}/{name}") for name in sorted(names) if _is_module(name))


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
        for path in self._kernel.needed_by(name):
            self._add_between(module_name(path), path, f"needed by {name}")
        self._add_between(name, self._kernel.files[name][0], reason)

    def _add_between(self, name: str, path: str, reason: str) -> None:
        """Add a module between its soft dependencies; those that this kernel lacks are passed over."""
        if name in self._omit:
            return
        soft = self._kernel.soft_dependencies(name)
        self._add_soft(soft.pre, name)
        if name not in self.modules:
            self.modules[name] = Module(name=name, path=self._kernel.absolute(path), reason=reason)
        self._add_soft(soft.post, name)

    def _add_soft(self, wanted: Iterable[str], name: str) -> None:
        for alias in wanted:
            for module in self._kernel.find(alias):
                if not self._kernel.is_disabled(module):
                    self.add(module, f"soft dependency of {name}")
