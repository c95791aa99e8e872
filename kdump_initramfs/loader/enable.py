"""Has this machine armed at boot and follow its changes: puts the files of contrib/ where its frameworks run them.

All of it is done by files and links, so that it can be done in a chroot or below --root. What is ours is known by its
last line; a file that is another's is never touched.
"""

import logging
import os
from collections.abc import Iterator
from itertools import chain

from kdump_initramfs import durable, resources
from kdump_initramfs.config import MAIN_FILE, SITE_DROPINS
from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.host import tools
from kdump_initramfs.host.root import Root
from kdump_initramfs.loader.pieces import FOLLOWERS, NAME, OPENRC, SYSTEMD, SYSV, InitSystem, Piece

logger = logging.getLogger(__name__)

_MARK = "# Written by `kdump-initramfs enable`, which writes it anew; `kdump-initramfs disable` removes it.\n"
_LOCAL_D = "/etc/local.d/kdump.start"
# Name of the services that `emit` prints, as docs/ARMING.md has them installed.
_EMITTED = "kdump"


def init_system(root: Root) -> InitSystem:
    """Return the init system that runs at `root`, or that would; HostError where it is none that we know."""
    if root.is_dir("/run/systemd/system"):  # sd_booted(3)
        return SYSTEMD
    has_openrc = any(root.is_file(f"{place}/openrc-run") for place in ("/sbin", "/usr/sbin", "/usr/bin"))
    if not root.resolve("/sbin/init").endswith("/systemd"):
        if has_openrc and root.is_dir("/etc/runlevels/boot"):
            return OPENRC
        if root.is_dir("/etc/init.d") and root.is_dir("/etc/rcS.d") and not _has_systemd(root):
            return SYSV
    if _has_systemd(root):
        return SYSTEMD
    raise HostError(
        f"{root.directory}: neither systemd nor OpenRC nor sysvinit is there",
        hint="have what runs at boot call `kdump-initramfs load --rebuild`, or what `kdump-initramfs emit sh` prints",
    )


def _has_systemd(root: Root) -> bool:
    return root.is_file("/usr/lib/systemd/systemd") or root.is_file("/lib/systemd/systemd")


def is_wanted(root: Root) -> bool:
    """Whether the machine is to be armed at all: it is at boot, or there is a configuration of the administrator."""
    return is_enabled(root) or root.is_file(MAIN_FILE) or any(root.list(SITE_DROPINS))


def is_enabled(root: Root) -> bool:
    """Whether something arms the machine at boot."""
    return at_boot(root) != ""


def at_boot(root: Root) -> str:
    """Return the path by which something arms the machine at boot, "" if nothing does.

    It is a link to a file of ours, OpenRC's local service, or what `emit` printed, under the name that it proposes.
    """
    local = (path for path in (_LOCAL_D,) if root.exists(path))
    emitted = (path for path in _links(root, _EMITTED) if "kdump-initramfs emit" in (root.read_text(path) or ""))
    return next(chain(_links(root, NAME), local, emitted), "")


def _links(root: Root, service: str) -> Iterator[str]:
    """Yield the links by which an init system runs a service, whoever made them."""
    for directory in ("/etc/systemd/system", "/usr/lib/systemd/system"):
        wants = (f"{directory}/{name}" for name in root.list(directory) if name.endswith(".wants"))
        yield from (f"{name}/{service}.service" for name in wants if f"{service}.service" in root.list(name))
    for runlevel in root.list("/etc/runlevels"):
        if service in root.list(f"/etc/runlevels/{runlevel}"):
            yield f"/etc/runlevels/{runlevel}/{service}"
    for level in (name for name in root.list("/etc") if name.startswith("rc") and name.endswith(".d")):
        yield from (f"/etc/{level}/{name}" for name in root.list(f"/etc/{level}") if name[3:] == service)


# --- enable ------------------------------------------------------------------------------------------------------


def enable(root: Root) -> list[str]:
    """Install what fits the machine, and return the paths that were written; what is in the way is raised before."""
    init = init_system(root)
    pieces = [init.piece, *_followers(root)]
    problems = [*_check_program(root), *(problem for each in pieces for problem in _check(root, each))]
    raise_together([*problems, *_check_link(root, init.link)])
    try:
        written = [each.path for each in pieces if _write(root, each)]
        if not any(True for _ in _links(root, NAME)):
            _link(root, _installed(root, init.piece), init.link)
            written.append(init.link)
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}", hint="run as root") from error
    return written


def _followers(root: Root) -> list[Piece]:
    return [each for each in FOLLOWERS if any(root.is_dir(directory) for directory in each.frameworks)]


def _check_program(root: Root) -> Iterator[KdumpError]:
    """Yield an error where those that run us at boot would not find the program."""
    if not tools.find(root, NAME):
        yield HostError(
            f"{NAME}: is in none of {', '.join(tools.DIRECTORIES)}",
            hint=f"install it there, or make a link: ln -s /path/to/{NAME} /usr/local/sbin/",
        )


def _check(root: Root, piece: Piece) -> Iterator[KdumpError]:
    place = _place(root, piece.path)
    if os.path.islink(place) and os.path.realpath(place) == os.devnull:
        yield HostError(f"{piece.path}: is masked", hint=f"unmask it: rm {piece.path}")
    elif os.path.lexists(place) and not _is_ours(root, piece) and not _is_packaged(root, piece):
        yield HostError(f"{piece.path}: is there, and not written by us", hint=f"move it away: mv {piece.path} /root/")


def _check_link(root: Root, link: str) -> Iterator[KdumpError]:
    place = _place(root, link)
    if os.path.lexists(place) and not os.path.islink(place):
        yield HostError(f"{link}: is there, and no link of ours", hint=f"move it away: mv {link} /root/")


def _place(root: Root, path: str) -> str:
    """Return where a path is on this machine; its last part may be a link, and is not followed."""
    directory, name = os.path.split(path)
    return os.path.join(root.host(directory), name)


def _content(piece: Piece) -> str:
    return resources.read("contrib", piece.source)


def _is_ours(root: Root, piece: Piece) -> bool:
    place = _place(root, piece.path)
    return not os.path.islink(place) and (root.read_text(piece.path) or "").endswith(_MARK)


def _is_packaged(root: Root, piece: Piece) -> bool:
    """Whether a package has installed the file, at its own place or at ours."""
    return any(root.is_file(path) for path in piece.packaged) or root.read_text(piece.path) == _content(piece)


def _installed(root: Root, piece: Piece) -> str:
    """Return where the file is: a packaged one counts where we have written none."""
    packaged = (path for path in piece.packaged if root.is_file(path))
    return piece.path if _is_ours(root, piece) else next(packaged, piece.path)


def _write(root: Root, piece: Piece) -> bool:
    """Write one file, unless it is there, and tell whether it was written."""
    text = _content(piece) + _MARK
    if _is_packaged(root, piece) and not _is_ours(root, piece):
        logger.debug("%s: was installed by a package", _installed(root, piece))
        return False
    place = _place(root, piece.path)
    if root.read_text(piece.path) == text and os.stat(place).st_mode & 0o777 == piece.mode:
        return False
    os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
    partial = f"{place}.partial"
    with open(partial, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fchmod(stream.fileno(), piece.mode)
        os.fsync(stream.fileno())
    os.rename(partial, place)
    durable.sync_directory(os.path.dirname(place))
    return True


def _link(root: Root, target: str, link: str) -> None:
    place = _place(root, link)
    os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
    if os.path.lexists(place):
        os.unlink(place)
    os.symlink(target, place)
    durable.sync_directory(os.path.dirname(place))


# --- disable -----------------------------------------------------------------------------------------------------


def disable(root: Root) -> list[str]:
    """Remove what is ours, for whatever init system, and return the paths that were removed."""
    removed: list[str] = []
    try:
        for link in list(_links(root, NAME)):
            if link.startswith("/etc/") and os.path.islink(_place(root, link)):
                os.unlink(_place(root, link))
                removed.append(link)
        for path in dict.fromkeys(each.path for each in _all_pieces()):
            removed += _remove(root, path)
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}", hint="run as root") from error
    return removed


def _all_pieces() -> tuple[Piece, ...]:
    return (*(init.piece for init in (SYSTEMD, OPENRC, SYSV)), *FOLLOWERS)


def _remove(root: Root, path: str) -> Iterator[str]:
    place = _place(root, path)
    if not os.path.lexists(place):
        return
    if os.path.islink(place) or not (root.read_text(path) or "").endswith(_MARK):
        logger.info("%s: was not written by us, and is left there", path)
        return
    os.unlink(place)
    yield path
