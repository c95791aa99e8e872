"""Drivers for devices that are not known yet: chosen by their place, loaded after the crash by what devices ask for.

What modprobe would look up after the crash is looked up here: patterns become a function of the shell (as a script for
sed they took 35 MB, compiled), dependencies become lists. busybox's own modprobe would do less: it knows no soft
dependencies and takes the dash of [0-9] for an underscore (modutils/modprobe.c and modutils.c of 1.35), and not every
busybox has one.
"""

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

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
    """Return the drivers of the sets that this kernel has as modules."""
    if not sets:
        return Drivers(modules=(), order={}, aliases=())  # a kernel has 30,000 patterns
    asked_for = [(pattern, name) for pattern, name in known.aliases() if _bus(pattern)]
    candidates = dict.fromkeys(name for _, name in asked_for if name in known.files)
    names = {name for each in sets for name in candidates if _belongs(known, name, each)}
    order = {name: _resolve(known, name, omit) for name in candidates if name in names}
    found = {name: modules for name, modules in order.items() if any(module.name == name for module in modules)}
    every = {module.name: module for modules in found.values() for module in modules}
    return Drivers(
        modules=tuple(every.values()),
        order=found,
        aliases=tuple((pattern, name) for pattern, name in asked_for if name in found),
    )


def _resolve(known: kmod.Modules, name: str, omit: Collection[str]) -> tuple[kmod.Module, ...]:
    found = known.resolve([name], omit=omit)
    return tuple(replace(each, reason="for devices that ask for it") if each.name == name else each for each in found)


def _belongs(known: kmod.Modules, name: str, wanted: DriverSet) -> bool:
    if name in wanted.without:
        return False
    path, needed = known.files[name]
    return _is_below(path, wanted.directories) and not any(
        _is_below(each, wanted.independent_of) for each in (path, *needed.split())
    )


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
