"""Real kernels for tests: a directory of roots named by release, each with lib/modules as its package unpacks it."""

import os
import tempfile

import pytest

from kdump_initramfs.formats import kernel_image, kernel_payload

VARIABLE = "KDUMP_TEST_KERNELS"
# What tests/fetch-foreign-kernels has made: a directory for each architecture, by Debian's name.
FOREIGN_VARIABLE = "KDUMP_TEST_FOREIGN_KERNELS"

# What a kernel need not do in a guest under software emulation: test its algorithms (0.4 s of 2.5 until its init),
# guard itself against its processes, and clear all memory that it gives out. And on a busy machine the emulated timer
# may come too late for the kernel to believe in it.
FRUGAL = "no_timer_check cryptomgr.notests mitigations=off init_on_alloc=0"


def roots_directory() -> str:
    """Return the directory of the roots, or skip the test."""
    directory = os.environ.get(VARIABLE, "")
    if not os.path.isdir(directory):
        pytest.skip(f"{VARIABLE} names no directory of unpacked kernels")
    return directory


def roots() -> dict[str, str]:
    """Return the roots by release, or skip the test."""
    directory = roots_directory()
    found = {release: os.path.join(directory, release) for release in sorted(os.listdir(directory))}
    return {release: root for release, root in found.items() if os.path.isdir(f"{root}/lib/modules/{release}")}


def foreign(architecture: str) -> tuple[str, str]:
    """Return path and release of a kernel of another architecture, or skip the test."""
    place = os.path.join(os.environ.get(FOREIGN_VARIABLE, ""), architecture)
    if not os.path.isfile(f"{place}/kernel"):
        pytest.skip(f"{FOREIGN_VARIABLE} has no kernel of {architecture}; Debian's archive may not have it now")
    with open(f"{place}/release", encoding="ascii") as stream:
        return f"{place}/kernel", stream.read().strip()


def unpacked(packed: str, directory: str) -> str:
    """Return the kernel inside of a kernel image, unpacked in a directory where it stays; itself, if we cannot.

    Under software emulation a kernel takes longer to unpack itself than to start. QEMU boots a vmlinux by its PVH entry
    (CONFIG_PVH), which knows no KASLR.
    """
    place = os.path.join(directory, os.path.basename(packed).replace("vmlinuz", "vmlinux"))
    if not os.path.exists(place):
        os.makedirs(directory, exist_ok=True)
        with open(packed, "rb") as stream, tempfile.NamedTemporaryFile(dir=directory, delete=False) as output:
            output.writelines(kernel_payload.contents(stream, kernel_image.read(stream, packed), packed))
        os.rename(output.name, place)
    return place if os.path.getsize(place) else packed
