"""Mounts that a boot makes: while one of them is not there, its directory is that of another file system.

They are those of /etc/fstab, and the mount units that are enabled (systemd.mount(5)), known by their names alone.
"""

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

from kdump_initramfs.config import PathTarget, Target
from kdump_initramfs.errors import HostError, raise_together
from kdump_initramfs.formats import plaintext
from kdump_initramfs.host import fstab, mounts
from kdump_initramfs.host.root import Root

# Where units are enabled by an administrator, and by generators (of GPT partitions, for one); none of those that
# systemd brings along holds dumps.
_UNITS = ("/etc/systemd/system", "/run/systemd/system", "/run/systemd/generator", "/run/systemd/generator.late")
_UNIT = re.compile(r"(?P<name>.+)\.(auto)?mount\Z", re.DOTALL)


class Expected(Struct, frozen=True):
    mount_point: str
    # Where it is written.
    by: str


def check(root: Root, mounted: tuple[mounts.Mount, ...], resolved: str, *, on_demand: bool = False) -> None:
    """Raise while a file system that should hold `resolved` (symbolic links resolved) is not mounted.

    `on_demand`: those that /etc/fstab mounts when somebody asks for it (noauto) count, too.
    """
    found = mounts.holder(mounted, resolved)
    depth = len(found.mount_point.rstrip("/")) if found else 0
    places = {mount.mount_point for mount in mounted}
    missing = [
        each
        for each in _all(root, places, on_demand=on_demand)
        if len(each.mount_point.rstrip("/")) > depth and mounts.covers(each.mount_point, resolved)
    ]
    if missing:
        # What is nearest to the root must be mounted first.
        first = min(missing, key=lambda each: len(each.mount_point))
        raise HostError(
            f"{first.mount_point}: is not mounted, though {first.by} has it and a dump target is on it",
            hint=f"mount {first.mount_point}",
        )


def check_targets(root: Root, targets: Sequence[Target], *, on_demand: bool = False) -> None:
    """Raise for all targets together; nothing where the root does not tell its mounts."""
    if not mounts.are_known(root):
        return
    mounted, errors = mounts.read(root), []
    for target in targets:
        if isinstance(target, PathTarget):
            try:
                check(root, mounted, root.resolve(target.path), on_demand=on_demand)
            except HostError as error:
                errors.append(error)
    raise_together(errors)


def check_units(root: Root, name: str, place: str, mount_point: str) -> None:
    """Raise where a unit of a root that is not running mounts something between `mount_point` of fstab and `place`."""
    for unit in _enabled_units(root):
        found = _mount_point(unit)
        if len(found.rstrip("/")) > len(mount_point) and mounts.covers(found, place):
            raise HostError(
                f"{name}: on {found}, which the unit {unit} mounts and /etc/fstab does not list",
                hint=f"write {found} into /etc/fstab instead, or give the --facts of the machine",
            )


def _all(root: Root, places: set[str], *, on_demand: bool) -> Iterator[Expected]:
    for entry in fstab.read(root):
        if entry.mount_point and (on_demand or _is_mounted_at_boot(entry)):
            yield Expected(_resolved(root, places, entry.mount_point), "/etc/fstab")
    for unit in _enabled_units(root):
        yield Expected(_resolved(root, places, _mount_point(unit)), f"the unit {unit}")


def _is_mounted_at_boot(entry: fstab.Entry) -> bool:
    """Whether it is there once the machine is up: noauto says no, unless systemd mounts it as soon as it is used."""
    return "noauto" not in entry.options or "x-systemd.automount" in entry.options


def _resolved(root: Root, places: set[str], mount_point: str) -> str:
    """Return where it is mounted; what is mounted there already need not be asked, and may not answer."""
    if mount_point in places:
        return mount_point
    try:
        return root.resolve(mount_point)
    except HostError:  # a loop of links, at which nothing can be mounted
        return mount_point


def _enabled_units(root: Root) -> Iterator[str]:
    for directory in _UNITS:
        for name in root.list(directory):
            if name.endswith((".wants", ".requires")):
                yield from (unit for unit in root.list(f"{directory}/{name}") if _UNIT.match(unit))


def _mount_point(unit: str) -> str:
    r"""Return the path in the name of a mount unit (systemd.unit(5)): "-" is a slash, \xHH another byte."""
    match = _UNIT.match(unit)
    name = match["name"].replace("-", "/") if match else ""
    return "/" + plaintext.from_hex(name).strip("/")
