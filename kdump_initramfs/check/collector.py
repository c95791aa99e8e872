"""Whether this makedumpfile knows this kernel: by the version in its binary, and what is known of that version."""

import re
from collections.abc import Iterator

from kdump_initramfs.check.finding import Finding, State
from kdump_initramfs.host.root import Root
from kdump_initramfs.loader.sizing import version

# print_info.c, show_version(): "makedumpfile: version 1.7.2 (released on 20 Oct 2022)"; "++" is what follows a release.
_VERSION = re.compile(rb"makedumpfile: version ([0-9]+)\.([0-9]+)\.([0-9]+)(\+*)")

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


def parse(binary: bytes) -> tuple[int, int, int] | None:
    """Return the version that the binary of makedumpfile names, or None."""
    match = _VERSION.search(binary)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


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
    found = parse(root.read_bytes(path) or b"")
    yield _support(path, found, release)


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
