"""What the binary of a makedumpfile tells: its version, and which pages of newer kernels it takes for user data."""

import re

from msgspec import Struct

from kdump_initramfs.formats.release import version

# print_info.c, show_version(): "makedumpfile: version 1.7.2 (released on 20 Oct 2022)"; "++" is what follows a release.
_VERSION = re.compile(rb"makedumpfile: version ([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})(\+*)")

# makedumpfile(8), -d: leaves out all that it can tell to be no use; and the bit that leaves out user data.
ALL = 31
USER_DATA = 8


class Fix(Struct, frozen=True):
    """A change of the kernel's struct page, without which bit 8 leaves out pages of the kernel itself."""

    # The first kernel that has it, and the first release of makedumpfile that follows it.
    kernel: tuple[int, int]
    makedumpfile: tuple[int, int, int]
    # The VMCOREINFO entry that the fix reads: a backport of it has the same string.
    word: bytes
    # What is lost.
    pages: str


# makedumpfile bad2a7c4fa75 for Linux 46df8e73a4a3 ("mm: free up PG_slab"), and f50c015f150f (behind 1.7.9) for Linux
# d50569612c29 ("mm: rename the 'compound_head' field in the 'struct page' to 'compound_info'").
FIXES = (
    Fix((6, 10), (1, 7, 6), b"NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)=", "slab pages"),
    Fix((7, 1), (1, 8, 0), b"OFFSET(page.compound_info)=", "tails of compound pages"),
)


def parse(binary: bytes) -> tuple[int, int, int] | None:
    """Return the version that the binary of makedumpfile names, or None."""
    match = _VERSION.search(binary)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def blind_from(binary: bytes) -> str:
    """Return the first kernel ("6.10") whose pages this makedumpfile mistakes for user data; "" if none.

    A fix counts only if the version or the strings of the binary show it.
    """
    found = parse(binary) or (0, 0, 0)
    missing = [fix.kernel for fix in FIXES if found < fix.makedumpfile and fix.word not in binary]
    return "{}.{}".format(*min(missing)) if missing else ""


def lost_pages(blind: str, release: str) -> str:
    """Return which pages of that kernel bit 8 would leave out wrongly, "" if none, with what `blind_from` said.

    A release that names no version may be that of any kernel.
    """
    kernel = version(release)
    if not blind or (0, 0) < kernel < version(blind):
        return ""
    concerned = [fix.pages for fix in FIXES if version(blind) <= fix.kernel and not (0, 0) < kernel < fix.kernel]
    return " and ".join(concerned)


def safe_level(wanted: int | str, lost: str) -> int:
    """Return the dump level that is configured; "auto" leaves out all that can be left out without loss."""
    if isinstance(wanted, int):
        return wanted
    return ALL & ~USER_DATA if lost else ALL


def loses_pages(level: int, lost: str) -> bool:
    """Whether dumps of that level lack pages that readers of them cannot do without."""
    return bool(lost) and bool(level & USER_DATA)
