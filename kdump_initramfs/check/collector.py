"""Whether this makedumpfile knows this kernel: by the version in its binary, and what is known of that version."""

from collections.abc import Iterator

from kdump_initramfs.check.finding import Finding, State
from kdump_initramfs.formats import makedumpfile
from kdump_initramfs.formats.release import version
from kdump_initramfs.host.root import Root

parse = makedumpfile.parse

# The newest kernel that a version takes without the words "The kernel version is not supported" (LATEST_VERSION of
# makedumpfile.h): 1.6.8 by issue 5 of makedumpfile/makedumpfile, 1.7.0 by issue 7, 1.7.2 as measured (6.1 is refused),
# 1.7.6 by sonic-net/sonic-buildimage#25890 (6.12 is refused), 1.7.8 by issue 20, 1.7.9 by its source.
_NEWEST = {
    (1, 6, 8): (5, 9),
    (1, 7, 0): (5, 15),
    (1, 7, 2): (6, 0),
    (1, 7, 6): (6, 11),
    (1, 7, 8): (6, 17),
    (1, 7, 9): (7, 0),
}
_WHY = (
    "makedumpfile goes on with a kernel that it does not know, and ends well: the dump may lack pages, or have those "
    "that should be left out (6.12 with 1.7.6); a plain copy follows where it fails"
)


def knows(found: tuple[int, int, int], kernel: tuple[int, int]) -> bool | None:
    """Whether this version accepts that kernel; None where it is of a version that nothing is known of."""
    limits = [limit for number, limit in _NEWEST.items() if number <= found]
    if limits and kernel <= max(limits):
        return True
    later = [limit for number, limit in _NEWEST.items() if number >= found]
    if later and kernel > min(later):
        return False
    return None


def findings(root: Root, path: str, wanted: str, release: str) -> Iterator[Finding]:
    """Yield what is to be said of makedumpfile at `path` ("" if there is none), for vmcore.collector `wanted`."""
    if wanted in ("copy", "dmesg"):
        seen = f'not used: vmcore.collector is "{wanted}"'
        yield Finding(name="makedumpfile", state=State.OK, seen=seen, why=_LARGE)
        return
    if not path:
        yield Finding(
            name="makedumpfile",
            state=State.WEAK if wanted == "auto" else State.BROKEN,
            seen="no such program",
            why=_LARGE,
            remedy="install makedumpfile",
        )
        return
    yield _support(path, parse(root.read_bytes(path) or b""), release)


def dump_level(root: Root, path: str, wanted: int | str, release: str) -> int:
    """Return the dump level that an image for this kernel has."""
    return makedumpfile.safe_level(wanted, _lost(root, path, release))


def _lost(root: Root, path: str, release: str) -> str:
    """Return which pages of the kernel makedumpfile at `path` takes for user data."""
    return makedumpfile.lost_pages(makedumpfile.blind_from(root.read_bytes(path) or b""), release) if path else ""


def level_findings(root: Root, path: str, wanted: int | str, release: str) -> Iterator[Finding]:
    """Yield what is to be said of vmcore.dump_level, `wanted`, where makedumpfile at `path` makes the dump."""
    lost = _lost(root, path, release)
    level = makedumpfile.safe_level(wanted, lost)
    why = (
        "bit 8 leaves out user data, and what makedumpfile takes for it; a dump without pages of the kernel itself is "
        "saved as complete, and crash(8) cannot read it (page excluded)"
    )
    if makedumpfile.loses_pages(level, lost):
        yield Finding(
            name="vmcore.dump_level",
            state=State.BROKEN,
            seen=f"{level}, with which {path} leaves out {lost} of kernel {release}",
            why=why,
            remedy=f'set it to "auto" or {level & ~makedumpfile.USER_DATA}, or install a newer makedumpfile',
        )
        return
    kept = f", since {path} takes {lost} of kernel {release} for user data: user data is kept" if lost else ""
    yield Finding(
        name="vmcore.dump_level",
        state=State.WEAK if kept and wanted == "auto" else State.OK,
        seen=f"{level}{kept}" if wanted == "auto" else str(level),
        why=why,
        remedy="install a newer makedumpfile; until then the dump takes more room" if kept and wanted == "auto" else "",
    )


_LARGE = "a plain copy takes as much space and time as the machine has memory; makedumpfile leaves out what is no use"


def _support(path: str, found: tuple[int, int, int] | None, release: str) -> Finding:
    known = knows(found, version(release)) if found else None
    number = ".".join(map(str, found)) if found else "of unknown version"
    seen = {True: "knows", False: "does not know", None: "may or may not know"}[known]
    return Finding(
        name="makedumpfile",
        state={True: State.OK, False: State.WEAK, None: State.UNKNOWN}[known],
        seen=f"{path} {number} {seen} kernel {release}",
        why=_WHY,
        remedy=""
        if known
        else "install a makedumpfile that is newer than the kernel, or prove the dump: kdump-initramfs rehearse",
    )
