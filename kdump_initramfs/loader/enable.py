"""Has this machine armed at boot and follow its kernels: puts the files of contrib/ where its frameworks run them.

All of it is done by files and links, so that it can be done in a chroot or below --root. What is ours is known by its
last line; a file that is another's is never touched.
"""

import logging
import os
from collections.abc import Iterator

from kdump_initramfs import durable, resources
from kdump_initramfs.config import MAIN_FILE, SITE_DROPINS
from kdump_initramfs.errors import HostError, KdumpError, raise_together
from kdump_initramfs.host import tools
from kdump_initramfs.host.root import Root
from kdump_initramfs.loader.pieces import KERNEL_HOOKS, NAME, OPENRC, SYSTEMD, SYSV, InitSystem, Piece

logger = logging.getLogger(__name__)

_MARK = "# Written by `kdump-initramfs enable`, which writes it anew; `kdump-initramfs disable` removes it.\n"
_LOCAL_D = "/etc/local.d/kdump.start"


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
    """Whether something arms the machine at boot: a link of ours, or OpenRC's local service."""
    return root.exists(_LOCAL_D) or any(True for _ in _links(root))


def _links(root: Root) -> Iterator[str]:
    """Yield the links by which an init system runs our file, whoever made them."""
    for directory in ("/etc/systemd/system", "/usr/lib/systemd/system"):
        wants = (name for name in root.list(directory) if name.endswith(".wants"))
        yield from (f"{directory}/{name}/{NAME}.service" for name in wants if _is_in(root, f"{directory}/{name}"))
    for runlevel in root.list("/etc/runlevels"):
        if NAME in root.list(f"/etc/runlevels/{runlevel}"):
            yield f"/etc/runlevels/{runlevel}/{NAME}"
    for level in (name for name in root.list("/etc") if name.startswith("rc") and name.endswith(".d")):
        yield from (f"/etc/{level}/{name}" for name in root.list(f"/etc/{level}") if name[3:] == NAME)


def _is_in(root: Root, directory: str) -> bool:
    return f"{NAME}.service" in root.list(directory)


# --- enable ------------------------------------------------------------------------------------------------------


def enable(root: Root) -> list[str]:
    """Install what fits the machine, and return the paths that were written; what is in the way is raised before."""
    init = init_system(root)
    pieces = [init.piece, *_kernel_hooks(root)]
    problems = [*_check_program(root), *(problem for each in pieces for problem in _check(root, each))]
    raise_together([*problems, *_check_link(root, init.link)])
    try:
        written = [each.path for each in pieces if _write(root, each)]
        if not any(True for _ in _links(root)):
            _link(root, _installed(root, init.piece), init.link)
            written.append(init.link)
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}", hint="run as root") from error
    return written


def _kernel_hooks(root: Root) -> list[Piece]:
    return [each for each in KERNEL_HOOKS if any(root.is_dir(directory) for directory in each.frameworks)]


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
        for link in list(_links(root)):
            if link.startswith("/etc/") and os.path.islink(_place(root, link)):
                os.unlink(_place(root, link))
                removed.append(link)
        for path in dict.fromkeys(each.path for each in _all_pieces()):
            removed += _remove(root, path)
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}", hint="run as root") from error
    return removed


def _all_pieces() -> tuple[Piece, ...]:
    return (*(init.piece for init in (SYSTEMD, OPENRC, SYSV)), *KERNEL_HOOKS)


def _remove(root: Root, path: str) -> Iterator[str]:
    place = _place(root, path)
    if not os.path.lexists(place):
        return
    if os.path.islink(place) or not (root.read_text(path) or "").endswith(_MARK):
        logger.info("%s: was not written by us, and is left there", path)
        return
    os.unlink(place)
    yield path
