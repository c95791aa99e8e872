"""Real kernels for tests: a directory of roots named by release, each with lib/modules as its package unpacks it."""

import os

import pytest

VARIABLE = "KDUMP_TEST_KERNELS"
# What tests/fetch-foreign-kernels has made: a directory for each architecture, by Debian's name.
FOREIGN_VARIABLE = "KDUMP_TEST_FOREIGN_KERNELS"


def roots() -> dict[str, str]:
    """Return the roots by release, or skip the test."""
    place = os.environ.get(VARIABLE, "")
    if not os.path.isdir(place):
        pytest.skip(f"{VARIABLE} names no directory of unpacked kernels")
    found = {release: os.path.join(place, release) for release in sorted(os.listdir(place))}
    return {release: root for release, root in found.items() if os.path.isdir(f"{root}/lib/modules/{release}")}


def foreign(architecture: str) -> tuple[str, str]:
    """Return path and release of a kernel of another architecture, or skip the test."""
    place = os.path.join(os.environ.get(FOREIGN_VARIABLE, ""), architecture)
    if not os.path.isfile(f"{place}/kernel"):
        pytest.skip(f"{FOREIGN_VARIABLE} has no kernel of {architecture}; Debian's archive may not have it now")
    with open(f"{place}/release", encoding="ascii") as stream:
        return f"{place}/kernel", stream.read().strip()
