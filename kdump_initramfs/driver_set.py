"""Which drivers a generic image takes along; a part of what a hook says (model.py)."""

from msgspec import Struct


class DriverSet(Struct, frozen=True, kw_only=True):
    """Modules for devices that are not known yet: taken along, and loaded when a device asks for them."""

    # Directories of modules, as modules.dep spells them; of what is in them, what a device can ask for is taken.
    directories: tuple[str, ...]
    # Names of modules to leave out.
    without: tuple[str, ...] = ()
    # Directories: what needs a module of one of them is left out too.
    independent_of: tuple[str, ...] = ()
    # What tells of a module from outside of the kernel's tree that it belongs here: functions that it calls, devices.
    calls: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
