"""Mounts: /proc/self/mountinfo, format in proc(5)."""

from msgspec import Struct

from kdump_initramfs.errors import HostError
from kdump_initramfs.formats import plaintext
from kdump_initramfs.host.root import Root

_MOUNTINFO = "/proc/self/mountinfo"


class Mount(Struct, frozen=True, kw_only=True):
    # Of this mount, and of the one that it stands in.
    id: str
    parent: str
    # "major:minor" of the file system; 0:N where no single block device carries it.
    number: str
    # Directory of the file system that is the root of this mount ("/", a subvolume, a bind mount's directory).
    fs_root: str
    mount_point: str
    fs_type: str
    # Device, export or keyword, as the file system was mounted.
    source: str
    # Options of the mount and of the file system.
    options: tuple[str, ...]


def parse(text: str) -> tuple[Mount, ...]:
    """Return the mounts in the order of mounting; lines that are not of the format are left out."""
    return tuple(mount for line in text.split("\n") if (mount := _parse_line(line)) is not None)


def _parse_line(line: str) -> Mount | None:
    left, separator, right = line.partition(" - ")
    before, after = left.split(" "), right.split(" ")
    if not separator or len(before) < 6 or len(after) < 3:
        return None
    return Mount(
        id=before[0],
        parent=before[1],
        number=before[2],
        fs_root=plaintext.from_octal(before[3]),
        mount_point=plaintext.from_octal(before[4]),
        fs_type=after[0],
        source=plaintext.from_octal(after[1]),
        options=(*before[5].split(","), *after[2].split(",")),
    )


def covers(directory: str, path: str) -> bool:
    """Whether `path` is `directory`, or below it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def holder(mounts: tuple[Mount, ...], path: str) -> Mount | None:
    """Return the mount that holds `path` (absolute, symbolic links resolved): the longest, of equals the last."""
    found: Mount | None = None
    for mount in mounts:
        inside = covers(mount.mount_point, path)
        if inside and (found is None or len(mount.mount_point) >= len(found.mount_point)):
            found = mount
    return found


def hidden_by(mounts: tuple[Mount, ...], mount: Mount) -> Mount | None:
    """Return the mount that was made above `mount` later, and hides it; None where it can be reached."""
    later = mounts[mounts.index(mount) + 1 :]
    ancestors = _ancestors(mounts, mount)
    above = (each for each in later if mount.mount_point.startswith(each.mount_point.rstrip("/") + "/"))
    return next((each for each in above if each.mount_point != mount.mount_point and each.id not in ancestors), None)


def _ancestors(mounts: tuple[Mount, ...], mount: Mount) -> set[str]:
    parents = {each.id: each.parent for each in mounts}
    found: set[str] = set()
    number = mount.parent
    while number in parents and number not in found:
        found.add(number)
        number = parents[number]
    return found


def directory_inside(mount: Mount, path: str) -> str:
    """Return where `path` lies below the root of the file system itself, without a leading slash."""
    below = path[len(mount.mount_point.rstrip("/")) :]
    return "/".join(part for part in (mount.fs_root.strip("/"), below.strip("/")) if part)


def are_known(root: Root) -> bool:
    """Whether the machine at `root` is running, as far as it tells its mounts.

    In a chroot into a plain directory nothing is mounted at /, and what holds the rest cannot be seen.
    """
    return holder(parse(root.read_text(_MOUNTINFO) or ""), "/") is not None


def read(root: Root) -> tuple[Mount, ...]:
    """Return the mounts of the machine at `root`; raise HostError where it does not tell them."""
    text = root.read_text(_MOUNTINFO)
    if not text:
        raise HostError(
            f"{root.directory}: has no /proc/self/mountinfo, so what holds the dump target cannot be seen",
            hint="mount /proc there, give the facts of the machine with --facts (from `probe --json` on it), or build "
            "for any machine with --set image.mode=generic",
        )
    return parse(text)
