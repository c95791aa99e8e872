"""Where files go in the image: the paths of the host, with its symbolic links between directories made again.

Programs and libraries find each other by path, so they keep theirs. On a merged /usr that means that /lib is a link
in the image as well.
"""

import os
from collections.abc import Iterable

from msgspec.structs import replace

from kdump_initramfs.errors import ImageError, KdumpError, raise_together
from kdump_initramfs.host.root import Root
from kdump_initramfs.model import Dir, Entry, Link


def arrange(root: Root, entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return the entries at their canonical paths, with every directory and link above them, sorted by path.

    Two different entries on one path are an error.
    """
    placed: dict[str, Entry] = {}
    errors: list[KdumpError] = []
    for entry in entries:
        path, links = canonical(root, entry.path)
        for one in (*links, replace(entry, path=path)):
            known = placed.setdefault(one.path, one)
            if not _same(known, one):
                hint = (
                    f"the first is there for: {known.reason or 'the base'}; the other for: {one.reason or 'the base'}"
                )
                errors.append(ImageError(f"{one.path}: two different files for one path", hint=hint))
    raise_together(errors)
    for path in list(placed):
        for parent in _parents(path):
            placed.setdefault(parent, Dir(path=parent))
    return tuple(placed[path] for path in sorted(placed, key=lambda path: path.split("/")))


def canonical(root: Root, path: str) -> tuple[str, tuple[Link, ...]]:
    """Return `path` with the links among its parents (not itself) resolved as in `root`, and these links."""
    links: list[Link] = []
    done = ""
    rest = [part for part in reversed(os.path.dirname(path).split("/")) if part]
    while rest:
        part = rest.pop()
        if part == "..":
            done = os.path.dirname(done).rstrip("/")
            continue
        here = f"{done}/{part}"
        if not os.path.islink(_below(root, here)):
            done = here
            continue
        root.resolve(here)  # raises where links go round in circles
        target = os.readlink(_below(root, here))
        links.append(Link(path=here, target=target, reason="as on the host"))
        # A link may lead through further links, which the image needs as well.
        rest.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
        done = "" if target.startswith("/") else done
    return f"{done}/{os.path.basename(path)}", tuple(links)


def _below(root: Root, path: str) -> str:
    return path if root.directory == "/" else root.directory + path


def _same(one: Entry, other: Entry) -> bool:
    return replace(one, reason="") == replace(other, reason="")


def _parents(path: str) -> list[str]:
    parts = path.split("/")[1:-1]
    return ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))]
