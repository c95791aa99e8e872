"""Drivers for devices that are not known yet: chosen by their place, loaded after the crash by what devices ask for.

What modprobe would look up after the crash is looked up here: patterns become a function of the shell (as a script for
sed they took 35 MB, compiled), dependencies become lists. busybox's own modprobe would do less: it knows no soft
dependencies and takes the dash of [0-9] for an underscore (modutils/modprobe.c and modutils.c of 1.35), and not every
busybox has one.
"""

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from msgspec import Struct
from msgspec.structs import replace

from kdump_initramfs.errors import HostError
from kdump_initramfs.image import kmod
from kdump_initramfs.model import DriverSet

ALIASES = "/etc/kdump/drivers/aliases"
ORDER = "/etc/kdump/drivers/order"

# What a pattern for devices begins with: the name of its bus (MODULE_DEVICE_TABLE, include/linux/mod_devicetable.h and
# scripts/mod/file2alias.c). devname: is no bus: such a module is asked for by who opens a node.
_bus = re.compile(r"(?!devname:)[A-Za-z0-9_]+(?=[^ ]*:)").match
# A bus with the number of the vendor behind it, by which patterns are sorted: pci:v00008086, usb:v0525.
_vendor = re.compile(r"[a-z0-9]+:v[0-9A-F]{4,8}").match
_parts_of_pattern = re.compile(r"\[[^]]*]|.").findall
_is_plain = re.compile(r"[A-Za-z0-9:,*?]|\[!?[A-Za-z0-9-]+]").fullmatch


class Drivers(Struct, frozen=True, kw_only=True):
    # All of them, with what they need.
    modules: tuple[kmod.Module, ...]
    # Driver -> what to load for it, in order, itself included.
    order: dict[str, tuple[kmod.Module, ...]]
    # Patterns of devices, each with its driver.
    aliases: tuple[tuple[str, str], ...]


def choose(known: kmod.Modules, sets: Sequence[DriverSet], *, omit: Collection[str] = ()) -> Drivers:
    """Return the drivers of the sets that this kernel has as modules, less those that the site wants for no device."""
    if not sets:
        return Drivers(modules=(), order={}, aliases=())  # a kernel has 30,000 patterns
    asked_for = [(pattern, name) for pattern, name in known.aliases() if _bus(pattern)]
    candidates = [name for name in dict.fromkeys(name for _, name in asked_for) if _may_be_loaded(known, name)]
    names = {name for each in sets for name in _chosen(known, each, candidates, asked_for)}
    order = {name: _resolve(known, name, omit) for name in candidates if name in names}
    found = {name: modules for name, modules in order.items() if any(module.name == name for module in modules)}
    every = {module.name: module for modules in found.values() for module in modules}
    return Drivers(
        modules=tuple(every.values()),
        order=found,
        aliases=tuple((pattern, name) for pattern, name in asked_for if name in found),
    )


def _may_be_loaded(known: kmod.Modules, name: str) -> bool:
    """Whether a device may get a module: it is there, and modprobe would load it and all that it needs."""
    if name not in known.files or known.is_unwanted(name):
        return False
    return not any(known.is_disabled(kmod.module_name(path)) for path in known.needed_by(name))


def _resolve(known: kmod.Modules, name: str, omit: Collection[str]) -> tuple[kmod.Module, ...]:
    found = known.resolve([name], omit=omit)
    return tuple(replace(each, reason="for devices that ask for it") if each.name == name else each for each in found)


# --- which belong to a set --------------------------------------------------------------------------------------------


def _chosen(
    known: kmod.Modules, wanted: DriverSet, candidates: Sequence[str], asked_for: Sequence[tuple[str, str]]
) -> set[str]:
    """Return the drivers of a set: by their place in the kernel's tree; those of vendors, which have none, by evidence.

    updates/, extra/, weak-updates/ and whatever else vendors choose tell nothing. What replaces a module of the kernel
    has the place of that. Else it is what a driver can be asked for, the same devices as one of the set or a class of
    them, or what it calls.
    """
    candidates = [name for name in candidates if name not in wanted.without]
    places = {name: known.place(known.files[name][0]) for name in candidates}
    chosen = {
        name
        for name, place in places.items()
        if _is_below(place, wanted.directories) and _is_independent(known, name, wanted)
    }
    strangers = {name for name, place in places.items() if not place and _is_independent(known, name, wanted)}
    if strangers:
        devices = {pattern for pattern, name in asked_for if name in chosen}
        chosen |= {name for pattern, name in asked_for if name in strangers and _is_for(pattern, devices, wanted)}
        chosen |= {name for name in strangers - chosen if _calls(known, name, wanted)}
    return chosen


def _is_independent(known: kmod.Modules, name: str, wanted: DriverSet) -> bool:
    paths = (known.files[name][0], *known.needed_by(name))
    return not any(_is_below(known.place(path), wanted.independent_of) for path in paths)


def _is_for(pattern: str, devices: Collection[str], wanted: DriverSet) -> bool:
    return pattern in devices or any(fnmatchcase(pattern, each) for each in wanted.devices)


def _calls(known: kmod.Modules, name: str, wanted: DriverSet) -> bool:
    """Whether a driver, or another module from outside of the kernel's tree that it needs, calls such a function."""
    paths = (known.files[name][0], *(path for path in known.needed_by(name) if not known.place(path)))
    try:
        return any(not known.calls(path).isdisjoint(wanted.calls) for path in paths)
    except HostError as error:
        known.warnings.append(f"{error}; what it drives is not known, and it is left out")
        return False


def _is_below(path: str, directories: Iterable[str]) -> bool:
    return any(path.startswith(f"{directory}/") for directory in directories)


def alias_script(aliases: Iterable[tuple[str, str]]) -> str:
    """Return a function of the shell, `drivers_of MODALIAS`, that prints the drivers of a device, one a line.

    A device is held against the patterns of its own bus, and of these against those of its own vendor or of all.
    """
    buses: dict[str, dict[str, list[str]]] = {}
    for pattern, driver in aliases:
        bus, vendor = _bus(pattern), _vendor(pattern)
        vendors = buses.setdefault(bus[0] if bus else "", {})
        line = f"case $1 in {shell_pattern(pattern)}) echo {shlex.quote(driver)} ;; esac"
        vendors.setdefault(vendor[0] if vendor else "", []).append(line)
    lines = [line for bus, vendors in buses.items() for line in _block(bus, _blocks(vendors))]
    return "".join(f"{line}\n" for line in ("drivers_of() {", *(lines or [":"]), "}"))


def _blocks(vendors: dict[str, list[str]]) -> Iterator[str]:
    for vendor, lines in vendors.items():
        yield from _block(vendor, lines) if vendor else lines


def _block(start: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"case $1 in {shell_pattern(start)}*)"
    yield from lines
    yield ";; esac"


def shell_pattern(pattern: str) -> str:
    """Return a pattern of fnmatch(3) as the shell reads it; - and _ are one, as for the kernel."""
    return "".join(_part(part) for part in _parts_of_pattern(pattern))


def _part(part: str) -> str:
    if part in ("-", "_"):
        return "[-_]"
    return part if _is_plain(part) else "".join(f"\\{character}" for character in part)


def order_text(drivers: Drivers, directory: str) -> str:
    """Return lines `DRIVER: FILE…` with the files in the order of loading, as they lie below `directory`."""
    return "".join(f"{name}: {_paths(modules, directory)}\n" for name, modules in drivers.order.items())


def _paths(modules: Sequence[kmod.Module], directory: str) -> str:
    return " ".join(f"{directory}/{module.name}.ko" for module in modules)
